"""The whole job on a catalogue of twelve items, through Ray Train."""

import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from typer.testing import CliRunner

from llmemb import storage, vectors
from llmemb.cli import app
from llmemb.data.config import PrepareConfig
from llmemb.data.dataset import Dataset
from llmemb.data.prepare import run_prepare
from llmemb.data.sequences import Sequences
from llmemb.embed import snapshot
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.evaluation.entrants import content_entrant
from llmemb.metrics import ranking
from llmemb.metrics.ranking import rank_targets
from llmemb.rat import run, tensors
from llmemb.rat.checkpoint import Epoch
from llmemb.rat.config import RatConfig, TrainingConfig
from llmemb.rat.content import ContentTraining, LearntContent, ensure_content
from llmemb.rat.fusion import Fusion, fuse
from llmemb.rat.inputs import Sources, count_missing, load_embeddings, load_inputs
from llmemb.rat.methods.method import Inputs
from llmemb.rat.model import make_model
from llmemb.rat.recommender import Recommender, recipe, write_vectors
from llmemb.rat.run import run_rat, validation_targets
from llmemb.rat.training import TrainableRecommender
from llmemb.srs import item_table
from llmemb.srs.encoder import TermWeights
from llmemb.srs.scoring import score
from llmemb.vectors import VectorDtype
from llmemb.workers import Worker

