"""Seconds per epoch of training SASRec with full softmax: ours, and plain PyTorch loops, beside the matmul limit.

    python benchmarks/rat.py --dataset runs/beauty/dataset [--hidden-dim 128] [--steps 5] [--threads 2]

All rows train the same model (2 blocks, length 50, about 1,024 positions a batch) on the same sequences in one run, a
part of an epoch each, in turns; times are scaled to a whole epoch. The peers are what one writes first: cross-entropy
of whole logits with ``torch.nn.functional``, on batches bucketed by length, padded to the batch's longest, or to 50.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmemb.data.dataset import Dataset
from llmemb.data.sequences import Sequences
from llmemb.rat.config import ModelConfig, TrainingConfig
from llmemb.rat.recommender import make_encoder
from llmemb.rat.training import Schedule, TrainableRecommender, TrainingLoop, Worker
from llmemb.srs.batching import cut_windows, gather
from llmemb.srs.item_table import IdTable
from llmemb.srs.objective import NextItem

MAX_SEQ_LEN, TURNS = 50, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True)
    for name, default in {"hidden-dim": 128, "steps": 5, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = Dataset.open(arguments.dataset)
    sequences, num_items, dim = dataset.train, dataset.num_items, arguments.hidden_dim
    positions = int(np.maximum(sequences.lengths - 1, 0).sum())
    bucketed = list(NextItem(sequences, max_seq_len=MAX_SEQ_LEN, batch_positions=1024).batches(seed=0, epoch=0))
    share = min(1.0, arguments.steps / len(bucketed))
    rows: dict[str, Callable[[], int]] = {
        "llmemb": partial(ours, sequences, num_items, dim, arguments.steps),
        "plain, bucketed by length": partial(plain, [(b.inputs, b.targets) for b in bucketed], num_items, dim, share),
        "plain, padded to the longest": partial(plain, list(shuffled(sequences, pad=False)), num_items, dim, share),
        "plain, padded to 50": partial(plain, list(shuffled(sequences, pad=True)), num_items, dim, share),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(TURNS):
        for name, run in rows.items():
            started = time.perf_counter()
            trained = run()
            seconds[name].append((time.perf_counter() - started) * positions / trained)
    report(seconds, positions, num_items, dim)


def report(seconds: dict[str, list[float]], positions: int, num_items: int, dim: int) -> None:
    fastest = {name: min(times) for name, times in seconds.items()}
    print(f"{positions:,} positions, {num_items:,} items, h = {dim}, {torch.get_num_threads()} threads")
    for name, times in seconds.items():
        ratio = fastest[name] / fastest["llmemb"]
        print(f"{name:32}{fastest[name]:8.1f} s an epoch (of {TURNS}: up to {max(times):.1f}){ratio:8.2f} x ours")
    operations = 6 * positions * dim * num_items + 6 * positions * 2 * 12 * dim**2
    peak = matmul_peak(dim, num_items)
    limit = f"{operations / peak:.1f} s at this run's matmul peak of {peak / 1e9:.0f} GFLOP/s"
    print(f"{operations / 1e12:.2f} TFLOP an epoch: {limit}")


def make_model(num_items: int, dim: int) -> TrainableRecommender:
    torch.manual_seed(0)
    settings = ModelConfig(hidden_dim=dim, max_seq_len=MAX_SEQ_LEN)
    return TrainableRecommender(IdTable(num_items, dim), make_encoder("sasrec", settings, content_decay=1.0))


def ours(sequences: Sequences, num_items: int, dim: int, steps: int) -> int:
    schedule = Schedule(**TrainingConfig().model_dump(), adapter_rate=1.0)
    loop = TrainingLoop(make_model(num_items, dim), sequences, schedule, seed=0, worker=Worker())
    objective, trained = NextItem(sequences, max_seq_len=MAX_SEQ_LEN, batch_positions=1024), 0
    for step, batch in enumerate(objective.batches(seed=0, epoch=0)):
        if step == steps:
            break
        loop.step(batch, np.random.default_rng(step))
        trained += batch.num_targets
    return trained


def plain(batches: list[tuple[np.ndarray, np.ndarray]], num_items: int, dim: int, share: float) -> int:
    model = make_model(num_items, dim).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    trained = 0
    for inputs, targets in batches[: max(1, round(share * len(batches)))]:
        item_index, wanted = torch.from_numpy(inputs), torch.from_numpy(targets)
        embeddings = model.item_embeddings()
        logits = model.encoder(item_index, embeddings) @ embeddings.T  # at padding too
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten() - 1, ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trained += int((wanted > 0).sum())
    return trained


def shuffled(sequences: Sequences, *, pad: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of 128 windows as they come, with no regard to length."""
    windows = cut_windows(sequences, max_seq_len=MAX_SEQ_LEN)
    for rows in np.array_split(np.random.default_rng(0).permutation(len(windows)), len(windows) // 128):
        items = gather(windows, rows, sequences.items).astype(np.int64)
        if pad:
            items = np.pad(items, ((0, 0), (0, MAX_SEQ_LEN + 1 - items.shape[1])))
        yield items[:, :-1] * (items[:, 1:] > 0), items[:, 1:]


def matmul_peak(dim: int, num_items: int) -> float:
    """Operations per second of the products at hand: a chunk of positions with the item table."""
    left, right = torch.randn(1024, dim), torch.randn(dim, num_items)
    best, result = float("inf"), Tensor()
    for _ in range(10):
        started = time.perf_counter()
        result = left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * result.numel() * dim / best


if __name__ == "__main__":
    main()
