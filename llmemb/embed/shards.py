"""The stages of the embedding job: one bucket of the catalogue in, one shard of the snapshot out.

Each takes and gives a row of a Ray dataset, and each can be run again: by Ray, when a worker or a node dies, and by a
second job, which starts after the shards whose records stand.
"""

import io
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmemb import storage, vectors
from llmemb.compute.devices import check_gpu
from llmemb.embed.changes import Changes, in_bucket, parent_hashes, parent_shards, read_items
from llmemb.embed.meter import Stint, Work
from llmemb.embed.plan import EncoderPlan, Parent, SnapshotPlan
from llmemb.embed.records import write_record
from llmemb.embed.snapshot import PROMPT_HASH
from llmemb.encoder.batching import TokenIds, token_budget_batches
from llmemb.encoder.engine import Engine, load_engine
from llmemb.encoder.folder import EncoderFolder, local_folder
from llmemb.errors import InputError, TemporaryError
from llmemb.vectors import EMBEDDING, ITEM_ID

NO_TOKENS = "the tokenizer makes no token of it"
NOT_FINITE = "its embedding is not finite"
# The threads of a CPU wait for the last batch of a window; a GPU waits for nothing, and its batches are long.
BATCHES_PER_WINDOW = {"cpu": 64, "cuda": 16}
TOKENS = pa.schema([(ITEM_ID, pa.string()), (PROMPT_HASH, pa.string()), ("token_ids", pa.list_(pa.int32()))])


def compare(row: Mapping[str, Any], plan: SnapshotPlan) -> dict[str, Any]:
    """Stage 0, where there is a parent. ``{bucket}`` in.

    Returns:
        ``bucket``, ``num_fresh``, and ``record``: that of the shard if nothing of it is to be encoded, for then it is
        made here; else nothing.
    """
    bucket = int(row["bucket"])
    changes = Changes(parent_hashes(plan, bucket))
    for items in read_items(plan, bucket):
        changes.fresh(items)
    record = ""
    if plan.parent is not None and not changes.num_fresh:
        record = _make_of_parents(plan.parent, plan, bucket, changes)
    return {"bucket": bucket, "num_fresh": changes.num_fresh, "record": record}


def tokenize_bucket(row: Mapping[str, Any], plan: SnapshotPlan) -> dict[str, Any]:
    """Stage 1, on CPU tasks. ``{bucket}`` in.

    Returns:
        ``bucket``; ``tokens``, an Arrow stream of ``item_id, prompt_hash, token_ids`` of the items to encode; ``kept``,
        a JSON list of the ids whose vectors stay; and ``refused``, of ids and reasons.
    """
    from llmemb.encoder.torch_engine import tokenize, tokenizer_of

    bucket = int(row["bucket"])
    changes = Changes(parent_hashes(plan, bucket))
    tokenizer = tokenizer_of(plan.encoder.uri)
    batches = []
    for items in read_items(plan, bucket):
        fresh = changes.fresh(items)
        token_ids = tokenize(tokenizer, [str(item.prompt) for item in fresh], plan.encoder.max_seq_len)
        changes.refused += [(item.item_id, NO_TOKENS) for item, ids in zip(fresh, token_ids, strict=True) if not ids]
        rows = [(item.item_id, item.prompt_hash, ids) for item, ids in zip(fresh, token_ids, strict=True) if ids]
        batches.append(pa.record_batch([list(column) for column in zip(*rows, strict=True)] or [[], [], []], TOKENS))
    tokens = pa.Table.from_batches(batches, TOKENS)
    return {
        "bucket": bucket,
        "tokens": _to_stream(tokens),
        "kept": json.dumps(changes.kept),
        "refused": json.dumps(changes.refused),
    }


