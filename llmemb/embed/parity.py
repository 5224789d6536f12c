"""The gate before a snapshot is published: are these the vectors that the encoder gives each item alone?"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmemb import vectors
from llmemb.compute.nodes import cpu_threads
from llmemb.compute.request import Request
from llmemb.compute.tasks import check_memory, run_task
from llmemb.embed.changes import parent_hashes, read_items
from llmemb.embed.config import ParityConfig
from llmemb.embed.plan import EncoderPlan, SnapshotPlan
from llmemb.embed.snapshot import PROMPT_HASH, Snapshot
from llmemb.encoder.folder import EncoderFolder, float32_memory, local_folder
from llmemb.errors import InputError
from llmemb.vectors import ITEM_ID

SAMPLED_SHARDS = 8
MAX_BYTES_ON_GPU = 8 * 2**30
"""Of float32 weights: these find room on any GPU that encodes. A sample of a larger model is within reach of CPUs."""
MAX_CPUS = 8


def check_parity(
    snapshot: Snapshot, plan: SnapshotPlan, buckets: Sequence[int], config: ParityConfig
) -> dict[str, Any]:
    """Compares a sample of tonight's vectors, as stored, with unbatched float32 ones, from the catalogue again.

    The others passed on the night that encoded them, and are the same bytes.

    Args:
        buckets: Those of which items were encoded.

    Returns:
        ``sample_items`` and their lowest cosine, for the manifest; None where nothing was encoded.

    Raises:
        InputError: a cosine below the limit; nothing is published.
    """
    if not buckets:
        return {"sample_items": 0, "min_cosine": None}
    item_ids, prompts, stored = _sample(snapshot, plan, buckets, config.sample_items)
    check_parity_fits(plan.encoder)
    reference = _reference(plan.encoder)
    expected = np.asarray(run_task("parity", _unbatched, reference, prompts, request=_request(reference)))
    cosines = (expected * stored).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(stored, axis=1)
    worst = int(np.argmin(cosines))
    if not cosines[worst] >= config.min_cosine:
        raise InputError(
            f"parity: item {item_ids[worst]!r} has cosine {cosines[worst]:.8f} to its unbatched float32 "
            f"embedding; expected at least {config.min_cosine}; {snapshot.uri} is not published; a rerun checks it "
            "again, and encodes again if that folder is deleted or engine.kind is another"
        )
    return {"sample_items": len(item_ids), "min_cosine": float(cosines[worst])}


def check_parity_fits(encoder: EncoderPlan) -> None:
    """Finds out before anything is encoded whether the check will find a node with memory for its float32 model.

    Raises:
        InputError: no node has it.
    """
    check_memory("parity", _request(_reference(encoder)))


def _reference(encoder: EncoderPlan) -> EncoderPlan:
    """Where the float32 model runs: where the encoders do, but on CPUs if it may not fit one GPU."""
    if not encoder.on_gpu:
        return encoder
    if 4 * encoder.num_parameters <= MAX_BYTES_ON_GPU:
        return replace(encoder, threads=1, gpus_per_worker=1)
    return replace(encoder, device="cpu", threads=min(MAX_CPUS, cpu_threads(1, encoder.node_labels)))


def _request(reference: EncoderPlan) -> Request:
    """What the check's one task asks for."""
    return replace(reference.request, memory=float32_memory(reference.num_parameters))


def _sample(
    snapshot: Snapshot, plan: SnapshotPlan, buckets: Sequence[int], size: int
) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Ids, prompts and stored vectors of encoded items of a few shards, the same for the same snapshot."""
    generator = np.random.default_rng(int(snapshot.snapshot_id, 16))
    shards = generator.choice(buckets, size=min(SAMPLED_SHARDS, len(buckets)), replace=False)
    prompts: dict[str, str] = {}
    stored: dict[str, NDArray[np.floating]] = {}
    for shard in shards.tolist():
        parent = parent_hashes(plan, shard)
        table = snapshot.part(snapshot.manifest["files"][shard])
        hashes = zip(table.column(ITEM_ID).to_pylist(), table.column(PROMPT_HASH).to_pylist(), strict=True)
        encoded = [row for row, (item_id, prompt_hash) in enumerate(hashes) if parent.get(item_id) != prompt_hash]
        rows = generator.choice(encoded, size=min(-(-size // len(shards)), len(encoded)), replace=False)
        stored |= zip(table.column(ITEM_ID).take(rows).to_pylist(), vectors.from_table(table)[rows], strict=True)
        for items in read_items(plan, shard):
            for item in items:
                if item.prompt and item.item_id in stored:
                    prompts.setdefault(item.item_id, item.prompt)
    shown = list(prompts)
    return shown, list(prompts.values()), np.stack([stored[item_id] for item_id in shown]).astype(np.float64)


def _unbatched(encoder: EncoderPlan, prompts: list[str]) -> NDArray[np.float64]:
    import torch

    from llmemb.encoder.torch_engine import TorchEngine, load_tokenizer, tokenize

    if not encoder.on_gpu:
        torch.set_num_threads(encoder.threads)
    with local_folder(encoder.uri) as path:
        engine = TorchEngine(EncoderFolder.read(path), precision="fp32", tokens_per_batch=1, device=encoder.device)
        tokens = tokenize(load_tokenizer(path), prompts, encoder.max_seq_len)
    return engine.encode(tokens)[:, : encoder.dimension].astype(np.float64)
