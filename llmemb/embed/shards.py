"""The stages of the embedding pipeline: one item file in, one shard of the snapshot out."""

import functools
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from llmemb import storage, vectors
from llmemb.encoder.batching import padding_share, token_budget_batches
from llmemb.encoder.engine import Precision
from llmemb.encoder.folder import EncoderFolder, local_folder
from llmemb.encoder.torch_engine import TorchEngine, load_tokenizer, tokenize
from llmemb.prompts import PromptTemplate, prompt_hash
from llmemb.vectors import ITEM_ID, VectorDtype

PROMPT_HASH = "prompt_hash"
NO_ATTRIBUTE = "no usable attribute"
REFUSED_FILE = "refused.parquet"
RECORDS_FOLDER = "_shards"


@dataclass(frozen=True)
class ShardPlan:
    """What every stage needs to know; plain values that travel to any node."""

    encoder: str
    snapshot: str
    template: PromptTemplate
    max_seq_len: int
    precision: Precision
    tokens_per_batch: int
    dtype: VectorDtype
    threads: int
    device: str


def tokenize_items(row: Mapping[str, Any], plan: ShardPlan) -> dict[str, Any]:
    """Stage 1, on CPU tasks. Reads ``{shard, items}``: the names of a shard and of the item file it comes from.

    Returns:
        ``shard``; ``tokens``, an Arrow stream of ``item_id``, ``prompt_hash``, ``token_ids: list<int32>``; and
        ``refused``, a JSON list of the ids of items without any usable attribute.
    """
    items = storage.read_table(row["items"], list(dict.fromkeys([ITEM_ID, *plan.template.columns]))).to_pylist()
    prompts = {item[ITEM_ID]: plan.template.render(item) for item in items}
    usable = {item_id: prompt for item_id, prompt in prompts.items() if prompt is not None}
    token_ids = tokenize(_tokenizer(plan.encoder), list(usable.values()), plan.max_seq_len) if usable else []
    table = pa.table(
        {
            ITEM_ID: pa.array(usable.keys(), pa.string()),
            PROMPT_HASH: pa.array(map(prompt_hash, usable.values()), pa.string()),
            "token_ids": pa.array(token_ids, pa.list_(pa.int32())),
        }
    )
    refused = [item_id for item_id, prompt in prompts.items() if prompt is None]
    return {"shard": row["shard"], "tokens": _to_stream(table), "refused": json.dumps(refused)}


@functools.cache
def _tokenizer(encoder: str) -> Any:
    with local_folder(encoder) as path:
        return load_tokenizer(EncoderFolder.read(path))


class EncodeShard:
    """Stage 2, in a pool of actors. Encodes a shard's tokens, writes its Parquet file, then its record.

    The record, ``_shards/part-00000.json``, says that the file beside it is complete: a rerun starts after it.
    """

    def __init__(self, plan: ShardPlan) -> None:
        self._plan = plan
        if plan.device == "cpu":
            torch.set_num_threads(plan.threads)
        with local_folder(plan.encoder) as path:
            self._engine = TorchEngine(
                EncoderFolder.read(path),
                precision=plan.precision,
                tokens_per_batch=plan.tokens_per_batch,
                device=plan.device,
            )

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        plan = self._plan
        table = pa.ipc.open_stream(row["tokens"]).read_all()
        token_ids = [ids.values.to_numpy() for ids in table.column("token_ids")]
        embedded = self._engine.encode(token_ids)
        item_ids = table.column(ITEM_ID).to_pylist()
        _check_finite(embedded, item_ids)
        hashes = table.column(PROMPT_HASH).to_pylist()
        shard = vectors.to_table(item_ids, embedded, plan.dtype, {PROMPT_HASH: hashes})
        entry = vectors.write(storage.join(plan.snapshot, row["shard"]), shard)
        lengths = np.array([len(ids) for ids in token_ids], dtype=np.int64)
        batches = token_budget_batches(lengths, plan.tokens_per_batch)
        record = {
            "entry": entry,
            "dimension": embedded.shape[1],
            "refused": json.loads(row["refused"]),
            "tokens": int(lengths.sum()),
            "padding_share": padding_share(lengths, batches),
        }
        storage.write_json(record_uri(plan.snapshot, row["shard"]), record)
        return {"record": json.dumps(record)}


def record_uri(snapshot: str, shard: str) -> str:
    return storage.join(snapshot, RECORDS_FOLDER, shard.removesuffix(".parquet") + ".json")


def write_refused(snapshot: str, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Writes ``refused.parquet``, the items that have no vector and why; returns its manifest entry, None if none."""
    refused = [item_id for record in records for item_id in record["refused"]]
    if not refused:
        return None
    table = pa.table({ITEM_ID: pa.array(refused, pa.string()), "reason": [NO_ATTRIBUTE] * len(refused)})
    return storage.write_table(storage.join(snapshot, REFUSED_FILE), table)


def _check_finite(embedded: np.ndarray, item_ids: list[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(embedded).all(axis=1))
    if len(bad):
        raise FloatingPointError(f"{len(bad)} embeddings are not finite, the first of item {item_ids[bad[0]]!r}")


def _to_stream(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()