class EncodeBucket:
    """Stage 2, in a pool of actors, each with an encoder. ``{bucket, tokens, …}`` in.

    Returns:
        The row with ``vectors``, an Arrow stream of ``item_id, embedding, prompt_hash``, in place of ``tokens``, and
        ``stint``, what that took.
    """

    def __init__(self, plan: EncoderPlan, meter: Any) -> None:
        self._plan, self._meter = plan, meter
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._engine: Engine | InputError | TemporaryError
        try:
            self._engine = _load_engine(plan)
        # Raised by the first bucket: of a constructor's error the driver gets text alone.
        except (InputError, TemporaryError) as error:
            self._engine = error

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(self._engine, InputError | TemporaryError):
            raise self._engine
        table = pa.ipc.open_stream(row["tokens"]).read_all()
        token_ids = [ids.values.to_numpy() for ids in table.column("token_ids")]
        embedded, stint = self._encode(self._engine, token_ids, int(row["bucket"]))
        hashes = table.column(PROMPT_HASH).to_pylist()
        shard = vectors.to_table(table.column(ITEM_ID).to_pylist(), embedded, self._plan.dtype, {PROMPT_HASH: hashes})
        passed_on = {key: row[key] for key in ("bucket", "kept", "refused")}
        return passed_on | {"vectors": _to_stream(shard), "stint": json.dumps(stint)}

    def _encode(self, engine: Engine, token_ids: list[TokenIds], bucket: int) -> tuple[NDArray[np.float32], Stint]:
        """Longest first, in windows of some batches each, after which the meter hears of them."""
        plan = self._plan
        lengths = np.array([len(ids) for ids in token_ids], dtype=np.int64)
        dimension = plan.dimension or engine.embedding_dim
        embedded = np.empty((len(token_ids), dimension), dtype=np.float32)
        batches = token_budget_batches(lengths, plan.tokens_per_batch)
        began, work, per_window = time.time(), Work(), BATCHES_PER_WINDOW[plan.device]
        for start in range(0, len(batches), per_window):
            window = batches[start : start + per_window]
            rows = np.concatenate(window)
            started = time.perf_counter()
            found = engine.encode([token_ids[row] for row in rows])
            embedded[rows] = cut(found, dimension, normalized=plan.normalize)
            work = work.plus(_work(lengths, window, time.perf_counter() - started, padded=engine.pads))
            self._meter.tell.remote(bucket, Stint(self._name, began, time.time(), work))
        return embedded, Stint(self._name, began, time.time(), work)


def write_shard(row: Mapping[str, Any], plan: SnapshotPlan) -> dict[str, Any]:
    """Stage 3, on CPU tasks. Joins what was encoded with what is kept, and writes the shard, then its record.

    Returns:
        ``record``, without the refused items.
    """
    encoded, not_finite = _finite(pa.ipc.open_stream(row["vectors"]).read_all())
    refused = [*json.loads(row["refused"]), *not_finite]
    kept, stint = json.loads(row["kept"]), json.loads(row["stint"])
    return {"record": _join(plan, int(row["bucket"]), encoded=encoded, kept=kept, refused=refused, stint=stint)}


def cut(embedded: NDArray[np.float32], dimension: int, *, normalized: bool) -> NDArray[np.float32]:
    """The first ``dimension`` values of vectors ``[items, dim]``, of length 1 again where they were."""
    if dimension == embedded.shape[1]:
        return embedded
    short = embedded[:, :dimension]
    return short / np.linalg.norm(short, axis=1, keepdims=True) if normalized else short


def _load_engine(plan: EncoderPlan) -> Engine:
    if plan.on_gpu:
        check_gpu()
    else:
        import torch

        torch.set_num_threads(plan.threads)
    with local_folder(plan.uri) as path:
        folder = EncoderFolder.read(path)
        if folder.fingerprint() != plan.fingerprint:
            raise InputError(f"encoder: {plan.uri} was changed while the job ran")
        engine = load_engine(
            plan.kind,
            replace(folder, normalize=plan.normalize),
            precision=plan.precision,
            tokens_per_batch=plan.tokens_per_batch,
            device=plan.device,
            num_gpus=max(1, plan.num_gpus),
            compiled=plan.compiled,
        )
    if (plan.dimension or 0) > engine.embedding_dim:
        raise InputError(f"dimension: {plan.uri} makes {engine.embedding_dim}; expected at most so many")
    return engine


def _work(lengths: NDArray[np.int64], window: list[NDArray[np.int64]], seconds: float, *, padded: bool) -> Work:
    tokens = sum(int(lengths[rows].sum()) for rows in window)
    held = sum(len(rows) * int(lengths[rows].max()) for rows in window) if padded else tokens
    return Work(sum(map(len, window)), tokens, held, seconds)


