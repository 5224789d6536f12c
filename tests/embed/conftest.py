"""The stages run in this process, where a test is not about Ray."""

import json
from types import SimpleNamespace

import pytest

from llmemb.embed import pipeline, shards


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
        encoded.append(sum(record["stint"][3][0] for record in records.values() if record["stint"]))

    monkeypatch.setattr(pipeline, "_compare", compare)
    monkeypatch.setattr(pipeline, "_encode", encode)
    monkeypatch.setattr(pipeline, "check_parity", lambda *_: {"sample_items": 0, "min_cosine": 1.0})
    return encoded
