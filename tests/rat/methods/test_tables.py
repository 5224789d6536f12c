"""What each method's items are before training, and which of their parameters are trained."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from llmemb.rat.alignment import CollaborativeAlignment
from llmemb.rat.config import READS, RatConfig
from llmemb.rat.methods import METHODS
from llmemb.rat.model import make_model
from llmemb.rat.scaling import Scaler
from tests.rat.methods.conftest import make_inputs


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, _ in model.table.named_parameters()}  # type: ignore[union-attr]


def test_every_method_of_the_config_is_one_that_exists():
    names = set(RatConfig.model_fields["method"].annotation.__args__)  # type: ignore[union-attr]
    assert set(METHODS) == set(READS) == names
    assert {name for name in names if METHODS[name].learn_vectors} == {
        name for name in names if "item_vectors" in READS[name]
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_on_every_backbone(method, backbone):
    model = make_model(make_inputs(method, backbone=backbone)).eval()
    assert model.item_embeddings().shape == (6, 4)
    with torch.inference_mode():
        table = model.final_table()
    torch.testing.assert_close(table.embeddings, model.item_embeddings())
    assert torch.isfinite(table.embeddings).all()
    assert (model.content is not None) is (method in ("llmemb", "text_sum"))
    assert (table.content is None) is (model.content is None)  # an epoch is validated with it


def test_llm2x_starts_at_the_principal_components_and_trains_them():
    inputs = make_inputs("llm2x", llm2x={"start_length": 2.0})
    model = make_model(inputs)
    table = model.table().detach()
    expected = PCA(4).fit_transform(Scaler.fit(inputs.embeddings, "standardise").table(inputs.embeddings).numpy())
    for column in range(4):  # the sign of a component is arbitrary
        assert abs(np.corrcoef(table[:, column], expected[:, column])[0, 1]) == pytest.approx(1.0, abs=1e-4)
    assert float(table.square().sum(1).mean().sqrt()) == pytest.approx(2.0, rel=1e-4)
    assert trained(model) == {"weight"}
    assert model.content is None  # the text is where it starts, and no more


def test_tslrec_starts_at_the_principal_components_of_its_standardised_vectors():
    inputs = make_inputs("tslrec", tslrec={"start_length": 2.0})
    vectors = inputs.item_vectors.double().numpy() * [1, 5, 25, 125]  # of unlike deviations
    table = make_model(replace(inputs, item_vectors=torch.from_numpy(vectors).float())).table().detach()
    expected = PCA(4).fit_transform((vectors - vectors.mean(0)) / vectors.std(0))
    expected *= 2.0 / np.sqrt(np.square(expected).sum(1).mean())
    np.testing.assert_allclose(np.abs(table), np.abs(expected), rtol=0, atol=1e-4)  # a component's sign is arbitrary


def test_llmemb_without_adapter_is_a_frozen_pca():
    inputs = make_inputs("llmemb", adapter={"kind": "pca", "add_ids": False})
    model = make_model(inputs)
    assert trained(model) == set()
    linear = make_model(make_inputs("llmemb", adapter={"kind": "linear", "add_ids": False}))
    torch.testing.assert_close(model.table().abs(), linear.table().detach().abs())


@pytest.mark.parametrize(
    "adapter", [{"scaling": "none"}, {"kind": "paper"}, {"start": "random"}, {"freeze_embeddings": False}]
)
def test_items_without_an_embedding_start_at_zero_whatever_the_adapter(adapter):
    inputs = replace(make_inputs("llmemb", adapter=adapter), missing=torch.tensor([2, 5]))
    table = make_model(inputs).table()
    assert (table[[2, 5]] == 0).all()
    assert (table[[0, 1, 3, 4]].norm(dim=1) > 0).all()


def test_llmemb_with_an_unfrozen_table_trains_it_from_the_embeddings():
    frozen = make_model(make_inputs("llmemb"))
    unfrozen = make_model(make_inputs("llmemb", adapter={"freeze_embeddings": False}))
    torch.testing.assert_close(unfrozen.table(), frozen.table())
    assert trained(unfrozen) - trained(frozen) == {"parts.0.embeddings.weight"}


def test_llmemb_is_aligned_unless_the_weight_is_zero():
    assert isinstance(make_model(make_inputs("llmemb")).auxiliary, CollaborativeAlignment)
    assert make_model(make_inputs("llmemb", alignment={"weight": 0.0})).auxiliary is None


def test_said_keeps_its_vectors_frozen_unless_asked():
    inputs = make_inputs("said")
    model = make_model(inputs)
    assert trained(model) == set()
    torch.testing.assert_close(model.table(), inputs.item_vectors)
    assert trained(make_model(make_inputs("said", said={"freeze": False}))) == {"weight"}


def test_text_sum_is_llmemb_with_ids_alone_in_its_items():
    """Whatever its items, an epoch is chosen by the same score: the difference of the two is that of their items."""
    alone, whole = make_model(make_inputs("text_sum")), make_model(make_inputs("llmemb"))
    assert trained(alone) == {"weight"}
    torch.testing.assert_close(alone.content, whole.content)
    assert alone.encoder.weights == whole.encoder.weights
    assert alone.encoder.weights.content_weight > 0


def test_no_method_with_content_has_id_vectors_of_items_that_nobody_had():
    for method, settings in (("text_sum", {}), ("llmemb", {"adapter": {"scaling": "none"}})):
        inputs = make_inputs(method, **settings)
        unknown = torch.from_numpy(inputs.dataset.popularity[1:] == 0)
        assert unknown.any()
        model = make_model(inputs)
        before = model.table()[unknown].detach().clone()
        loss = (model.table() - 1).square().sum()
        loss.backward()
        with torch.no_grad():
            for name, parameter in model.table.named_parameters():
                if "adapter" not in name:
                    parameter -= parameter.grad
        torch.testing.assert_close(model.table()[unknown], before)


def test_a_method_without_what_it_needs_is_refused():
    with pytest.raises(ValueError, match="method said needs prompt: expected how an item reads"):
        RatConfig.model_validate({"dataset": "d", "output": "o", "method": "said", "base_model": "b"})


OPTIONAL = {
    "embeddings": "/other",
    "max_missing_share": 0.5,
    "collaborative": "/other",
    "base_model": "/other",
    "prompt": {"attributes": ["brand"]},
    "item_vectors": "/other",
    "adapter": {"kind": "mlp"},
    "alignment": {"weight": 0.2},
    "llm2x": {"start_length": 0.7},
    "melt": {"item_weight": 0.7},
    "said": {"epochs": 7},
    "tslrec": {"epochs": 7},
    "fusion": {"content_decay": 0.7},
}
"""Another value of every key that some method does not read."""


@pytest.mark.parametrize(
    ("method", "read"),
    [
        ("none", set()),
        ("llmemb", {"embeddings", "adapter", "alignment", "collaborative", "fusion"}),
        ("llm2x", {"embeddings", "llm2x"}),
        ("melt", {"melt", "collaborative"}),
        ("said", {"said", "prompt", "base_model", "item_vectors"}),
        ("tslrec", {"tslrec", "base_model", "item_vectors", "collaborative"}),
        ("text_sum", {"embeddings", "fusion"}),
    ],
)
def test_what_a_method_does_not_read_is_no_part_of_what_it_makes(method, read):
    plain = make_inputs(method).config
    changed = {key: make_inputs(method, **{key: value}).config for key, value in OPTIONAL.items()}
    assert {key for key, config in changed.items() if config.identity() != plain.identity()} == read
    for key, config in changed.items():
        if key in {"embeddings", "collaborative", "item_vectors"}:
            assert getattr(config.only_read(), key) == ("/other" if key in read else None)
        assert config.only_read().identity() == config.identity()


def test_llmemb_without_alignment_starts_from_no_other_recommender():
    config = make_inputs("llmemb", alignment={"weight": 0.0}, collaborative="/ids").config
    assert not config.needs_collaborative
    assert config.only_read().collaborative is None
    assert "collaborative" not in config.identity()
    assert make_inputs("llmemb").config.needs_collaborative


@pytest.mark.parametrize(
    ("shares", "expected"), [([0.0, 0.1, 0.4], 0.1), ([0.4, 0.0, 0.1], 0.1), ([0.0, 1.0], 0.0), ([1.0], 0.0)]
)
def test_no_epoch_is_chosen_by_content_alone(shares, expected):
    weights = make_model(make_inputs("llmemb", fusion={"content_shares": shares})).encoder.weights
    assert weights.content_share == pytest.approx(expected)
    assert weights.content_weight == 4.0


def test_what_chose_the_epoch_counts_where_content_is_a_part_of_it():
    by_score = {"best_epoch_by": "score"}.items()
    for method in ("llmemb", "text_sum"):
        assert make_inputs(method).config.identity().items() >= by_score
    for inputs in (make_inputs("llmemb", fusion={"content": False}), make_inputs("llm2x"), make_inputs("none")):
        assert "best_epoch_by" not in inputs.config.identity()


@pytest.mark.parametrize("method", ["llmemb", "text_sum"])
def test_how_content_is_learnt_counts_where_any_is(method):
    others = [{"content": {"learning_rate": 0.5}}, {"content": {"epochs": 2}}, {"fusion": {"content_weights": [1.0]}}]

    def counted(content: dict[str, float], fusion: dict[str, Any]) -> list[bool]:
        def identity(of_content: Any = (), of_fusion: Any = ()) -> dict[str, Any]:
            settings = {"content": dict(of_content) | content, "fusion": dict(of_fusion) | fusion}
            return make_inputs(method, **settings, content_maps="/maps").config.only_read().identity()

        return [identity(each.get("content", ()), each.get("fusion", ())) != identity() for each in others]

    assert counted({}, {}) == [True, True, True]
    assert counted({"epochs": 0}, {}) == [False, False, True]
    assert counted({}, {"content": False}) == [False, False, False]
    for off in ({"content": {"epochs": 0}}, {"fusion": {"content": False}}):
        assert make_inputs(method, **off, content_maps="/maps").config.only_read().content_maps is None


def test_how_to_align_counts_where_anything_is_aligned():
    how = [{}, {"temperature": 0.5, "loss": "paper", "popularity_power": 1.0}]
    for weight, different in ((0.0, 1), (0.1, 2)):
        configs = [make_inputs("llmemb", alignment={"weight": weight} | each).config for each in how]
        for made in (configs, [config.only_read() for config in configs]):
            assert len({str(config.identity()) for config in made}) == different
