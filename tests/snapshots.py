"""Snapshots made by hand, without an encoder: for tests of what reads them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from llmemb import storage, vectors
from llmemb.buckets import buckets
from llmemb.embed.snapshot import FORMAT, LATEST_FILE, Snapshot
from llmemb.prompts import prompt_hash
from llmemb.vectors import MANIFEST_FILE

FIRST_NIGHT = datetime(2026, 1, 1, 3, tzinfo=UTC)


def item_vector(prompt: str, dim: int) -> np.ndarray:
    """A vector that depends on the prompt alone."""
    return np.random.default_rng(int(prompt_hash(prompt)[:8], 16)).standard_normal(dim)


def write_snapshot(
    root: str, prompts: dict[str, str], *, night: int = 0, num_files: int = 2, dim: int = 4, **changed: Any
) -> Snapshot:
    """Publishes the vectors of these items, as of a night, and points LATEST at them.

    Args:
        prompts: Prompt by item id.
        changed: Manifest keys with other values.
    """
    dtype = changed.get("dtype", "float32")
    snapshot_id = f"{night:016x}"
    uri = storage.join(root, snapshot_id)
    item_ids = np.array(sorted(prompts), dtype=object)
    bucket = buckets(list(item_ids), num_files)
    entries = []
    for index in range(num_files):
        here = list(item_ids[bucket == index])
        rows = np.array([item_vector(prompts[item_id], dim) for item_id in here]).reshape(-1, dim)
        hashes = {"prompt_hash": [prompt_hash(prompts[item_id]) for item_id in here]}
        part = vectors.to_table(here, rows, dtype, hashes)
        entries.append(vectors.write(storage.join(uri, f"part-{index:05d}.parquet"), part))
    manifest = {
        "format": FORMAT,
        "snapshot_id": snapshot_id,
        "parent": f"{night - 1:016x}" if night else None,
        "created_at": (FIRST_NIGHT + timedelta(days=night)).isoformat(),
        "files": entries,
        "refused_file": None,
        "counts": {"total": len(prompts), "new": len(prompts), "changed": 0, "kept": 0, "deleted": 0, "refused": 0},
        "dimension": dim,
        "dtype": dtype,
        "normalize": False,
        "encoder": "e" * 16,
        "encoder_uri": "s3://bucket/encoder",
        "prompt_template": {"instruction": "An item:", "attributes": [{"name": "title"}]},
        "max_seq_len": 128,
        "precision": "fp32",
        "encoded": {"items": len(prompts), "tokens": 10 * len(prompts)},
        **changed,
    }
    storage.write_json(storage.join(uri, MANIFEST_FILE), manifest)
    storage.write_bytes(storage.join(root, LATEST_FILE), f"{snapshot_id}\n".encode())
    return Snapshot(uri, manifest)
