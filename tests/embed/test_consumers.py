"""A snapshot is plain Parquet: what its users open it with, none of which knows llmemb."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmemb import storage
from llmemb.embed.snapshot import Snapshot
from tests.snapshots import item_vector, write_snapshot

DIM = 6
PROMPTS = {f"i{number}": f"thing {number}" for number in range(40)}


@pytest.fixture(scope="module", params=["float16", "float32"])
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    root = tmp_path_factory.mktemp("root")
    refused = pa.table({"item_id": ["r"], "reason": ["no usable attribute"]})
    entry = storage.write_table(str(root / f"{0:016x}" / "refused.parquet"), refused)
    return write_snapshot(str(root), PROMPTS, dim=DIM, dtype=request.param, refused_file=entry)


def check(item_ids: list[str], embeddings: list, dtype: str) -> None:
    assert sorted(item_ids) == sorted(PROMPTS)
    expected = np.stack([item_vector(PROMPTS[item], DIM) for item in item_ids]).astype(dtype)
    np.testing.assert_array_equal(np.stack([np.asarray(row) for row in embeddings]).astype(dtype), expected)


def test_duckdb(snapshot):
    import duckdb

    parts = f"read_parquet('{snapshot.uri}/part-*.parquet')"
    rows = duckdb.sql(f"SELECT item_id, embedding::FLOAT[{DIM}] FROM {parts}").fetchall()
    check([row[0] for row in rows], [row[1] for row in rows], snapshot.manifest["dtype"])
    nearest = duckdb.sql(
        f"SELECT b.item_id FROM {parts} a, {parts} b WHERE a.item_id = 'i7' ORDER BY "
        f"array_cosine_similarity(a.embedding::FLOAT[{DIM}], b.embedding::FLOAT[{DIM}]) DESC LIMIT 1"
    ).fetchall()
    assert nearest == [("i7",)]


def test_polars(snapshot):
    import polars as pl

    frame = pl.read_parquet(f"{snapshot.uri}/part-*.parquet")
    check(frame["item_id"].to_list(), frame["embedding"].to_list(), snapshot.manifest["dtype"])


def test_pandas(snapshot):
    import pandas as pd

    frame = pd.read_parquet(sorted(map(str, Path(snapshot.uri).glob("part-*.parquet"))))
    check(frame["item_id"].to_list(), frame["embedding"].to_list(), snapshot.manifest["dtype"])


def test_datasets(snapshot, tmp_path):
    from datasets import load_dataset

    loaded = load_dataset(
        "parquet", data_files=f"{snapshot.uri}/part-*.parquet", split="train", cache_dir=str(tmp_path)
    )
    check(list(loaded["item_id"]), list(loaded["embedding"]), snapshot.manifest["dtype"])


def test_polars_reads_it_from_a_store_too(snapshot, object_stores, tmp_path):
    import polars as pl

    uri = f"s3://conditional/{tmp_path.name}"
    storage.upload(Path(snapshot.uri), uri)
    frame = pl.read_parquet(f"{uri}/part-*.parquet")
    check(frame["item_id"].to_list(), frame["embedding"].to_list(), snapshot.manifest["dtype"])
