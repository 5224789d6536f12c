"""The whole job on a catalogue of twelve items, through Ray Train."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from llmemb import storage
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.metrics.ranking import rank_targets
from llmemb.rat import run
from llmemb.rat.config import RatConfig
from llmemb.rat.recommender import Recommender
from llmemb.rat.run import run_rat
from tests.rat.conftest import NUM_ITEMS, SMALL, config_for, prepare, publish, publish_second

SHARED_BLOCKS = """
from torch import nn

class Twice(nn.Module):
    def __init__(self, *, hidden_dim, **sizes):
        super().__init__()
        block = nn.Linear(hidden_dim, hidden_dim)
        nn.init.eye_(block.weight)
        self.blocks = nn.ModuleList([block] * 2)

    def forward(self, vectors, mask):
        for block in self.blocks:
            vectors = block(vectors)
        return vectors
"""


def test_a_finished_output_is_kept_and_another_config_is_refused(trained, capsys):
    before = storage.read_bytes(f"{trained.output}/metrics.json")
    run_rat(trained)
    assert "complete already" in capsys.readouterr().out
    assert storage.read_bytes(f"{trained.output}/metrics.json") == before
    with pytest.raises(InputError, match=r"belongs to another run \(config.seed: 0 there, 5 here\)"):
        run_rat(trained.model_copy(update={"seed": 5}))


def test_a_finished_output_of_another_format_is_of_no_use(trained, tmp_path):
    output = shutil.copytree(trained.output, tmp_path / "copy")
    info = storage.read_json(f"{output}/recommender.json")
    storage.write_json(f"{output}/recommender.json", info | {"format": 1})
    with pytest.raises(InputError, match="has format 1; expected 3: train it again"):
        run_rat(trained.model_copy(update={"output": str(output)}))


def test_method_none_is_the_id_only_recommender_of_any_config(trained, capsys):
    collaborative = f"{trained.output}/collaborative"
    run_rat(trained.model_copy(update={"method": "none", "output": collaborative}))
    assert f"{collaborative} is complete already" in capsys.readouterr().out


def test_nobody_opens_what_the_method_does_not_read(tmp_path):
    dataset = prepare(tmp_path, length=4, long_ones=4)
    config = config_for(dataset, method="melt", embeddings="/nowhere", output=str(tmp_path / "melt"))
    run_rat(config, here=True)
    assert Recommender.load(config.output).info["embeddings"] is None
    run_rat(config.model_copy(update={"embeddings": None}), here=True)  # the same, and complete


def test_data_that_melt_cannot_learn_from_is_refused_before_anything_is_trained(dataset, tmp_path):
    config = config_for(dataset, method="melt", output=str(tmp_path / "melt"))  # all users are as short
    with pytest.raises(InputError, match="method: melt learns from users with long histories"):
        run_rat(config, here=True, tell=lambda *told: pytest.fail("trained"))
    assert not list(tmp_path.iterdir())


def test_without_alignment_no_other_recommender_is_trained(dataset, embeddings, tmp_path):
    config = config_for(dataset, embeddings=embeddings, output=str(tmp_path / "out"), alignment={"weight": 0})
    run_rat(config, here=True)
    assert not (tmp_path / "out/collaborative").exists()
    assert Recommender.load(config.output).info["collaborative"] is None


def test_a_run_that_was_cut_off_goes_on_with_the_snapshot_that_it_began_with(dataset, tmp_path):
    root = publish(tmp_path / "root", dataset.item_ids, np.random.default_rng(0).normal(size=(NUM_ITEMS, 3)))
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"), alignment={"weight": 0})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "fit", None)  # killed as it begins
        with pytest.raises(TypeError):
            run_rat(config, here=True)
    publish_second(root)
    run_rat(config, here=True)
    assert Recommender.load(config.output).info["embeddings"] == "first"
    with pytest.raises(InputError, match="belongs to another run"):  # it is not what the newest one would give
        run_rat(config, here=True)


def test_what_is_refused_leaves_the_output_to_what_is_mended(dataset, trained, tiny_encoder, tmp_path):
    root = publish(tmp_path / "short", dataset.item_ids[:-1], np.random.default_rng(0).normal(size=(NUM_ITEMS - 1, 3)))
    values = np.random.default_rng(0).normal(size=(NUM_ITEMS, 3))
    wide = publish(tmp_path / "wide", dataset.item_ids, values)
    manifest = storage.read_json(f"{wide}/first/manifest.json")
    storage.write_json(f"{wide}/first/manifest.json", manifest | {"dimension": 5})
    values[4, 1] = np.nan
    readable = {"base_model": str(tiny_encoder), "prompt": {"attributes": ["title"]}}
    refused = [
        {"embeddings": root},
        {"embeddings": publish(tmp_path / "broken", dataset.item_ids, values)},
        {"embeddings": publish(tmp_path / "alike", dataset.item_ids, np.ones((NUM_ITEMS, 3)))},
        {"embeddings": wide},
        {"backbone": "torch.nn:Linear"},
        {"method": "said", "base_model": str(tiny_encoder), "prompt": {"attributes": ["tilte"]}},
        {"method": "said", **readable, "item_vectors": f"{trained.output}/item_embeddings"},
        {"method": "tslrec", "base_model": str(tmp_path / "short")},  # no model: found before an ID-only one is trained
        {
            "method": "tslrec",
            "base_model": str(tiny_encoder),
            "collaborative": f"{trained.output}/collaborative",
            "model": {"hidden_dim": 8},
        },
    ]
    for number, settings in enumerate(refused):
        output = tmp_path / f"out-{number}"
        config = trained.model_dump() | {"output": str(output), "alignment": {"weight": 0}} | settings
        with pytest.raises(InputError):
            run_rat(RatConfig.model_validate(config))
        assert not output.exists()


def test_the_snapshot_of_a_root_is_the_same_from_beginning_to_end(dataset, tmp_path):
    random = np.random.default_rng(0)
    root = publish(tmp_path / "root", dataset.item_ids, random.normal(size=(NUM_ITEMS, 3)))
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"))
    trained_ids = config.id_only(str(tmp_path / "ids"))
    run_rat(trained_ids, here=True)
    config = config.model_copy(update={"collaborative": trained_ids.output})
    check = run._check_collaborative

    def another_is_published(*arguments: object) -> None:
        publish_second(root)
        check(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "_check_collaborative", another_is_published)
        run_rat(config, here=True)
    info = Recommender.load(config.output).info
    assert info["embeddings"] == "first"
    assert info["training"]["embeddings"] == f"{root}/first"


def test_a_backbone_that_is_trained_by_masking_needs_room_for_the_mask(dataset, tmp_path):
    with pytest.raises(ValueError, match="expected 2 or more for bert4rec: an item and a mask behind it"):
        config_for(dataset, method="none", backbone="bert4rec", output=str(tmp_path), model={"max_seq_len": 1})


def test_a_collaborative_recommender_counts_by_what_it_is(dataset, embeddings, tmp_path, capsys):
    ids = str(tmp_path / "ids")
    config = config_for(dataset, embeddings=embeddings, output=str(tmp_path / "out"), collaborative=ids)
    run_rat(config, here=True)  # trains it where it is to be
    assert Recommender.load(ids).label == "SASRec"
    shutil.copytree(ids, tmp_path / "moved")
    for there in (ids, str(tmp_path / "moved")):
        capsys.readouterr()
        run_rat(config.model_copy(update={"collaborative": there}), here=True)
        assert "complete already" in capsys.readouterr().out
    shutil.rmtree(ids)
    run_rat(config, here=True)  # which it was made from, and need not be there any more
    assert "complete already" in capsys.readouterr().out
    run_rat(config.model_copy(update={"seed": 1}).id_only(ids), here=True)
    with pytest.raises(InputError, match=r"belongs to another run \(inputs\.collaborative: "):
        run_rat(config, here=True)


def test_a_collaborative_recommender_of_another_size_is_refused(trained, dataset, embeddings, tmp_path):
    config = config_for(
        dataset,
        embeddings=embeddings,
        output=str(tmp_path / "out"),
        collaborative=f"{trained.output}/collaborative",
        model={"hidden_dim": 6},
    )
    with pytest.raises(InputError, match=r"has hidden_dim 4; expected this run's, 6"):
        run_rat(config)


def test_a_collaborative_recommender_that_knows_the_text_is_refused(trained, dataset, embeddings, tmp_path):
    config = config_for(dataset, embeddings=embeddings, output=str(tmp_path / "out"), collaborative=trained.output)
    with pytest.raises(InputError, match=r"collaborative: .* has method llmemb; expected this run's, none"):
        run_rat(config)
    assert not (tmp_path / "out").exists()


def test_no_method_goes_on_with_the_weights_of_another_model(tmp_path):
    """MELT goes on with a finished recommender; with other heads all its weights fit and mean nothing."""
    dataset = prepare(tmp_path, length=4, long_ones=4)
    finished = config_for(dataset, method="none", output=str(tmp_path / "ids"))
    run_rat(finished, here=True)
    config = config_for(
        dataset,
        method="melt",
        output=str(tmp_path / "out"),
        collaborative=finished.output,
        model={**SMALL["model"], "num_heads": 2},
    )
    with pytest.raises(InputError, match=r"has num_heads 1; expected this run's, 2"):
        run_rat(config)


@pytest.mark.parametrize("length", [1, 3])
def test_sequences_too_short_to_train_on_are_refused(tmp_path, length):
    short = prepare(tmp_path, length=length, shortest=1)
    with pytest.raises(InputError, match="no user has two interactions to train on"):
        run_rat(config_for(short, method="none", output=str(tmp_path / "out")))


def test_a_run_goes_on_with_its_content_maps_after_newer_embeddings(dataset, tmp_path):
    root = publish(tmp_path / "root", dataset.item_ids, np.random.default_rng(0).normal(size=(NUM_ITEMS, 3)))
    maps = str(tmp_path / "maps.safetensors")
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"), content_maps=maps)

    def cut_off(done: int, total: int, figures: dict[str, float]) -> None:
        if "loss" in figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rat(config, here=True, tell=cut_off)
    began_with = Snapshot.open(root).fingerprint
    publish_second(root)
    assert Snapshot.open(root).fingerprint != began_with
    run_rat(config, here=True)
    assert Recommender.load(config.output).info["embeddings"] == began_with


def test_where_nothing_can_be_written_is_found_before_anything_is_learnt(dataset, embeddings, tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    settings = {"embeddings": embeddings, "output": str(tmp_path / "out")}
    config = config_for(dataset, **settings, content_maps=str(tmp_path / "file/maps.safetensors"))
    with pytest.raises(InputError, match=r"file/.* cannot be written"):
        run_rat(config, here=True, tell=lambda *told: pytest.fail("learnt"))
    assert not (tmp_path / "out").exists()


def train_own_backbone(
    trained: RatConfig, folder: Path, monkeypatch: pytest.MonkeyPatch, *, source: str, name: str
) -> Recommender:
    """Of a module that is written for it, in ``folder / "own"``."""
    (folder / "my_models.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    own = {"backbone": f"my_models:{name}", "output": str(folder / "own")}
    run_rat(RatConfig.model_validate(trained.id_only(own["output"]).model_dump() | own), here=True)
    return Recommender.load(own["output"])


def test_the_documented_backbone_of_ones_own_trains_and_loads_again(trained, dataset, tmp_path, monkeypatch):
    documented = (Path(__file__).parents[2] / "docs" / "recommender.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", documented, re.DOTALL)
    [example] = [block for block in blocks if "class MeanSoFar" in block]
    recommender = train_own_backbone(trained, tmp_path, monkeypatch, source=example, name="MeanSoFar")
    assert recommender.label == "MeanSoFar"
    assert len(rank_targets(recommender, dataset.test(), num_items=NUM_ITEMS)) == 24


def test_a_backbone_with_a_block_that_occurs_twice_is_written_and_loads_again(trained, dataset, tmp_path, monkeypatch):
    recommender = train_own_backbone(trained, tmp_path, monkeypatch, source=SHARED_BLOCKS, name="Twice")
    first, second = recommender._encoder.backbone.blocks
    assert first is second
    assert not torch.equal(first.weight, torch.eye(4))
    written = safetensors.torch.load((tmp_path / "own" / "model.safetensors").read_bytes())
    for number in range(2):
        assert torch.equal(written[f"encoder.backbone.blocks.{number}.weight"], first.weight)


def test_what_a_language_model_learns_comes_before_the_training_and_is_kept(trained, tiny_encoder, tmp_path):
    settings = trained.model_dump() | {
        "method": "tslrec",
        "base_model": str(tiny_encoder),
        "collaborative": f"{trained.output}/collaborative",
        "output": str(tmp_path / "tslrec"),
    }
    config = RatConfig.model_validate(settings)
    run_rat(config, here=True)
    recommender = Recommender.load(config.output)
    assert recommender.label == "TSLRec (SASRec)"
    assert (tmp_path / "tslrec/item_vectors/manifest.json").exists()
    metrics = storage.read_json(f"{config.output}/metrics.json")
    assert metrics["seconds"] > 0
    assert metrics["peak_memory_mib"] > 10
    for folder in ("item_vectors", "item_embeddings"):  # of another seed, and no item vectors at all
        again = settings | {"item_vectors": f"{config.output}/{folder}", "output": str(tmp_path / "again"), "seed": 1}
        with pytest.raises(InputError, match=r"item_vectors: .* holds those of another config, dataset or ID-only"):
            run_rat(RatConfig.model_validate(again))
        assert not (tmp_path / "again").exists()
    for name in ("moved", "changed"):
        shutil.copytree(tiny_encoder, tmp_path / name)
    run_rat(RatConfig.model_validate(settings | {"base_model": str(tmp_path / "moved")}), here=True)  # complete already
    with (tmp_path / "changed" / "config.json").open("a") as file:
        file.write("\n")
    changed = settings | {"base_model": str(tmp_path / "changed")}
    with pytest.raises(InputError, match=r"belongs to another run \(inputs\.base_model: "):
        run_rat(RatConfig.model_validate(changed), here=True)
    again = {"item_vectors": f"{config.output}/item_vectors", "output": str(tmp_path / "again")}
    with pytest.raises(InputError, match=r"item_vectors: .* holds those of another config"):
        run_rat(RatConfig.model_validate(changed | again), here=True)
