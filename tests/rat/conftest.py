"""A catalogue of twelve items, a snapshot of it, and LLMEmb trained on both."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmemb import storage, vectors
from llmemb.data.config import PrepareConfig
from llmemb.data.dataset import Dataset
from llmemb.data.prepare import run_prepare
from llmemb.embed import snapshot
from llmemb.rat.config import RatConfig
from llmemb.rat.run import run_rat
from llmemb.vectors import VectorDtype

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


@pytest.fixture(scope="session")
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
        "refused_file": None,
    }
    snapshot.publish(str(root), manifest)
    return str(root)


@pytest.fixture(scope="session")
def embeddings(dataset, tmp_path_factory) -> str:
    values = np.random.default_rng(0).normal(size=(NUM_ITEMS, EMBEDDING_DIM))
    return publish(tmp_path_factory.mktemp("embeddings"), dataset.item_ids, values)


@pytest.fixture(scope="session")
def trained(dataset, embeddings, ray_local, tmp_path_factory) -> RatConfig:
    output = str(tmp_path_factory.mktemp("rat") / "llmemb")
    settings = {"dataset": dataset.uri, "embeddings": embeddings, "output": output, **SMALL}
    config = RatConfig.model_validate(settings | {"fusion": {"content_weights": [2.0], "content_shares": [0.3]}})
    run_rat(config.id_only(f"{output}/collaborative"), here=True)
    run_rat(config)
    return config


def config_for(dataset: Dataset, **settings) -> RatConfig:
    return RatConfig.model_validate({"dataset": dataset.uri, **SMALL, **settings})


def publish_second(root: str) -> None:
    """A copy of the first snapshot under another name."""
    shutil.copytree(f"{root}/first", f"{root}/second", dirs_exist_ok=True)
    manifest = storage.read_json(f"{root}/second/manifest.json")
    storage.write_json(f"{root}/second/manifest.json", manifest | {"snapshot_id": "second"})
    storage.write_bytes(f"{root}/LATEST", b"second\n")
