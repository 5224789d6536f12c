"""The records of finished shards: what a rerun starts after, and what the manifest is made of."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmemb import storage
from llmemb.embed.plan import RECORDS_FOLDER, SnapshotPlan
from llmemb.errors import InputError
from llmemb.vectors import ITEM_ID

Records = dict[int, dict[str, Any]]
REFUSED_FILE = "refused.parquet"


def write_record(
    plan: SnapshotPlan, bucket: int, refused: list[tuple[str, str]], counts: dict[str, int], facts: dict[str, Any]
) -> str:
    """Writes the record of a shard that stands, and returns it without the refused items, as JSON."""
    record = {"bucket": bucket, "counts": counts | {"refused": len(refused)}, "refused": refused} | facts
    storage.write_json(plan.record_uri(bucket), record)
    return json.dumps(_without_refused(record))


def read_records(plan: SnapshotPlan) -> Records:
    """The records, by bucket, of the shards that an earlier run of this job finished, and that are there still."""
    names = {storage.name(uri) for uri in storage.list_files(storage.join(plan.uri, RECORDS_FOLDER), ".json")}
    found = [bucket for bucket in range(plan.num_buckets) if storage.name(plan.record_uri(bucket)) in names]
    with ThreadPoolExecutor(16) as pool:
        records = pool.map(lambda bucket: _without_refused(storage.read_json(plan.record_uri(bucket))), found)
        there = {storage.name(uri) for uri in storage.list_files(plan.uri, ".parquet")}
        return {bucket: each for bucket, each in zip(found, records, strict=True) if each["entry"]["file"] in there}


def encoded_buckets(records: Records) -> list[int]:
    """Those of which items were encoded, not only kept or deleted."""
    return [bucket for bucket, record in records.items() if record["counts"]["new"] + record["counts"]["changed"]]


def write_refused(plan: SnapshotPlan, buckets: Iterable[int]) -> dict[str, Any] | None:
    """Writes ``refused.parquet``, the items of these buckets that have no vector and why, a bucket at a time.

    Returns:
        Its manifest entry; None where there are none.
    """
    schema = pa.schema([(ITEM_ID, pa.string()), ("reason", pa.string())])
    buckets, rows = list(buckets), 0
    if not buckets:
        return None
    with tempfile.TemporaryDirectory() as folder, _room_in(folder):
        file = Path(folder) / REFUSED_FILE
        with pq.ParquetWriter(file, schema, **storage.PARQUET_OPTIONS) as writer:
            for bucket in buckets:
                refused = storage.read_json(plan.record_uri(bucket))["refused"]
                writer.write_batch(pa.record_batch([list(column) for column in zip(*refused, strict=True)], schema))
                rows += len(refused)
        storage.upload(Path(folder), plan.uri)
        return {"file": file.name, "rows": rows, "bytes": file.stat().st_size, "sha256": storage.checksum_file(file)}


@contextmanager
def _room_in(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}; TMPDIR names another folder") from error


def _without_refused(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "refused"}
