"""What the workers of a run make, on a catalogue of twelve items."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from llmemb import storage
from llmemb.errors import InputError
from llmemb.metrics.ranking import rank_targets
from llmemb.rat import fit, run, tensors
from llmemb.rat.checkpoint import Epoch
from llmemb.rat.config import RatConfig, TrainingConfig
from llmemb.rat.content import ContentTraining, LearntContent, ensure_content
from llmemb.rat.fit import validation_targets
from llmemb.rat.fusion import Fusion, fuse
from llmemb.rat.inputs import Sources, load_inputs
from llmemb.rat.methods.method import Inputs
from llmemb.rat.model import make_model
from llmemb.rat.recommender import Recommender, recipe
from llmemb.rat.run import run_rat
from llmemb.rat.training import TrainableRecommender
from llmemb.srs import item_table
from llmemb.workers import Worker
from tests.rat.conftest import EMBEDDING_DIM, NUM_ITEMS, SMALL, config_for, prepare, publish


def step_losses(uri: str) -> list[float]:
    return storage.read_json(f"{uri}/metrics.json")["step_losses"]


def test_two_workers_take_the_same_steps_as_one(trained, dataset, ray_local, tmp_path):
    settings = trained.model_dump() | {"output": str(tmp_path / "two"), "num_workers": 2}
    run_rat(RatConfig.model_validate(settings | {"collaborative": f"{trained.output}/collaborative"}))
    one, two = step_losses(trained.output), step_losses(str(tmp_path / "two"))
    assert len(one) == len(two) > 4
    np.testing.assert_allclose(two, one, rtol=1e-5)
    torch.testing.assert_close(
        Recommender.load(str(tmp_path / "two")).item_embeddings,
        Recommender.load(trained.output).item_embeddings,
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_backbone_that_a_worker_cannot_import_is_bad_input(trained, monkeypatch):
    monkeypatch.setattr(fit, "worker_threads", lambda threads: threads)
    config = trained.model_dump(mode="json") | {"backbone": "not_here.models:Own"}
    with pytest.raises(InputError, match=r"^config: backbone: no backbone 'not_here.models:Own': No module named"):
        fit.train_worker({"config": config, "threads": torch.get_num_threads()})


def test_an_output_that_a_worker_does_not_share_is_found_before_the_training(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(fit, "worker_threads", lambda threads: threads)
    monkeypatch.setattr(fit, "fit", lambda *_, **__: pytest.fail("it is trained"))
    config = trained.model_dump(mode="json") | {"output": str(tmp_path / "elsewhere")}
    with pytest.raises(InputError, match=r"^output: .*/elsewhere is not shared with the workers"):
        fit.train_worker({"config": config, "threads": torch.get_num_threads()})


def fit_on_another_cpu(rank: int, folder: str, config: RatConfig, computed: str) -> None:
    """One of two workers; the second starts elsewhere, as one might whose eigenvectors have other signs."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)

    def make(inputs: Inputs) -> TrainableRecommender:
        model = make_model(inputs)
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if rank == 1 and name != "content" and (computed in name or "embeddings" not in name):
                values.data += 1.0
        if rank == 1:
            assert model.content is not None
            model.content.mul_(torch.tensor([-1.0, 1.0]).repeat(EMBEDDING_DIM)[:EMBEDDING_DIM])
        return model

    def save(model: TrainableRecommender, *arguments: Any, **settings: Any) -> tuple[Fusion, list[Fusion]]:
        tensors = {
            name: values.detach().clone() for name, values in [*model.named_parameters(), *model.named_buffers()]
        }
        safetensors.torch.save_file(tensors, f"{folder}/{rank}.safetensors")
        return fuse(model, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patched:
        if computed == "scaler":
            patched.setattr(item_table, "SCALED_ONCE", 0)  # a large table is as it was read, on every worker
        patched.setattr(fit, "make_model", make)
        patched.setattr(fit, "fuse", save)
        fit.fit(config, Sources(None, ""), worker=Worker(rank, 2))
    dist.destroy_process_group()


@pytest.mark.parametrize("computed", ["embeddings.vectors", "scaler"])
def test_workers_that_computed_another_start_end_alike(dataset, embeddings, tmp_path, computed):
    settings = {"adapter": {"scaling": "whiten"}, "alignment": {"weight": 0}}
    config = config_for(dataset, embeddings=embeddings, output=str(tmp_path / "out"), **settings)
    torch.multiprocessing.spawn(fit_on_another_cpu, (str(tmp_path), config, computed), nprocs=2)
    first, second = (safetensors.torch.load_file(f"{tmp_path}/{rank}.safetensors") for rank in range(2))
    assert "table.parts.0.adapter.weight" in first
    assert any(computed in name for name in first)
    assert first.keys() == second.keys()
    for name, expected in first.items():
        torch.testing.assert_close(second[name], expected, rtol=0, atol=0, msg=name)


def test_of_two_runs_at_once_the_later_leaves_what_is_finished(trained, dataset, tmp_path, monkeypatch):
    config = trained.id_only(str(tmp_path / "out"))
    weigh = fit.fuse

    def meanwhile(model: TrainableRecommender, *arguments: Any, **settings: Any) -> Any:
        monkeypatch.setattr(fit, "fuse", weigh)
        run_rat(config, here=True)
        (Path(config.output) / "metrics.json").write_text("{}")  # of the other, as its weights are
        with torch.no_grad():
            next(model.parameters()).add_(1.0)  # as an unlike machine would
        return weigh(model, *arguments, **settings)

    monkeypatch.setattr(fit, "fuse", meanwhile)
    monkeypatch.setattr(run, "_tell_result", lambda config: None)
    run_rat(config, here=True)
    assert len(Recommender.load(config.output).item_ids) == NUM_ITEMS
    assert (Path(config.output) / "metrics.json").read_text() == "{}"


def test_no_more_users_validate_than_asked_for(trained, dataset):
    everybody = dataset.validation()
    few = trained.model_copy(update={"validation_users": 5})
    drawn = validation_targets(few, dataset)
    assert len(drawn.items) == len(drawn.histories) == 5
    assert drawn.items.tolist() == everybody.items[np.isin(everybody.users, drawn.users)].tolist()
    again, others = (validation_targets(few.model_copy(update={"seed": seed}), dataset).users for seed in (few.seed, 1))
    assert again.tolist() == drawn.users.tolist() != others.tolist()
    assert len(validation_targets(trained, dataset).items) == len(everybody.items)


def test_items_can_be_aligned_with_another_backbones(trained, dataset, embeddings, tmp_path):
    """As in the paper, whose table is SASRec's for all backbones."""
    ids = f"{trained.output}/collaborative"
    settings = {"backbone": "gru4rec", "embeddings": embeddings, "alignment": {"weight": 0.1, "loss": "paper"}}
    config = config_for(dataset, output=str(tmp_path / "out"), collaborative=ids, **settings)
    run_rat(config, here=True)
    info = Recommender.load(config.output).info
    assert (info["backbone"], Recommender.load(ids).info["backbone"]) == ("gru4rec", "sasrec")
    assert info["collaborative_recipe"] == recipe(Recommender.load(ids).info)
    alone = config_for(dataset, output=str(tmp_path / "alone"), **settings | {"alignment": {"weight": 0}})
    run_rat(alone, here=True)
    losses = [storage.read_json(f"{each.output}/metrics.json")["step_losses"] for each in (config, alone)]
    assert losses[0][0] > losses[1][0]  # by the alignment, from the first step on


def test_the_time_told_is_that_of_all_epochs_also_of_those_before_a_stop(dataset, embeddings, tmp_path, monkeypatch):
    before = [Epoch(number, 1.0, 0.1, 1.0, (1.0,), seconds=1000.0) for number in (1, 2)]
    monkeypatch.setattr(fit, "train", lambda *arguments, **settings: before)

    def ensure(*arguments: Any, **settings: Any) -> LearntContent:
        time.sleep(1.0)
        return ensure_content(*arguments, **settings)

    monkeypatch.setattr(fit, "ensure_content", ensure)
    seconds = []
    for epochs in (0, 1):
        output = str(tmp_path / str(epochs))
        run_rat(config_for(dataset, embeddings=embeddings, output=output, content={"epochs": epochs}), here=True)
        seconds.append(storage.read_json(f"{output}/metrics.json")["seconds"])
    assert 2000 < seconds[0] < seconds[1] - 0.9 < 2500


def test_one_user_is_enough(tmp_path):
    dataset = prepare(tmp_path, length=6, num_users=1)
    values = np.random.default_rng(0).normal(size=(NUM_ITEMS, 3))
    root = publish(tmp_path / "embeddings", dataset.item_ids, values)
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"))
    run_rat(config, here=True)
    [[(_, best), *others]] = Recommender.load(config.output).recommend([dataset.item_ids[:2]], k=NUM_ITEMS)
    assert len(others) == NUM_ITEMS - 3
    assert np.isfinite(best)
    assert storage.read_json(f"{config.output}/metrics.json")["validation"].keys() == {"ndcg@10", "tail_ndcg@10"}


def test_content_that_is_learnt_is_stored_and_scored_with(dataset, embeddings, tmp_path):
    settings = {"embeddings": embeddings, "fusion": {"content_weights": [2.0], "content_shares": [0.3]}}
    settings["training"] = SMALL["training"] | {"max_epochs": 1}  # which is the best, whatever content says
    plain, learnt = (
        config_for(dataset, output=str(tmp_path / name), **settings, content={"epochs": epochs, "learning_rate": 0.1})
        for name, epochs in (("plain", 0), ("learnt", 2))
    )
    recommenders = []
    for config in (plain, learnt):
        run_rat(config, here=True)
        recommenders.append(Recommender.load(config.output))
    before, after = recommenders
    losses = [storage.read_json(f"{each.output}/metrics.json")["content_losses"] for each in (plain, learnt)]
    assert [len(each) for each in losses] == [0, 2]
    torch.testing.assert_close(after.item_embeddings, before.item_embeddings)  # it is learnt beside the recommender
    assert (after.content - before.content).abs().max() > 0.1
    model = make_model(load_inputs(learnt, dataset, Sources(None, "")))
    ContentTraining(model, dataset.train, learnt.content, sampled=False, seed=learnt.seed).run().maps.put_into(model)
    torch.testing.assert_close(after.content, model.content)
    histories = [dataset.item_ids[2:5], dataset.item_ids[:6]]
    searched, scored = (after.recommend(histories, k=5, index=index) for index in (after.build_index("flat"), None))
    assert [[item for item, _ in each] for each in searched] == [[item for item, _ in each] for each in scored]
    assert scored != before.recommend(histories, k=5)


def test_an_epoch_is_validated_with_learnt_content_in_the_middle_of_what_is_tried(dataset, embeddings, tmp_path):
    weights = {"content_weights": [6.0, 0.0, 2.0], "content_shares": [0.0, 0.3, 0.6]}
    settings = {"embeddings": embeddings, "training": SMALL["training"] | {"max_epochs": 1}}
    content = {"epochs": 2, "learning_rate": 0.1}
    in_epoch, tried = [], []
    for name, fusion in (("with", weights), ("without", {"content": False})):
        output = str(tmp_path / name)
        run_rat(config_for(dataset, output=output, **settings, content=content, fusion=fusion), here=True)
        metrics = storage.read_json(f"{output}/metrics.json")
        in_epoch.append(metrics["epochs"][0]["validation_ndcg"])
        tried.append(metrics["fusion"]["tried"])
    lowest = min(each["seen_logit"] for each in tried[0])
    middle = {"seen_logit": lowest, "content_weight": 2.0, "content_share": 0.3}
    [expected] = [each for each in tried[0] if each.items() >= middle.items()]
    assert in_epoch[0] == pytest.approx(expected["validation_ndcg"])
    assert in_epoch[1] == pytest.approx(tried[1][-1]["validation_ndcg"])  # with the same logit for what was seen
    assert abs(in_epoch[0] - in_epoch[1]) > 0.01


def test_a_training_with_content_that_was_cut_ends_as_one_that_was_not(dataset, embeddings, tmp_path):
    settings = {"embeddings": embeddings, "content": {"epochs": 2, "learning_rate": 0.1}}
    settings["training"] = SMALL["training"] | {"max_epochs": 4}
    whole, cut = (config_for(dataset, output=str(tmp_path / name), **settings) for name in ("whole", "cut"))
    run_rat(whole, here=True)

    def cut_off(done: int, total: int, figures: dict[str, float]) -> None:
        if done == 2 + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rat(cut, here=True, tell=cut_off)
    told: list[str] = []
    run_rat(cut, here=True, tell=lambda done, total, figures: told.append(next(iter(figures))))
    assert told == ["loss", "loss"]  # content is not learnt again
    metrics = [storage.read_json(f"{each.output}/metrics.json") for each in (whole, cut)]
    for key in ("content_losses", "step_losses", "best_epoch", "fusion"):
        assert metrics[1][key] == metrics[0][key]
    for name in ("content_maps.safetensors", "model.safetensors", "new_items.safetensors"):
        assert storage.read_bytes(f"{cut.output}/{name}") == storage.read_bytes(f"{whole.output}/{name}")


def test_what_is_learnt_of_content_is_taken_whole_by_a_run_that_goes_on(dataset, embeddings, tmp_path):
    """The history's side from where the candidates' is, and not from the checkpoint of before."""
    settings = {"embeddings": embeddings, "output": str(tmp_path / "out"), "content": {"learning_rate": 0.1}}
    first = config_for(dataset, **settings, content_maps=str(tmp_path / "first.safetensors"))

    def cut_off(done: int, total: int, figures: dict[str, float]) -> None:
        if "loss" in figures:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rat(first, here=True, tell=cut_off)
    weights, notes = tensors.read(f"{tmp_path}/first.safetensors")
    other = {name: 2 * weight for name, weight in weights.items()}  # as another machine might learn them
    tensors.write(f"{tmp_path}/second.safetensors", other, notes)
    run_rat(config_for(dataset, **settings, content_maps=str(tmp_path / "second.safetensors")), here=True)
    stored = tensors.read(f"{tmp_path}/out/model.safetensors")[0]
    torch.testing.assert_close(stored["encoder.content_map.weight"], other["history.weight"])


def test_content_has_its_epochs_in_what_is_told(dataset, embeddings, tmp_path):
    told: list[tuple[int, int, str]] = []

    def tell(done: int, total: int, figures: dict[str, float]) -> None:
        told.append((done, total, next(iter(figures))))

    patient = SMALL["training"] | {"max_epochs": 30, "patience": 1}
    config = config_for(dataset, output=str(tmp_path / "out"), embeddings=embeddings, content={"epochs": 2})
    run_rat(config.model_copy(update={"training": TrainingConfig(**patient)}), here=True, tell=tell)
    trained = len(told) - 2
    assert 1 < trained < 30
    of_content = [(epoch, 32, "content_loss") for epoch in (1, 2)]
    in_training = [(2 + epoch, 32 if epoch < trained else 2 + trained, "loss") for epoch in range(1, trained + 1)]
    assert told == of_content + in_training


def test_text_beside_ids_changes_which_epoch_is_kept_and_nothing_that_is_trained(dataset, embeddings, tmp_path):
    fusion = {"content_weights": [0.0, 2.0], "tail_price": 0}
    configs = {
        method: config_for(dataset, method=method, embeddings=embeddings, output=str(tmp_path / method), fusion=fusion)
        for method in ("none", "text_sum")
    }
    for config in configs.values():
        run_rat(config, here=True)
    alone, both = (storage.read_json(f"{config.output}/metrics.json") for config in configs.values())
    for of_ids, with_text in zip(alone["epochs"], both["epochs"], strict=False):
        assert of_ids["loss"] == with_text["loss"]
    assert any(
        of_ids["validation_ndcg"] != with_text["validation_ndcg"]
        for of_ids, with_text in zip(alone["epochs"], both["epochs"], strict=False)
    )
    chosen = both["fusion"]["chosen"]
    recommender = Recommender.load(configs["text_sum"].output)
    assert (recommender.content is not None) == (chosen["content_weight"] > 0 or chosen["content_share"] > 0)


def test_melt_enhances_tail_users_in_its_artifact(tmp_path):
    dataset = prepare(tmp_path, length=4, long_ones=4)
    config = config_for(dataset, method="melt", output=str(tmp_path / "melt"))
    run_rat(config, here=True)
    recommender = Recommender.load(config.output)
    assert recommender.info["tail_users"] == 2
    model = Recommender.load(f"{config.output}/collaborative")
    assert model.info["tail_users"] is None
    ranks = rank_targets(recommender, dataset.test(), num_items=dataset.num_items)
    assert len(ranks) == len(dataset.test().items)
