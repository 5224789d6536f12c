"""The shuffle's files, in a real S3 store."""

import uuid

import numpy as np
import polars as pl
import pytest
from s3fs.core import S3File

from llmemb import storage
from llmemb.data.spill import Spill, rows_of_bucket
from tests.object_stores import Faults


def test_bucket_is_read_without_what_lies_beside_it(object_stores: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    fetch_range = S3File._fetch_range

    def counted(file: S3File, start: int, end: int) -> bytes:
        content = fetch_range(file, start, end)
        fetched.append(len(content))
        return content

    monkeypatch.setattr(S3File, "_fetch_range", counted)
    generator = np.random.default_rng(0)
    texts = [generator.bytes(500).hex() for _ in range(1600)]
    frame = pl.DataFrame({"item_id": [f"i{item}" for item in range(1600)], "place": range(1600), "text": texts})
    spill = Spill(f"s3://plain/{uuid.uuid4().hex}", num_buckets=16)
    size = storage.size(storage.join(spill.folder, spill.write("0.arrow", frame, "item_id")))

    expected = rows_of_bucket(frame, "item_id", 3, 16)
    assert spill.read(["0.arrow"], [3]).equals(expected)
    assert sum(fetched) < size / 8
    fetched.clear()
    [ids] = spill.frames(["0.arrow"], [3], ["item_id", "place"])
    assert ids.equals(expected.select("item_id", "place"))
    assert sum(fetched) < size / 160
