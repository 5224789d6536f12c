"""Seconds per epoch of training SASRec with full softmax: ours, and plain PyTorch loops, beside the matmul limit.

    python benchmarks/rat.py --dataset runs/beauty/dataset [--hidden-dim 128] [--steps 20] [--peers PYTHON]

All rows train the same model (2 blocks, length 50, about 1,024 positions a batch) on the same sequences in one run, a
part of an epoch each, in turns, after one to warm up; times are scaled to a whole epoch. The peers are what one writes
first: torch's own layers and cross-entropy of whole logits, on batches bucketed by length, or padded to 50; and
RecTools' SASRec of the same sizes, 128 sequences a batch, if there is an environment that has it (``make bench``).
Where the CPU has bfloat16, which our training uses then, two rows more are ours in float32 and the bucketed loop
under autocast. With ``--epochs`` all but the padded loop are trained for as many epochs too, and validation
NDCG@10 is told: after each epoch, and for RecTools after the last.
"""

import argparse
import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from llmemb.data.dataset import Dataset
from llmemb.data.sequences import Sequences, Targets
from llmemb.metrics.measure import ndcg
from llmemb.metrics.ranking import ranks_in_chunk
from llmemb.rat.config import ModelConfig, TrainingConfig
from llmemb.rat.precision import multiplies_bf16
from llmemb.rat.recommender import make_encoder
from llmemb.rat.training import VALIDATION_K, TrainableRecommender, TrainingLoop
from llmemb.srs.batching import cut_windows, gather
from llmemb.srs.encoder import newest_items
from llmemb.srs.item_table import ID_INIT_STD, IdTable
from llmemb.srs.objective import Batch, NextItem
from llmemb.workers import Worker

