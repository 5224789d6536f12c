"""The gate before a snapshot is published: are these the vectors that the encoder gives each item alone?"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmemb import vectors
from llmemb.embed.changes import read_items
from llmemb.embed.config import ParityConfig
from llmemb.embed.plan import EncoderPlan, SnapshotPlan
from llmemb.embed.snapshot import Snapshot
from llmemb.encoder.folder import EncoderFolder, local_folder
from llmemb.encoder.torch_engine import TorchEngine, load_tokenizer, tokenize
from llmemb.errors import InputError
from llmemb.vectors import ITEM_ID

SAMPLED_SHARDS = 8


def check_parity(snapshot: Snapshot, plan: SnapshotPlan, config: ParityConfig) -> dict[str, Any]:
    """Compares a sample of stored vectors with unbatched float32 ones, item by item, from the catalogue again.

    Returns:
        ``sample_items`` and their lowest cosine, for the manifest.

    Raises:
        InputError: a cosine below the limit; nothing is published.
    """
    import ray

    item_ids, prompts, stored = _sample(snapshot, plan, config.sample_items)
    encoder = plan.encoder
    cpus, gpus = (1, 1) if encoder.on_gpu else (encoder.threads, 0)
    expected = np.asarray(ray.get(ray.remote(num_cpus=cpus, num_gpus=gpus)(_unbatched).remote(encoder, prompts)))
    cosines = (expected * stored).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(stored, axis=1)
    worst = int(np.argmin(cosines))
    if not cosines[worst] >= config.min_cosine:
        raise InputError(
            f"parity: item {item_ids[worst]!r} has cosine {cosines[worst]:.8f} to its unbatched float32 "
            f"embedding; expected at least {config.min_cosine}; {snapshot.uri} is not published"
        )
    return {"sample_items": len(item_ids), "min_cosine": float(cosines[worst])}


def _sample(snapshot: Snapshot, plan: SnapshotPlan, size: int) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Ids, prompts and stored vectors of items spread over a few shards, the same for the same snapshot."""
    generator = np.random.default_rng(int(snapshot.snapshot_id, 16))
    filled = [index for index, entry in enumerate(snapshot.manifest["files"]) if entry["rows"]]
    shards = generator.choice(filled, size=min(SAMPLED_SHARDS, len(filled)), replace=False)
    prompts: dict[str, str] = {}
    stored: dict[str, NDArray[np.floating]] = {}
    for shard in shards.tolist():
        table = snapshot.part(snapshot.manifest["files"][shard])
        rows = generator.choice(table.num_rows, size=min(-(-size // len(shards)), table.num_rows), replace=False)
        item_ids = table.column(ITEM_ID).take(rows).to_pylist()
        stored |= zip(item_ids, vectors.from_table(table)[rows], strict=True)
        for items in read_items(plan, shard):
            for item in items:
                if item.prompt and item.item_id in stored:
                    prompts.setdefault(item.item_id, item.prompt)
    shown = list(prompts)
    return shown, list(prompts.values()), np.stack([stored[item_id] for item_id in shown]).astype(np.float64)


def _unbatched(encoder: EncoderPlan, prompts: list[str]) -> NDArray[np.float64]:
    if not encoder.on_gpu:
        torch.set_num_threads(encoder.threads)
    with local_folder(encoder.uri) as path:
        engine = TorchEngine(EncoderFolder.read(path), precision="fp32", tokens_per_batch=1, device=encoder.device)
        tokens = tokenize(load_tokenizer(path), prompts, encoder.max_seq_len)
    return engine.encode(tokens)[:, : encoder.dimension].astype(np.float64)
