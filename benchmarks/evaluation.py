"""Full ranking of every user: how near to the matrix product, how far from sorting.

    python benchmarks/evaluation.py [--users 22363] [--items 12101] [--dim 128] [--threads 2]

Everything is generated (seed 0) at Amazon Beauty's size, and all rows are measured in one run: the product of queries
and items alone, which any full ranking needs; our ranks; all that the job takes from a model (ranks under three
protocols and both lists); the same with a SASRec that reads the histories; and a plain NumPy ranking by argsort.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from llmemb.data.sequences import Sequences, Targets
from llmemb.evaluation.candidates import draw_candidates
from llmemb.metrics.ranking import FULL, chunks_of, rank_targets
from llmemb.rat.config import ModelConfig
from llmemb.rat.recommender import make_encoder
from llmemb.srs.scoring import FinalTable, score

DEPTH, NUM_NEGATIVES, MEAN_HISTORY = 20, 100, 8


class Queries:
    """Scores from ready queries, which the caller takes in the order of the chunks."""

    label, item_embeddings = "queries", None

    def __init__(self, queries: torch.Tensor, items: torch.Tensor) -> None:
        self.queries, self.items = queries, items
        self.next: Iterator[np.ndarray] = iter(())

    def score(self, histories: Sequences) -> Iterator[torch.Tensor]:
        yield self.queries[next(self.next)] @ self.items.T


class Untrained:
    """A SASRec as it starts: its scores mean nothing, but they take as long."""

    label, item_embeddings = "SASRec", None

    def __init__(self, items: torch.Tensor) -> None:
        self.items = items
        self.encoder = make_encoder("sasrec", ModelConfig(hidden_dim=items.shape[1]), content_decay=1.0).eval()

    def score(self, histories: Sequences) -> Iterator[torch.Tensor]:
        yield from score(self.encoder, FinalTable(self.items), histories)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in {"users": 22_363, "items": 12_101, "dim": 128, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = parser.parse_args()
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    targets, popularity = generate(sizes.users, sizes.items)
    items = torch.nn.functional.normalize(torch.randn(sizes.items, sizes.dim), dim=1)
    model = Queries(torch.randn(sizes.users, sizes.dim), items)
    chunks = chunks_of(targets, num_items=sizes.items)
    candidates = draw_candidates(targets, popularity, num_negatives=NUM_NEGATIVES, distribution="uniform", seed=0)

    def product() -> None:
        for chunk in chunks:
            model.queries[chunk] @ items.T

    def ranks() -> np.ndarray:
        model.next = iter(chunks)
        return rank_targets(model, targets, num_items=sizes.items).ranks[FULL]

    def everything() -> None:
        model.next = iter(chunks)
        rank_targets(model, targets, num_items=sizes.items, depth=DEPTH, candidates=candidates)

    def with_sasrec() -> None:
        recommender = Untrained(items)
        rank_targets(recommender, targets, num_items=sizes.items, depth=DEPTH, candidates=candidates)

    def by_argsort() -> np.ndarray:
        found = np.empty(sizes.users, dtype=np.int64)
        for chunk in chunks:
            scores = (model.queries[chunk] @ items.T).numpy()
            order = np.argsort(-scores, axis=1)
            found[chunk] = np.argmax(order == targets.items[chunk, None] - 1, axis=1) + 1
        return found

    assert np.array_equal(ranks(), by_argsort()), "both rank the same"
    print(f"{sizes.users:,} users x {sizes.items:,} items, dim {sizes.dim}, {sizes.threads} threads")
    limit, busy = seconds(product)
    flop = 2 * sizes.users * sizes.items * sizes.dim
    print(f"{'the matrix product alone':<42}{limit:7.2f} s {busy:7.2f} CPU-s   {flop / limit / 1e9:.0f} GFLOP/s")
    rows = {
        "ranks": ranks,
        "ranks of 3 protocols, both lists of 20": everything,
        "the same, SASRec reading the histories": with_sasrec,
        "NumPy argsort, ranks alone": by_argsort,
    }
    for name, run in rows.items():
        taken, cpu = seconds(run)
        print(f"{name:<42}{taken:7.2f} s {cpu:7.2f} CPU-s   {cpu / busy:.1f} x the product's CPU time", flush=True)


def generate(num_users: int, num_items: int) -> tuple[Targets, np.ndarray]:
    """Histories of Beauty's lengths (4 and more, most of them short) over items of Zipf's popularity."""
    random = np.random.default_rng(0)
    lengths = np.minimum(4 + random.geometric(1 / (MEAN_HISTORY - 4), size=num_users) - 1, num_items // 2)
    weights = 1 / np.arange(10, num_items + 10)
    drawn = random.choice(num_items, size=lengths.sum() + num_users, p=weights / weights.sum()).astype(np.int32) + 1
    histories = Sequences.of_all(drawn[: lengths.sum()], lengths)
    targets = Targets(np.arange(num_users), histories, drawn[lengths.sum() :])
    return targets, histories.counts(num_items)


def seconds(run: Callable[[], object], *, repeats: int = 3) -> tuple[float, float]:
    """The shortest wall-clock and CPU time of a few runs: what else the machine does can only add."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


if __name__ == "__main__":
    main()
