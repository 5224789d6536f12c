"""Two nights with the real stages, on a catalogue that changes between them."""

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmemb import storage
from llmemb.data.config import PrepareConfig
from llmemb.data.dataset import Dataset
from llmemb.data.prepare import run_prepare
from llmemb.nightly import live, run, summary
from llmemb.nightly.config import NightlyConfig
from llmemb.rat.recommender import Recommender
from llmemb.rat.run import run_rat

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PLANTED = "planted-secret-7c21"
QUICK = {
    "rat": {
        "model": {"hidden_dim": 8, "num_blocks": 1, "max_seq_len": 8},
        "training": {"max_epochs": 2},
        "engine": {"threads_per_worker": 1},
    },
    "evaluate": {
        "split": "validation",
        "sampled": None,
        "uncertainty": {"resamples": 100, "randomisations": 100},
        "embedding_map": {"max_items": 10},
        "examples": {"num_users": 0},
    },
    "publish": {"margin": 0.99, "slices": ["overall"]},
}


def prepare(folder: Path, *, num_items: int, num_interactions: int) -> str:
    """A dataset whose first items and interactions are the same for any size."""
    things = ["table", "lamp", "chair", "desk"]
    titles = [f"{['red', 'blue', 'green'][item % 3]} {things[item % 4]}" for item in range(num_items)]
    pl.DataFrame({"item_id": [f"i{item}" for item in range(num_items)], "title": titles}).write_parquet(
        folder / "items.parquet"
    )
    drawn = np.random.default_rng(0).random(num_interactions)
    pl.DataFrame(
        {
            "user_id": [f"u{step % 30}" for step in range(num_interactions)],
            "item_id": [f"i{int(value * (num_items if step >= 240 else 36))}" for step, value in enumerate(drawn)],
            "timestamp": list(range(num_interactions)),
        }
    ).write_parquet(folder / "interactions.parquet")
    tables = {table: str(folder / f"{table}.parquet") for table in ("items", "interactions")}
    filters = {"min_user_interactions": 1, "min_item_interactions": 1}
    settings = {**tables, "columns": {"order_by": "timestamp"}, "filters": filters, "output": str(folder / "dataset")}
    run_prepare(PrepareConfig.parse(settings))
    return settings["output"]


def test_a_recommender_of_tonight_replaces_that_of_a_smaller_catalogue(
    tiny_encoder, ray_local, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    monkeypatch.setenv("RAY_AUTH_TOKEN", PLANTED)
    root = str(tmp_path / "nightly")
    for night, size in (("first", (36, 240)), ("second", (44, 360))):
        (tmp_path / night).mkdir()
        dataset = prepare(tmp_path / night, num_items=size[0], num_interactions=size[1])
        embed = {"encoder": str(tiny_encoder), "prompt": {"attributes": ["title"]}}
        config = NightlyConfig.parse(QUICK | {"dataset": dataset, "output": root, "embed": embed})
        with monkeypatch.context() as patch:
            if night == "first":
                patch.setattr(run, "run_rat", partial(run_rat, here=True))
            run.run_nightly(config)
    run.run_nightly(config)
    first, second, third = summary.read_all(root)
    assert [night["outcome"] for night in (first, second, third)] == ["published", "published", "not due"]
    assert third["reason"] == "no training was due"
    assert second["snapshot"]["counts"]["new"] == 8
    assert second["training"] == "18.2% of the catalogue has changed since the last"
    [row] = second["comparison"]
    assert row["live"] > 0
    assert row["candidate"] >= row["required"] == pytest.approx(0.01 * row["live"])
    assert live.live_id(root) == second["candidate"] != first["candidate"]
    recommender = Recommender.load(storage.join(root, "recommenders", second["live"]))
    assert recommender.item_ids == Dataset.open(dataset).item_ids
    models = storage.read_json(storage.join(second["evaluation"], "metrics.json"))["models"]
    assert {storage.name(model["uri"]) for model in models if model["kind"] == "recommender"} == {
        first["live"],
        second["live"],
    }
    said = "".join(capfd.readouterr())
    assert "night of" in said
    assert PLANTED not in said
    written = storage.list_tree(root)
    assert len(written) > 20
    assert not [entry.uri for entry in written if PLANTED.encode() in storage.read_bytes(entry.uri)]
