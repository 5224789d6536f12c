"""Items that came after the training have the rows that they would have had in it."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from llmemb import storage, vectors
from llmemb.cli import app
from llmemb.data.dataset import Dataset
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.rat.config import RatConfig
from llmemb.rat.new_items import NEW_ITEMS_FILE
from llmemb.rat.recommender import Recommender
from llmemb.rat.run import run_rat
from tests.generated import prepare_dataset
from tests.snapshots import write_snapshot

NUM_ITEMS, COLD = 14, ["i12", "i13"]
MOVED = {"adapter": {"freeze_embeddings": False}}
"""Training moves cold items too, as negatives."""
PROMPTS = {f"i{number}": f"thing {number}" for number in range(NUM_ITEMS)}
LATER = PROMPTS | {"a-twin": PROMPTS["i12"], "n1": "thing of another kind"}
"""The next night's: one reads as a cold item does, and its id is before all others."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve items that users walk round, and two that nobody has ever had."""
    walks = [(f"u{user}", f"i{(user + step) % 12}", step) for user in range(24) for step in range(6)]
    interactions = pl.DataFrame(walks, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": list(PROMPTS), "title": list(PROMPTS.values())})
    return prepare_dataset(tmp_path_factory.mktemp("data"), items, interactions)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("embeddings")
    write_snapshot(str(root), PROMPTS, dim=5)
    write_snapshot(str(root), LATER, dim=5, night=1)
    return str(root)


def train(dataset: str, embeddings: str, output: Path, /, **changed: Any) -> Recommender:
    settings: dict[str, Any] = {
        "model": {"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 4, "dropout": 0.0},
        "training": {"max_epochs": 2, "batch_positions": 16, "learning_rate": 0.01},
        "fusion": {"content_weights": [2.0], "content_shares": [0.3]},
        "content": {"epochs": 2, "learning_rate": 0.1},
        "embeddings": f"{embeddings}/{0:016x}",
        "dataset": dataset,
        "output": str(output),
    }
    config = RatConfig.model_validate(settings | changed)
    run_rat(config, here=True)
    return Recommender.load(config.output)


@pytest.fixture(scope="module")
def trained(dataset, embeddings, tmp_path_factory) -> Recommender:
    return train(dataset, embeddings, tmp_path_factory.mktemp("rat") / "llmemb")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"adapter": {"kind": "mlp", "scaling": "whiten"}},
        {"adapter": {"kind": "paper", "scaling": "none", "add_ids": False}},
        {"model": {"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 4, "similarity": "dot"}},
        {"content": {"epochs": 0}},
        {"fusion": {"content": False}, "content": {"epochs": 0}},
    ],
)
def test_an_item_without_interactions_has_the_same_row_if_it_comes_later(
    dataset, embeddings, trained, tmp_path, changed
):
    recommender = train(dataset, embeddings, tmp_path / "other", **changed) if changed else trained
    cold = [recommender.item_ids.index(item) for item in COLD]
    assert Dataset.open(dataset).popularity[np.array(cold) + 1].tolist() == [0, 0]
    texts, _ = Snapshot.open(embeddings).vectors(COLD)
    rows = recommender._new_items().rows(torch.from_numpy(texts), recommender._encoder)
    torch.testing.assert_close(rows.embeddings, recommender.item_embeddings[cold])
    assert (rows.content is None) == (recommender.content is None)
    if rows.content is not None:
        torch.testing.assert_close(rows.content, recommender.content[cold])


def test_new_items_are_recommended_and_may_be_in_histories(trained, embeddings):
    later = trained.with_new_items(embeddings)
    assert later.item_ids == [*trained.item_ids, "a-twin", "n1"]
    torch.testing.assert_close(later.item_embeddings[:NUM_ITEMS], trained.item_embeddings, rtol=0, atol=0)
    histories = [["i2", "i3"], ["i7", "n1"], ["a-twin"]]
    ranked = later.recommend(histories, k=99)
    assert [len(each) for each in ranked] == [14, 14, 15]
    scores = dict(ranked[0])
    assert scores["a-twin"] == pytest.approx(scores["i12"], rel=1e-5)
    assert scores["n1"] != pytest.approx(scores["i12"], rel=1e-3)
    as_twin = dict(later.recommend([["i12"]], k=99)[0])
    assert dict(ranked[2])["i3"] == pytest.approx(as_twin["i3"], rel=1e-5)
    with pytest.raises(InputError, match=r"^index: it holds 14 items; expected the recommender's 16"):
        later.recommend(histories, k=5, index=trained.build_index("flat"))
    found = later.recommend(histories, k=5, index=later.build_index("flat"))
    assert [{item for item, _ in each} for each in found] == [{item for item, _ in each[:5]} for each in ranked]
    with pytest.raises(InputError, match="'n1' is none of the recommender's 14 items"):
        trained.recommend(histories, k=1)


def test_a_snapshot_without_new_items_adds_none_and_reads_no_vector(trained, embeddings, monkeypatch):
    read: list[str] = []
    part = Snapshot.part
    monkeypatch.setattr(Snapshot, "part", lambda self, entry: read.append(entry["file"]) or part(self, entry))
    same = trained.with_new_items(f"{embeddings}/{0:016x}")
    assert (same.item_ids, read) == (trained.item_ids, [])
    assert same.recommend([["i2", "i3"]], k=3) == trained.recommend([["i2", "i3"]], k=3)
    later = trained.with_new_items(embeddings)
    assert later.with_new_items(embeddings).item_ids == later.item_ids


def test_what_cannot_be_is_one_line(dataset, trained, embeddings, tmp_path):
    other = write_snapshot(str(tmp_path / "other"), LATER, dim=5, encoder="f" * 16)
    with pytest.raises(InputError, match=f"^embeddings: {other.uri} has encoder f{{16}}; expected e{{16}}, which the"):
        trained.with_new_items(other.uri)
    read_otherwise = write_snapshot(str(tmp_path / "prompts"), LATER, dim=5, prompt_template={"instruction": "Thing:"})
    with pytest.raises(InputError, match="has another prompt_template than the recommender was trained on"):
        trained.with_new_items(read_otherwise.uri)
    wide = write_snapshot(str(tmp_path / "wide"), LATER, dim=6)
    with pytest.raises(InputError, match="has dimension 6; expected 5, which the recommender was trained on"):
        trained.with_new_items(wide.uri)
    broken = Snapshot.open(embeddings)
    table = vectors.to_table(["i0", "n2"], np.array([[0.0] * 5, [np.nan] * 5]), "float32")
    entry = vectors.write(f"{tmp_path}/broken/part-00000.parquet", table)
    storage.write_json(f"{tmp_path}/broken/manifest.json", broken.manifest | {"files": [entry]})
    with pytest.raises(InputError, match="1 items have values that are NaN or infinite, such as 'n2'"):
        trained.with_new_items(f"{tmp_path}/broken")
    for changed in (
        {"method": "none", "embeddings": None},
        {"method": "text_sum"},
        {"adapter": {"kind": "pca"}},
        MOVED,
    ):
        without = train(dataset, embeddings, tmp_path / storage.fingerprint(changed), **changed)
        with pytest.raises(InputError, match=f"has no {NEW_ITEMS_FILE}: it knows items by more than their text"):
            without.with_new_items(embeddings)


def test_the_file_is_this_runs_or_it_is_refused(dataset, embeddings, tmp_path):
    recommender = train(dataset, embeddings, tmp_path / "rat")
    file = tmp_path / "rat" / NEW_ITEMS_FILE
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match=f"{NEW_ITEMS_FILE} is not what recommender.json names: it was changed"):
        recommender.with_new_items(embeddings)


def test_the_command_recommends_them_too(trained, embeddings):
    command = ["recommend", str(trained.uri), "--history", "i2,n1", "-k", "15", "--json"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "error: history: 'n1' is none of the recommender's 14 items" in refused.output
    shown = CliRunner().invoke(app, [*command, "--embeddings", embeddings])
    assert shown.exit_code == 0
    assert '"a-twin"' in shown.output