MAX_SEQ_LEN, TURNS, USERS_PER_CHUNK = 50, 5, 64
Padded = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Inputs and targets, ``[row, seq]``, 0 at padding."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True)
    for name, default in {"hidden-dim": 128, "steps": 20, "threads": 2, "epochs": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peers", help="the Python of .venv-peers: RecTools' SASRec is a row then")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = Dataset.open(arguments.dataset)
    sequences, num_items, dim = dataset.train, dataset.num_items, arguments.hidden_dim
    positions = int(np.maximum(sequences.lengths - 1, 0).sum())
    batches = list(islice(next_items(sequences).batches(seed=0, epoch=0), arguments.steps))
    bucketed = [(batch.inputs, batch.targets) for batch in batches]
    in_turn = list(islice(shuffled(sequences), max(1, arguments.steps // 10)))
    rows: dict[str, Callable[[], int]] = {}
    for precision, note in precisions().items():
        rows[f"llmemb{note}"] = partial(ours, make_loop(dataset, dim, precision), batches)
    for precision, note in precisions().items():
        model = make_plain(num_items, dim)
        train_plainly = partial(plain, model, torch.optim.AdamW(model.parameters(), lr=2e-3), precision=precision)
        rows[f"plain, bucketed by length{note}"] = partial(train_plainly, bucketed)
    rows[f"plain, padded to {MAX_SEQ_LEN}"] = partial(train_plainly, in_turn)  # in float32, the last one
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(TURNS + 1):
        for name, run in rows.items():
            started = time.perf_counter()
            trained = run()
            if turn:  # the first one warms up
                seconds[name].append((time.perf_counter() - started) * positions / trained)
    rectools = None if arguments.peers is None else float(run_rectools(arguments.peers, dataset, dim)[0])
    report(seconds, rectools, positions, num_items, dim)
    if arguments.epochs:
        compare_quality(dataset, dim, arguments.epochs, arguments.peers)


def compare_quality(dataset: Dataset, dim: int, epochs: int, peers: str | None) -> None:
    """Trains from the start, for as many epochs each; all items are ranked after each of them, nothing is filtered."""
    model, objective, validation = make_plain(dataset.num_items, dim), next_items(dataset.train), dataset.validation()
    train_plainly = partial(plain, model, torch.optim.AdamW(model.parameters(), lr=TrainingConfig().learning_rate))

    def plain_epoch(number: int) -> float:
        train_plainly([(batch.inputs, batch.targets) for batch in objective.batches(seed=0, epoch=number - 1)])
        return plain_ndcg(model, validation)

    def our_epoch(loop: TrainingLoop, number: int) -> float:
        return loop.epoch(number, validation).validation_ndcg

    rows: dict[str, Callable[[int], float]] = {
        f"llmemb{note}": partial(our_epoch, make_loop(dataset, dim, precision, max_epochs=epochs))
        for precision, note in precisions().items()
    }
    rows["plain, bucketed by length"] = plain_epoch
    for name, epoch in rows.items():
        started = time.perf_counter()
        curve = [epoch(number) for number in range(1, epochs + 1)]
        seconds, best = time.perf_counter() - started, int(np.argmax(curve))
        print(f"{name}: validation ndcg@10 {curve[best]:.4f} at best, after {best + 1} of {epochs} epochs", end="")
        print(f" ({seconds:.0f} s with checks); after each: {' '.join(f'{quality:.4f}' for quality in curve)}")
    if peers is not None:
        _, theirs = run_rectools(peers, dataset, dim, epochs=epochs)
        print(f"RecTools: {float(theirs):.4f} after {epochs} epochs")


def report(seconds: dict[str, list[float]], rectools: float | None, positions: int, num_items: int, dim: int) -> None:
    fastest = {name: min(times) for name, times in seconds.items()}
    ours = next(iter(fastest.values()))
    print(f"{positions:,} positions, {num_items:,} items, h = {dim}, {torch.get_num_threads()} threads")
    for name, times in seconds.items():
        ratio = fastest[name] / ours
        print(f"{name:36}{fastest[name]:8.1f} s an epoch (of {TURNS}: up to {max(times):.1f}){ratio:8.2f} x ours")
    if rectools is not None:
        print(f"{'RecTools 0.19':36}{rectools:8.1f} s an epoch (of 1){rectools / ours:19.2f} x ours")
    operations = 6 * positions * dim * num_items + 6 * positions * 2 * 12 * dim**2
    for precision in precisions():
        peak, name = matmul_peak(precision), str(precision).removeprefix("torch.")
        limit = f"{operations / peak:.1f} s at this run's {name} matmul peak of {peak / 1e9:.0f} GFLOP/s"
        print(f"{operations / 1e12:.2f} TFLOP an epoch: {limit}")


def precisions() -> dict[torch.dtype, str]:
    """What is compared, with a note for its rows: first what our training has here."""
    if multiplies_bf16(torch.device("cpu")):
        return {torch.bfloat16: ", bfloat16", torch.float32: ", float32"}
    return {torch.float32: ""}


def make_loop(dataset: Dataset, dim: int, precision: torch.dtype, **training: int) -> TrainingLoop:
    model, settings = make_model(dataset.num_items, dim), TrainingConfig.model_validate(training)
    return TrainingLoop(model, dataset.train, settings, seed=0, precision=precision, worker=Worker())


def make_model(num_items: int, dim: int) -> TrainableRecommender:
    torch.manual_seed(0)
    settings = ModelConfig(hidden_dim=dim, max_seq_len=MAX_SEQ_LEN)
    encoder = make_encoder("sasrec", settings, content_decay=1.0)
    return TrainableRecommender(IdTable(num_items, dim), encoder, num_items=num_items)


class PlainSasrec(nn.Module):
    """The same recommender of torch's own layers; padding stands behind the items, so the causal mask hides it."""

    def __init__(self, num_items: int, dim: int, *, num_blocks: int, dropout: float, temperature: float) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, dim, padding_idx=0)
        self.positions = nn.Embedding(MAX_SEQ_LEN, dim)
        for table in (self.items, self.positions):  # as long as ours at first: torch's own start would learn slowly
            nn.init.normal_(table.weight, std=ID_INIT_STD)
        layer = nn.TransformerEncoderLayer(
            dim, 1, 4 * dim, dropout, activation=F.gelu, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, num_blocks, enable_nested_tensor=False)
        self.dropout, self.scale, self.temperature = nn.Dropout(dropout), math.sqrt(dim), temperature

    def forward(self, item_index: Tensor) -> Tensor:
        """Logits ``[row, seq, item]``, at padding too."""
        embeddings, length = F.normalize(self.items.weight, dim=1), item_index.shape[1]
        vectors = F.embedding(item_index, embeddings) * self.scale + self.positions.weight[:length]
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        states = self.blocks(self.dropout(vectors), mask=causal, is_causal=True)
        return F.normalize(states, dim=-1) / self.temperature @ embeddings[1:].T


def make_plain(num_items: int, dim: int) -> PlainSasrec:
    torch.manual_seed(0)
    return PlainSasrec(num_items, dim, **ModelConfig().model_dump(include={"num_blocks", "dropout", "temperature"}))


def next_items(sequences: Sequences) -> NextItem:
    return NextItem(sequences, max_seq_len=MAX_SEQ_LEN, batch_positions=1024)


def ours(loop: TrainingLoop, batches: list[Batch]) -> int:
    for step, batch in enumerate(batches):
        loop.step(batch, np.random.default_rng(step))
    return sum(batch.num_targets for batch in batches)


def plain(
    model: PlainSasrec,
    optimizer: torch.optim.Optimizer,
    batches: list[Padded],
    *,
    precision: torch.dtype = torch.float32,
) -> int:
    trained = 0
    model.train()
    for inputs, targets in batches:
        item_index, wanted = torch.from_numpy(inputs), torch.from_numpy(targets)
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            loss = F.cross_entropy(model(item_index).flatten(0, 1), wanted.flatten() - 1, ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trained += int((wanted > 0).sum())
    return trained


def plain_ndcg(model: PlainSasrec, validation: Targets) -> float:
    """Over the whole catalogue, nothing filtered."""
    model.eval()
    total = 0.0
    for start in range(0, len(validation.items), USERS_PER_CHUNK):
        stop = min(start + USERS_PER_CHUNK, len(validation.items))
        newest = newest_items(validation.histories, start, stop, max_seq_len=MAX_SEQ_LEN)
        lengths = (newest > 0).sum(1)
        behind = (newest > 0).long().argsort(dim=1, descending=True, stable=True)  # the padding
        with torch.inference_mode():
            scores = model(newest.gather(1, behind))[torch.arange(stop - start), lengths - 1]
        ranks = ranks_in_chunk(scores, validation.items[start:stop], model="plain")
        total += float(ndcg(ranks, VALIDATION_K).sum())
    return total / len(validation.items)


def run_rectools(python: str, dataset: Dataset, dim: int, *, epochs: int = 0) -> list[str]:
    """The seconds of an epoch of RecTools' SASRec, from some batches; with epochs also its validation NDCG@10."""
    sequences, validation = dataset.train, dataset.validation()
    starts = np.repeat(sequences.offsets[:-1], sequences.lengths)
    columns = {
        "user": np.repeat(np.arange(len(sequences)), sequences.lengths),
        "item": sequences.items,
        "position": np.arange(len(sequences.items)) - starts,
    }
    with tempfile.TemporaryDirectory() as folder:
        path, wanted = Path(folder) / "interactions.csv", Path(folder) / "validation.csv"
        pl.DataFrame(columns).write_csv(path)
        pl.DataFrame({"user": validation.users, "item": validation.items}).write_csv(wanted)
        script = Path(__file__).parent / "peers" / "rectools_sasrec.py"
        threads = str(torch.get_num_threads())
        command = [python, str(script), str(path), "--hidden-dim", str(dim), "--threads", threads]
        command += ["--epochs", str(epochs), "--validation", str(wanted)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return printed.splitlines()[-1].split()


def shuffled(sequences: Sequences) -> Iterator[Padded]:
    """Batches of 128 windows as they come, all padded to the maximum."""
    windows = cut_windows(sequences, max_seq_len=MAX_SEQ_LEN)
    for rows in np.array_split(np.random.default_rng(0).permutation(len(windows)), len(windows) // 128):
        items = gather(windows, rows)
        items = np.pad(items, ((0, 0), (0, MAX_SEQ_LEN + 1 - items.shape[1])))
        yield items[:, :-1] * (items[:, 1:] > 0), items[:, 1:]


def matmul_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """Operations per second of a square product."""
    left, right, product = (torch.randn(size, size).to(dtype) for _ in range(3))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