NUM_ITEMS, EMBEDDING_DIM = 12, 5
SMALL = {
    "model": {"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 4, "dropout": 0.0},
    "training": {"max_epochs": 2, "batch_positions": 16, "learning_rate": 0.01},
    "alignment": {"weight": 0.03},
    "engine": {"precision": "fp32"},  # to be compared closely, whatever the machine can do
}


def prepare(folder: Path, *, length: int, long_ones: int = 0, num_users: int = 24, shortest: int = 3) -> Dataset:
    """Users who walk round the catalogue for some steps, and some of them twice as far."""
    ids = [f"item-{number:02}" for number in range(NUM_ITEMS)]
    pl.DataFrame({"item_id": ids, "title": ids}).write_parquet(folder / "items.parquet")
    steps = [length * (2 if user < long_ones else 1) for user in range(num_users)]
    walks = [
        (f"user-{user:02}", ids[(user + step) % NUM_ITEMS], step)
        for user in range(num_users)
        for step in range(steps[user])
    ]
    pl.DataFrame(walks, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(folder / "log.parquet")
    settings = {"items": str(folder / "items.parquet"), "interactions": str(folder / "log.parquet")}
    filters = {"min_user_interactions": shortest}
    run_prepare(PrepareConfig.model_validate({**settings, "filters": filters, "output": str(folder / "dataset")}))
    return Dataset.open(str(folder / "dataset"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return prepare(tmp_path_factory.mktemp("data"), length=6)


def publish(root: Path, item_ids: list[str], embeddings: np.ndarray, dtype: VectorDtype = "float32") -> str:
    entry = vectors.write(f"{root}/first/part-00000.parquet", vectors.to_table(item_ids, embeddings, dtype))
    manifest = {
        "format": 2,
        "snapshot_id": "first",
        "dimension": embeddings.shape[1],
        "dtype": dtype,
        "files": [entry],
    }
    snapshot.publish(str(root), manifest)
    return str(root)


@pytest.fixture(scope="module")
def embeddings(dataset, tmp_path_factory) -> str:
    values = np.random.default_rng(0).normal(size=(NUM_ITEMS, EMBEDDING_DIM))
    return publish(tmp_path_factory.mktemp("embeddings"), dataset.item_ids, values)


@pytest.fixture(scope="module")
def trained(dataset, embeddings, ray_local, tmp_path_factory) -> RatConfig:
    output = str(tmp_path_factory.mktemp("rat") / "llmemb")
    settings = {"dataset": dataset.uri, "embeddings": embeddings, "output": output, **SMALL}
    config = RatConfig.model_validate(settings | {"fusion": {"content_weights": [2.0], "content_shares": [0.3]}})
    run_rat(config.id_only(f"{output}/collaborative"), here=True)
    run_rat(config)
    return config


def step_losses(uri: str) -> list[float]:
    return storage.read_json(f"{uri}/metrics.json")["step_losses"]


def test_both_recommenders_load_and_rank_every_item(trained, dataset):
    ours, ids_only = Recommender.load(trained.output), Recommender.load(f"{trained.output}/collaborative")
    assert (ours.label, ids_only.label) == ("LLMEmb (SASRec)", "SASRec")
    for recommender in (ours, ids_only):
        assert recommender.item_embeddings.shape == (NUM_ITEMS, 4)
        ranks = rank_targets(recommender, dataset.test(), num_items=NUM_ITEMS)
        assert len(ranks) == 24
        assert recommender.info["dataset"] == dataset.fingerprint
    assert ours.info["embeddings"] == "first"
    assert ours.info["weights"] == storage.checksum(storage.read_bytes(f"{trained.output}/model.safetensors"))
    assert ids_only.info["embeddings"] is None
    assert ours.info["collaborative_recipe"] == recipe(ids_only.info)
    assert ids_only.info["collaborative_recipe"] is None


def test_cached_scores_equal_those_through_the_adapter(trained, dataset, monkeypatch):
    model = make_model(Inputs(trained, dataset, load_embeddings(Snapshot.open(trained.embeddings), dataset)[0]))
    ContentTraining(model, dataset.train, trained.content, sampled=False, seed=trained.seed).run().maps.put_into(model)
    weights = storage.read_bytes(f"{trained.output}/model.safetensors")
    model.load_state_dict(safetensors.torch.load(weights))
    with torch.inference_mode():
        through_adapter = model.eval().final_table()
    cached = Recommender.load(trained.output)
    torch.testing.assert_close(cached.item_embeddings, through_adapter.embeddings)
    torch.testing.assert_close(cached.content, through_adapter.content)
    assert cached.content.shape == (NUM_ITEMS, EMBEDDING_DIM)
    histories = dataset.test().histories
    expected = torch.cat(list(score(model.encoder, through_adapter, histories)))
    torch.testing.assert_close(torch.cat(list(cached.score(histories))), expected)
    monkeypatch.setattr(ranking, "CHUNK_SCORES", 5 * NUM_ITEMS)
    chunks = list(cached.score(histories))
    assert {len(chunk) for chunk in chunks[:-1]} == {5}
    torch.testing.assert_close(torch.cat(chunks), expected)


def test_the_item_embeddings_are_read_with_no_help(trained, dataset):
    table = pl.read_parquet(f"{trained.output}/item_embeddings/*.parquet")
    assert table["item_id"].to_list() == dataset.item_ids
    assert table["embedding"].dtype == pl.Array(pl.Float32, 4)
    manifest = storage.read_json(f"{trained.output}/item_embeddings/manifest.json")
    assert [entry["rows"] for entry in manifest["files"]] == [NUM_ITEMS]


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
        patched.setattr(run, "make_model", make)
        patched.setattr(run, "fuse", save)
        run.fit(config, Sources(None, ""), worker=Worker(rank, 2))
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


def test_a_finished_output_is_kept_and_another_config_is_refused(trained, capsys):
    before = storage.read_bytes(f"{trained.output}/metrics.json")
    run_rat(trained)
    assert "complete already" in capsys.readouterr().out
    assert storage.read_bytes(f"{trained.output}/metrics.json") == before
    with pytest.raises(InputError, match=r"belongs to another run \(config.seed: 0 there, 5 here\)"):
        run_rat(trained.model_copy(update={"seed": 5}))


def test_method_none_is_the_id_only_recommender_of_any_config(trained, capsys):
    collaborative = f"{trained.output}/collaborative"
    run_rat(trained.model_copy(update={"method": "none", "output": collaborative}))
    assert f"{collaborative} is complete already" in capsys.readouterr().out


def test_a_changed_table_is_noticed(trained, tmp_path):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    part = tmp_path / "copy/item_embeddings/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="checksum"):
        Recommender.load(str(tmp_path / "copy"))


@pytest.mark.parametrize("part", ["model.safetensors", "item_embeddings", "item_content"])
def test_what_another_run_wrote_is_refused(trained, tmp_path, part):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    place, other = tmp_path / "copy" / part, Path(trained.output) / "collaborative" / part
    if part == "model.safetensors":
        shutil.copy(other, place)
    else:  # whole and sound in itself, and of as many items
        values = np.ones((NUM_ITEMS, 4), dtype=np.float32)
        write_vectors(str(place), Recommender.load(trained.output).item_ids, values, {})
    with pytest.raises(InputError, match=rf"recommender: .*{part} is not what recommender.json names"):
        Recommender.load(str(tmp_path / "copy"))


def test_of_two_runs_at_once_the_later_leaves_what_is_finished(trained, dataset, tmp_path, monkeypatch):
    config = trained.id_only(str(tmp_path / "out"))
    weigh = run.fuse

    def meanwhile(model: TrainableRecommender, *arguments: Any, **settings: Any) -> Any:
        monkeypatch.setattr(run, "fuse", weigh)
        run_rat(config, here=True)
        (Path(config.output) / "metrics.json").write_text("{}")  # of the other, as its weights are
        with torch.no_grad():
            next(model.parameters()).add_(1.0)  # as an unlike machine would
        return weigh(model, *arguments, **settings)

    monkeypatch.setattr(run, "fuse", meanwhile)
    monkeypatch.setattr(run, "_tell_result", lambda config: None)
    run_rat(config, here=True)
    assert len(Recommender.load(config.output).item_ids) == NUM_ITEMS
    assert (Path(config.output) / "metrics.json").read_text() == "{}"


def test_content_that_a_cut_off_run_left_is_not_read_by_one_that_chose_none(trained, tmp_path):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    info = storage.read_json(f"{tmp_path}/copy/recommender.json")
    assert info["item_content"] is not None
    storage.write_json(f"{tmp_path}/copy/recommender.json", info | {"item_content": None})
    assert len(Recommender.load(str(tmp_path / "copy")).item_ids) == NUM_ITEMS


def test_a_recommender_without_its_content_is_refused(trained, tmp_path):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    shutil.rmtree(tmp_path / "copy/item_content")
    with pytest.raises(InputError, match=r"item_content/manifest\.json"):
        Recommender.load(str(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("change", "message"), [({"max_seq_len": 9}, "size mismatch"), ({"hidden_dim": 2}, "mismatch")]
)
def test_weights_of_another_shape_are_one_line(trained, tmp_path, change, message):
    storage.upload(Path(trained.output), str(tmp_path / "copy"))
    info = storage.read_json(f"{tmp_path}/copy/recommender.json")
    storage.write_json(f"{tmp_path}/copy/recommender.json", info | {"model": info["model"] | change})
    with pytest.raises(InputError, match=f"recommender: .*{message}"):
        Recommender.load(str(tmp_path / "copy"))


def test_no_more_users_validate_than_asked_for(trained, dataset):
    everybody = dataset.validation()
    few = trained.model_copy(update={"validation_users": 5})
    drawn = validation_targets(few, dataset)
    assert len(drawn.items) == len(drawn.histories) == 5
    assert drawn.items.tolist() == everybody.items[np.isin(everybody.users, drawn.users)].tolist()
    again, others = (validation_targets(few.model_copy(update={"seed": seed}), dataset).users for seed in (few.seed, 1))
    assert again.tolist() == drawn.users.tolist() != others.tolist()
    assert len(validation_targets(trained, dataset).items) == len(everybody.items)


def config_for(dataset: Dataset, **settings) -> RatConfig:
    return RatConfig.model_validate({"dataset": dataset.uri, **SMALL, **settings})


def test_nobody_opens_what_the_method_does_not_read(tmp_path):
    dataset = prepare(tmp_path, length=4, long_ones=4)
    config = config_for(dataset, method="melt", embeddings="/nowhere", output=str(tmp_path / "melt"))
    run_rat(config, here=True)
    assert Recommender.load(config.output).info["embeddings"] is None
    run_rat(config.model_copy(update={"embeddings": None}), here=True)  # the same, and complete


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


def test_without_alignment_no_other_recommender_is_trained(dataset, embeddings, tmp_path):
    config = config_for(dataset, embeddings=embeddings, output=str(tmp_path / "out"), alignment={"weight": 0})
    run_rat(config, here=True)
    assert not (tmp_path / "out/collaborative").exists()
    assert Recommender.load(config.output).info["collaborative"] is None


def test_a_snapshot_that_lacks_items_is_refused_above_a_share(dataset, tmp_path):
    root = publish(tmp_path / "short", dataset.item_ids[:-1], np.random.default_rng(0).normal(size=(NUM_ITEMS - 1, 3)))
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"))
    with pytest.raises(
        InputError, match=r"lacks 1 of the dataset's 12 items, such as 'item-\d+'; expected at most 1.0%"
    ):
        run_rat(config)
    allowed = config_for(dataset, embeddings=root, output=config.output, max_missing_share=0.1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vectors, "read", None)  # no vector is read to count
        assert count_missing(allowed, Snapshot.open(root), dataset) == 1
    table, missing = load_embeddings(Snapshot.open(root), dataset)
    assert missing.tolist() == [NUM_ITEMS - 1]
    torch.testing.assert_close(table[-1], table[:-1].mean(dim=0))


def mapped_file(address: int) -> str:
    """The file that an address of this process is in; empty for plain memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, *_, name = [*line.split(maxsplit=5), ""][:6]
        start, stop = (int(bound, 16) for bound in bounds.split("-"))
        if start <= address < stop:
            return name
    raise AssertionError("no such address")


def test_items_without_an_embedding_are_zero_and_not_alike(dataset, tmp_path):
    values = np.random.default_rng(0).normal(size=(NUM_ITEMS - 2, 3)) + 5.0
    root = publish(tmp_path / "short", dataset.item_ids[:-2], values, dtype="float16")
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"), max_missing_share=0.5)
    inputs = load_inputs(config, dataset, Sources(None, ""))
    model = make_model(inputs)
    assert (model.content[-2:] == 0).all()
    assert (model.content[:-2].norm(dim=1) > 0.99).all()
    assert (model.table.parts[0]()[-2:] == 0).all()
    assert (model.table.parts[0](torch.tensor([NUM_ITEMS - 1, 0]))[0] == 0).all()
    for method in ("llm2x", "llmemb"):
        adapter = {"kind": "pca", "add_ids": False}
        other = config_for(
            dataset,
            embeddings=root,
            output=str(tmp_path / "out"),
            method=method,
            adapter=adapter,
            max_missing_share=0.5,
        )
        assert (make_model(load_inputs(other, dataset, Sources(None, ""))).table()[-2:] == 0).all()


def publish_second(root: str) -> None:
    """A copy of the first snapshot under another name."""
    shutil.copytree(f"{root}/first", f"{root}/second", dirs_exist_ok=True)
    manifest = storage.read_json(f"{root}/second/manifest.json")
    storage.write_json(f"{root}/second/manifest.json", manifest | {"snapshot_id": "second"})
    storage.write_bytes(f"{root}/LATEST", b"second\n")


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
        {"method": "text_sum", "collaborative": f"{trained.output}/collaborative", "model": {"hidden_dim": 8}},
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


def test_a_recommender_whose_backbone_is_not_here_is_one_line(trained, tmp_path):
    shutil.copytree(trained.output, tmp_path / "copy")
    info = storage.read_json(f"{tmp_path}/copy/recommender.json") | {"backbone": "no_such_package:Backbone"}
    storage.write_json(f"{tmp_path}/copy/recommender.json", info)
    with pytest.raises(InputError, match=r"recommender: .*copy: .*no_such_package"):
        Recommender.load(str(tmp_path / "copy"))


def test_a_backbone_that_is_trained_by_masking_needs_room_for_the_mask(dataset, tmp_path):
    with pytest.raises(ValueError, match="expected 2 or more for bert4rec: an item and a mask behind it"):
        config_for(dataset, method="none", backbone="bert4rec", output=str(tmp_path), model={"max_seq_len": 1})


def test_a_float16_snapshot_stays_float16_and_on_disk(dataset, tmp_path):
    values = np.random.default_rng(0).normal(size=(NUM_ITEMS, 3)).astype(np.float16)
    root = publish(tmp_path / "half", dataset.item_ids, values, dtype="float16")
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"))
    table, missing = load_embeddings(Snapshot.open(root), dataset)
    assert len(missing) == 0
    assert table.dtype == torch.float16
    np.testing.assert_array_equal(table.numpy(), values)
    assert mapped_file(table.data_ptr()).endswith("(deleted)")  # nameless: nothing is left behind
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(item_table, "SCALED_ONCE", 0)  # it is a large one
        model = make_model(Inputs(config, dataset, table))
    assert model.table.parts[0].embeddings.vectors is table
    of_floats = make_model(Inputs(config, dataset, torch.from_numpy(values.astype(np.float32))))
    torch.testing.assert_close(model.item_embeddings(), of_floats.item_embeddings(), rtol=0, atol=0)
    torch.testing.assert_close(model.content, of_floats.content, rtol=0, atol=0)


def test_the_time_told_is_that_of_all_epochs_also_of_those_before_a_stop(dataset, embeddings, tmp_path, monkeypatch):
    before = [Epoch(number, 1.0, 0.1, 1.0, (1.0,), seconds=1000.0) for number in (1, 2)]
    monkeypatch.setattr(run, "train", lambda *arguments, **settings: before)

    def ensure(*arguments: Any, **settings: Any) -> LearntContent:
        time.sleep(1.0)
        return ensure_content(*arguments, **settings)

    monkeypatch.setattr(run, "ensure_content", ensure)
    seconds = []
    for epochs in (0, 1):
        output = str(tmp_path / str(epochs))
        run_rat(config_for(dataset, embeddings=embeddings, output=output, content={"epochs": epochs}), here=True)
        seconds.append(storage.read_json(f"{output}/metrics.json")["seconds"])
    assert 2000 < seconds[0] < seconds[1] - 0.9 < 2500


def test_embeddings_that_tell_no_item_from_another_are_refused(dataset, tmp_path):
    root = publish(tmp_path / "root", dataset.item_ids, np.ones((NUM_ITEMS, 3)))
    with pytest.raises(InputError, match="every item has the same vector, which tells none from another"):
        run_rat(config_for(dataset, embeddings=root, output=str(tmp_path / "out")))


def test_a_table_with_nan_is_refused(dataset, tmp_path):
    values = np.ones((NUM_ITEMS, 3))
    values[4, 1] = np.nan
    root = publish(tmp_path / "broken", dataset.item_ids, values)
    with pytest.raises(
        InputError, match=f"1 items have values that are NaN or infinite, such as '{dataset.item_ids[4]}'"
    ):
        run_rat(config_for(dataset, embeddings=root, output=str(tmp_path / "out")), here=True)
    with pytest.raises(InputError, match="1 items have values that are NaN or infinite"):
        content_entrant(Snapshot.open(root), dataset, decay=0.6).runs[0].load()


def test_vectors_of_another_width_than_the_snapshot_says_are_refused(dataset, tmp_path):
    root = publish(tmp_path / "root", dataset.item_ids, np.ones((NUM_ITEMS, 3)))
    manifest = storage.read_json(f"{root}/first/manifest.json")
    storage.write_json(f"{root}/first/manifest.json", manifest | {"dimension": 5})
    with pytest.raises(InputError, match=r"part-00000\.parquet has vectors of 3 values; expected the manifest's 5"):
        run_rat(config_for(dataset, embeddings=root, output=str(tmp_path / "out")), here=True)


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


def test_scores_are_not_made_from_the_weights_of_another_model(trained, dataset, embeddings, tmp_path):
    """``text_sum`` goes on with a finished recommender; with other heads all its weights fit and mean nothing."""
    config = config_for(
        dataset,
        method="text_sum",
        embeddings=embeddings,
        output=str(tmp_path / "out"),
        collaborative=f"{trained.output}/collaborative",
        model={**SMALL["model"], "num_heads": 2},
    )
    with pytest.raises(InputError, match=r"has num_heads 1; expected this run's, 2"):
        run_rat(config)


@pytest.mark.parametrize("length", [1, 3])
def test_sequences_too_short_to_train_on_are_refused(tmp_path, length):
    short = prepare(tmp_path, length=length, shortest=1)
    with pytest.raises(InputError, match="no user has two interactions to train on"):
        run_rat(config_for(short, method="none", output=str(tmp_path / "out")))


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


def test_recommendations_are_the_best_scores_by_item_id(trained, dataset):
    model = Recommender.load(trained.output)
    history = dataset.item_ids[2:5]
    [ranked] = model.recommend([history], k=4)
    sequences = Sequences.from_lists([[3, 4, 5]])
    [scores] = torch.cat(list(model.score(sequences))).tolist()
    by_score = sorted(zip(scores, dataset.item_ids, strict=True), reverse=True)
    unseen = [(score, item) for score, item in by_score if item not in history]
    assert [item for item, _ in ranked] == [item for _, item in unseen[:4]]
    assert [score for _, score in ranked] == pytest.approx([score for score, _ in unseen[:4]])
    assert len(model.recommend([history], k=99)[0]) == NUM_ITEMS - 3
    assert len(model.recommend([history], k=99, filter_seen=False)[0]) == NUM_ITEMS
    with pytest.raises(InputError, match="history: 'nothing' is none of the recommender's 12 items"):
        model.recommend([["nothing"]], k=1)
    with pytest.raises(InputError, match=r"history: histories\[0\] is 'i1': expected a list of item ids for each"):
        model.recommend(["i1"], k=1)
    with pytest.raises(InputError, match="k: expected 1 or more, got 0"):
        model.recommend([history], k=0)
    with pytest.raises(InputError, match="index: no kind 'faiss': expected one of flat, hnsw, ivf"):
        model.build_index("faiss")


def test_unknown_items_of_a_history_are_passed_over_if_wanted(trained, dataset):
    model, history = Recommender.load(trained.output), dataset.item_ids[:3]
    [expected] = model.recommend([history], k=4)
    histories = [["gone"], [history[0], "gone", *history[1:]], ["gone", "gone too"]]
    for index in (None, model.build_index("flat")):
        ranked = model.recommend(histories, k=4, skip_unknown=True, index=index)
        assert [[item for item, _ in each] for each in ranked] == [[], [item for item, _ in expected], []]
        assert model.recommend([["gone"]], k=4, skip_unknown=True, index=index) == [[]]


def test_there_is_no_recommendation_from_nothing(trained, dataset):
    model = Recommender.load(trained.output)
    for index in (None, model.build_index("flat")):
        with pytest.raises(InputError, match=r"history: histories\[1\] has no item: expected at least one"):
            model.recommend([dataset.item_ids[:2], []], k=1, index=index)
    for empty in ("", ","):
        shown = CliRunner().invoke(app, ["recommend", trained.output, "--history", empty])
        assert shown.exit_code == 2
        assert "error: history: histories[0] has no item" in shown.output


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


def test_where_nothing_can_be_written_is_found_before_anything_is_learnt(dataset, embeddings, tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    settings = {"embeddings": embeddings, "output": str(tmp_path / "out")}
    config = config_for(dataset, **settings, content_maps=str(tmp_path / "file/maps.safetensors"))
    with pytest.raises(InputError, match=r"file/.* cannot be written"):
        run_rat(config, here=True, tell=lambda *told: pytest.fail("learnt"))
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.parametrize("weights", [TermWeights(0.0, 2.0), TermWeights(-3.0, 2.0), TermWeights(-3.0, 2.0, 0.3)])
def test_an_index_finds_the_same_as_scoring_every_item(trained, dataset, kind, weights):
    model = Recommender.load(trained.output)
    model._encoder.weights = weights
    assert model.content is not None
    histories = [dataset.item_ids[2:5], dataset.item_ids[:6], dataset.item_ids[7:9] * 2]
    index = model.build_index(kind)
    for settings in ({"k": 3}, {"k": 3, "filter_seen": False}, {"k": 99}):
        searched, scored = model.recommend(histories, index=index, **settings), model.recommend(histories, **settings)
        for ours, expected in zip(searched, scored, strict=True):
            assert [item for item, _ in ours] == [item for item, _ in expected]
            assert [score for _, score in ours] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_the_command_shows_recommendations_with_titles(trained, dataset):
    arguments = ["recommend", trained.output, "--history", ",".join(dataset.item_ids[:2]), "-k", "3"]
    shown = CliRunner().invoke(app, [*arguments, "--dataset", dataset.uri])
    assert shown.exit_code == 0, shown.output
    assert len(shown.output.splitlines()) == 1 + 2 + 3
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)["recommended"]
    expected = Recommender.load(trained.output).recommend([dataset.item_ids[:2]], k=3)[0]
    assert [row["item_id"] for row in found] == [item for item, _ in expected]
    assert all(row["item_id"] in shown.output for row in found)


def test_the_documented_backbone_of_ones_own_trains_and_loads_again(trained, dataset, tmp_path, monkeypatch):
    documented = (Path(__file__).parents[2] / "docs" / "recommender.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", documented, re.DOTALL)
    [example] = [block for block in blocks if "class MeanSoFar" in block]
    (tmp_path / "my_models.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    own = {"backbone": "my_models:MeanSoFar", "output": str(tmp_path / "own")}
    run_rat(RatConfig.model_validate(trained.id_only(own["output"]).model_dump() | own), here=True)
    recommender = Recommender.load(own["output"])
    assert recommender.label == "MeanSoFar"
    assert len(rank_targets(recommender, dataset.test(), num_items=NUM_ITEMS)) == 24


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
        with pytest.raises(InputError, match=r"item_vectors: .* holds those of another config or dataset"):
            run_rat(RatConfig.model_validate(again))
        assert not (tmp_path / "again").exists()


def test_the_sum_of_finished_ids_and_text_is_weighed_and_not_trained(trained, tmp_path):
    settings = trained.model_dump() | {
        "method": "text_sum",
        "collaborative": f"{trained.output}/collaborative",
        "output": str(tmp_path / "sum"),
        "fusion": {"content_weights": [0.0, 2.0], "tail_price": 0},
    }
    config = RatConfig.model_validate(settings)
    run_rat(config, here=True)
    ids, both = Recommender.load(f"{trained.output}/collaborative"), Recommender.load(config.output)
    torch.testing.assert_close(both.item_embeddings, ids.item_embeddings)
    metrics = storage.read_json(f"{config.output}/metrics.json")
    assert metrics["epochs"] == []
    alone = storage.read_json(f"{trained.output}/collaborative/metrics.json")
    assert metrics["validation"]["ndcg@10"] >= alone["validation"]["ndcg@10"]
    chosen = metrics["fusion"]["chosen"]
    assert (both.content is not None) == (chosen["content_weight"] > 0 or chosen["content_share"] > 0)


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
