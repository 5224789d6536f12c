"""A recommender's training step and its ranking at two sizes of the catalogue: how time and memory grow.

    PYTHONPATH=. python benchmarks/rat_scale.py [NUM_ITEMS …] [--embedding-dim 512] [--threads 2]

Generates as many sequences as items (4 to 12 items each, popular ones more often) and a snapshot of float16 vectors.
In a process of its own for each size: LLMEmb on SASRec as the job makes it, h = 64, sampled softmax, no alignment, the
median of some steps of 1,024 positions; then some users ranked against all items by the trained logit and by content,
with their first ten.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import torch

from llmemb import vectors
from llmemb.data.config import PrepareConfig
from llmemb.data.dataset import Dataset
from llmemb.data.prepare import run_prepare
from llmemb.embed import snapshot
from llmemb.metrics.ranking import chunks_of, rank_targets
from llmemb.rat.config import RatConfig
from llmemb.rat.model import Sources, load_inputs, make_model
from llmemb.rat.recommender import Recommender
from llmemb.rat.run import make_schedule, validation_targets
from llmemb.rat.training import TrainingLoop, Worker, make_objective
from llmemb.srs.encoder import TermWeights

ROWS_PER_PART = 100_000
STEPS, CHUNKS = 20, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--embedding-dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        torch.set_num_threads(arguments.threads)
        print(json.dumps(measure(arguments.measure)))
        return
    figures = [in_own_process(size, arguments.embedding_dim, arguments.threads) for size in arguments.sizes]
    print(f"{'':32}" + "".join(f"{size:>14,}" for size in arguments.sizes))
    for name in figures[0]:
        print(f"{name:32}" + "".join(f"{each[name]:>14,.3g}" for each in figures))


def in_own_process(size: int, embedding_dim: int, threads: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate(folder, size, embedding_dim)
        command = [sys.executable, __file__, "--measure", temporary, "--threads", str(threads)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])


def generate(folder: Path, size: int, embedding_dim: int) -> None:
    """A dataset of as many users as items, in ``dataset``, and a snapshot of its items, in ``embeddings``."""
    random = np.random.default_rng(0)
    ids = np.char.add("item-", np.arange(size).astype(str))
    lengths = random.integers(4, 13, size)
    chosen = (size * random.random(lengths.sum()) ** 3).astype(np.int64)  # the first items more often
    users = np.repeat(np.arange(size), lengths)
    pl.DataFrame({"item_id": ids, "title": ids}).write_parquet(folder / "items.parquet")
    columns = {"user_id": users, "item_id": ids[chosen], "timestamp": np.arange(len(chosen))}
    pl.DataFrame(columns).with_columns(pl.col("user_id").cast(pl.String)).write_parquet(folder / "log.parquet")
    tables = {"items": str(folder / "items.parquet"), "interactions": str(folder / "log.parquet")}
    run_prepare(PrepareConfig.parse(tables | {"output": str(folder / "dataset")}))
    entries = []
    for number, start in enumerate(range(0, size, ROWS_PER_PART)):
        part = ids[start : start + ROWS_PER_PART]
        values = random.standard_normal((len(part), embedding_dim), dtype=np.float32)
        table = vectors.to_table(part.tolist(), values, "float16")
        entries.append(vectors.write(f"{folder}/embeddings/first/part-{number:05d}.parquet", table))
    manifest = {"format": snapshot.FORMAT, "snapshot_id": "first", "dimension": embedding_dim, "dtype": "float16"}
    snapshot.publish(f"{folder}/embeddings", manifest | {"files": entries})


def measure(folder: Path) -> dict[str, float]:
    """Seconds, and the most memory that this process has held."""
    started = time.perf_counter()
    config = RatConfig.parse(
        {
            "dataset": str(folder / "dataset"),
            "embeddings": str(folder / "embeddings"),
            "output": str(folder / "recommender"),
            "training": {"loss": "sampled_softmax"},
            "alignment": {"weight": 0},
        }
    )
    dataset = Dataset.open(config.dataset)
    model = make_model(load_inputs(config, dataset, Sources(None, "")))
    schedule = make_schedule(config, torch.device("cpu"))
    figures = {"seconds to load": time.perf_counter() - started}
    loop = TrainingLoop(model, dataset.train, schedule, seed=0, worker=Worker())
    objective = make_objective(dataset.train, model.encoder, schedule)
    model.train()
    steps = []
    for number, batch in enumerate(islice(objective.batches(seed=0, epoch=0), STEPS)):
        started = time.perf_counter()
        loop.step(batch, np.random.default_rng(number))
        steps.append(time.perf_counter() - started)
    figures |= {"seconds a step": statistics.median(steps), "steps an epoch": objective.steps_per_epoch}
    figures["GiB after training"] = peak_gib()
    del loop
    model.encoder.weights = TermWeights(seen_logit=-10.0, content_weight=2.0, content_share=0.2)
    with torch.inference_mode():
        recommender = Recommender({"label": "LLMEmb"}, model.encoder, dataset.item_ids, model.eval().final_table())
    del model
    targets = validation_targets(config, dataset)
    chunks = chunks_of(targets, num_items=dataset.num_items)[:CHUNKS]
    started = time.perf_counter()
    rank_targets(recommender, targets, num_items=dataset.num_items, depth=10, chunks=chunks)
    users = sum(map(len, chunks))
    figures["ms a user ranked"] = 1000 * (time.perf_counter() - started) / users
    return figures | {"GiB after ranking": peak_gib()}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
