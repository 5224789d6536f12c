"""The gate before a snapshot is published: are these the vectors that the encoder gives each item alone?"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmemb import storage, vectors
from llmemb.data.dataset import Dataset
from llmemb.embed.config import ParityConfig
from llmemb.embed.shards import ShardPlan
from llmemb.embed.snapshot import Snapshot
from llmemb.encoder.folder import EncoderFolder, local_folder
from llmemb.encoder.torch_engine import TorchEngine, load_tokenizer, tokenize
from llmemb.errors import InputError
from llmemb.vectors import ITEM_ID

SAMPLED_SHARDS = 8


def check_parity(snapshot: Snapshot, dataset: Dataset, plan: ShardPlan, config: ParityConfig) -> dict[str, Any]:
    """Compares a sample of stored vectors with unbatched float32 ones, item by item, from the catalogue again.

    Returns:
        ``sample_items`` and their lowest cosine, for the manifest.

    Raises:
        InputError: a cosine below the limit; nothing is published.
    """
    import ray

    sample = _sample(snapshot, dataset, config.sample_items)
    on_gpu = plan.device == "cuda"
    unbatched = ray.remote(num_cpus=1 if on_gpu else plan.threads, num_gpus=1 if on_gpu else 0)(_unbatched)
    prompts = [plan.template.render(item) or "" for item, _ in sample]
    expected = np.asarray(ray.get(unbatched.remote(plan, prompts)))
    stored = np.stack([vector for _, vector in sample]).astype(np.float64)
    cosines = (expected * stored).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(stored, axis=1)
    worst = int(np.argmin(cosines))
    if not cosines[worst] >= config.min_cosine:
        raise InputError(
            f"parity: item {sample[worst][0][ITEM_ID]!r} has cosine {cosines[worst]:.8f} to its unbatched float32 "
            f"embedding; expected at least {config.min_cosine}; {snapshot.uri} is not published"
        )
    return {"sample_items": len(sample), "min_cosine": float(cosines[worst])}


def _sample(snapshot: Snapshot, dataset: Dataset, size: int) -> list[tuple[dict[str, Any], NDArray[np.floating]]]:
    """Catalogue rows with their stored vectors, spread over a few shards, the same for the same snapshot."""
    generator = np.random.default_rng(int(snapshot.snapshot_id, 16))
    filled = [index for index, entry in enumerate(snapshot.manifest["files"]) if entry["rows"]]
    shards = generator.choice(filled, size=min(SAMPLED_SHARDS, len(filled)), replace=False)
    sample = []
    for shard in shards:
        table = snapshot.part(snapshot.manifest["files"][shard])
        rows = generator.choice(table.num_rows, size=min(-(-size // len(shards)), table.num_rows), replace=False)
        wanted = dict(zip(table.column(ITEM_ID).take(rows).to_pylist(), vectors.from_table(table)[rows], strict=True))
        for item in storage.read_table(dataset.item_files[shard]).to_pylist():
            if item[ITEM_ID] in wanted:
                sample.append((item, wanted[item[ITEM_ID]]))
    return sample


def _unbatched(plan: ShardPlan, prompts: list[str]) -> NDArray[np.float64]:
    if plan.device == "cpu":
        torch.set_num_threads(plan.threads)
    with local_folder(plan.encoder) as path:
        folder = EncoderFolder.read(path)
        engine = TorchEngine(folder, precision="fp32", tokens_per_batch=1, device=plan.device)
        tokens = tokenize(load_tokenizer(folder), prompts, plan.max_seq_len)
    return engine.encode(tokens).astype(np.float64)