def _finite(table: pa.Table) -> tuple[pa.Table, list[tuple[str, str]]]:
    """The rows whose vectors are finite as they are stored, and the others, refused."""
    finite = np.isfinite(vectors.from_table(table)).all(axis=1)
    if finite.all():
        return table, []
    return table.filter(pa.array(finite)), [
        (item_id, NOT_FINITE) for item_id in table.filter(pa.array(~finite)).column(ITEM_ID).to_pylist()
    ]


def _make_of_parents(parent: Parent, plan: SnapshotPlan, bucket: int, changes: Changes) -> str:
    """The record of a shard of the parent's vectors alone: copied whole, unread, where none is gone."""
    if not changes.nothing_changed or len(parent.files) != plan.num_buckets:
        nothing = np.empty((0, parent.dimension), dtype=np.float32)
        encoded = vectors.to_table([], nothing, plan.encoder.dtype, {PROMPT_HASH: []})
        return _join(plan, bucket, encoded=encoded, kept=changes.kept, refused=changes.refused, stint=None)
    entry = parent.files[bucket]
    storage.copy(storage.entry_uri(parent.uri, entry), plan.shard_uri(bucket))
    counts = {"new": 0, "changed": 0, "kept": len(changes.kept), "deleted": 0}
    facts = {"entry": entry, "dimension": parent.dimension, "stint": None}
    return write_record(plan, bucket, changes.refused, counts, facts)


def _join(
    plan: SnapshotPlan,
    bucket: int,
    *,
    encoded: pa.Table,
    kept: list[str],
    refused: list[tuple[str, str]],
    stint: list[Any] | None,
) -> str:
    """Writes a shard of what was encoded and of the parent's vectors that stay, then its record."""
    parent, tables = _kept(plan, bucket, kept, encoded.schema)
    shard = pa.concat_tables([*tables, encoded]).sort_by(ITEM_ID)
    changed = len(parent.intersection(encoded.column(ITEM_ID).to_pylist()))
    counts = {"new": encoded.num_rows - changed, "changed": changed, "kept": shard.num_rows - encoded.num_rows}
    counts["deleted"] = len(parent) - changed - counts["kept"]
    facts = {
        "entry": _write_new(plan.shard_uri(bucket), shard),
        "dimension": shard.schema.field(EMBEDDING).type.list_size,
        "stint": stint,
    }
    return write_record(plan, bucket, refused, counts, facts)


def _kept(plan: SnapshotPlan, bucket: int, kept: list[str], schema: pa.Schema) -> tuple[set[str], list[pa.Table]]:
    """The ids of the parent's vectors in a bucket, and the rows that stay, bit for bit."""
    parent: set[str] = set()
    tables = []
    for folder, entry in parent_shards(plan, bucket):
        table = vectors.read(folder, entry)
        table = table.filter(in_bucket(table.column(ITEM_ID), plan, bucket))
        parent.update(table.column(ITEM_ID).to_pylist())
        stays = pc.is_in(table.column(ITEM_ID), value_set=pa.array(kept, pa.string()))
        tables.append(table.filter(stays).select(schema.names).cast(schema))
    return parent, tables


def _write_new(uri: str, shard: pa.Table) -> dict[str, Any]:
    """Writes a shard that is not there yet; one that is, of the same items, stays as it is.

    It was written by a run that was cut off before the record, or by another run of the same job at the same time:
    whoever comes first has written it, for two encoders may differ in low bits. A copied shard and ``refused.parquet``
    may be written twice: their content is the same whoever writes it.
    """
    content = vectors.to_bytes(shard)
    if not storage.swap(uri, content, None):
        content = storage.read_bytes(uri)
        theirs = storage.parse_table(content, uri)
        if not theirs.drop_columns(EMBEDDING).equals(shard.drop_columns(EMBEDDING)):
            raise InputError(f"{uri}: a file of other items is in the way; expected this job's own or none")
    return storage.entry(uri, shard.num_rows, content)


def _to_stream(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()
