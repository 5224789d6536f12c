"""Catalogues by hand, and the stages run in this process where a test is not about Ray."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from llmemb import storage
from llmemb.buckets import buckets
from llmemb.embed import pipeline, shards


def write_catalogue(folder: Path, titles: Mapping[str, str | None], *, num_files: int = 8, **columns: Any) -> str:
    """A dataset of items with a title each, as prepare cuts it, and no interactions."""
    item_ids = list(titles)
    table = pa.table({"item_id": item_ids, "title": pa.array(titles.values(), pa.string()), **columns})
    files = buckets(item_ids, num_files)
    entries = [
        storage.write_table(str(folder / "items" / f"part-{index:05d}.parquet"), table.filter(pa.array(files == index)))
        for index in range(num_files)
    ]
    info = {
        "fingerprint": storage.fingerprint(entries),
        "counts": {"items": len(item_ids)},
        "files": {"items": entries},
    }
    storage.write_json(str(folder / "dataset.json"), info)
    return str(folder)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, ray_local: None) -> list[int]:
    """Ray's streams replaced by loops over the same stages; gives the number of items encoded in each run."""
    encoded: list[int] = []

    def compare(todo, plan, records):
        rows = [shards.compare({"bucket": bucket}, plan) for bucket in todo]
        records.update({row["bucket"]: json.loads(row["record"]) for row in rows if row["record"]})
        return {row["bucket"]: row["num_fresh"] for row in rows}

    def encode(config, plan, todo, num_fresh, records):
        encoder = shards.EncodeBucket(plan.encoder, SimpleNamespace(tell=SimpleNamespace(remote=lambda *_: None)))
        for bucket in todo:
            row = shards.write_shard(encoder(shards.tokenize_bucket({"bucket": bucket}, plan)), plan)
            records[bucket] = json.loads(row["record"])
        encoded.append(sum(record["work"][0] for record in records.values()))

    monkeypatch.setattr(pipeline, "_compare", compare)
    monkeypatch.setattr(pipeline, "_encode", encode)
    monkeypatch.setattr(pipeline, "check_parity", lambda *_: {"sample_items": 0, "min_cosine": 1.0})
    return encoded
