"""What a recommender's training takes at two sizes of the catalogue: how time and memory grow.

    PYTHONPATH=. python benchmarks/rat_scale.py [NUM_ITEMS …] [--embedding-dim 512] [--longest 12] [--threads 2]

Generates as many sequences as items (4 to 12 items each, popular ones more often) and a snapshot of float16 vectors.
In a process of its own for each size, first the sequences alone: they are read, their repeats counted, an epoch's
batches made. Then LLMEmb on SASRec as the job makes it, h = 64, sampled softmax: the median of some
training steps of 1,024 positions, and of some in which content is learnt; then some users each, against all items: in
the validation after an epoch, in the choice of the terms' weights at the end, and ranked with their first ten.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from llmemb import vectors
from llmemb.data.config import PrepareConfig
from llmemb.data.dataset import Dataset
from llmemb.data.prepare import run_prepare
from llmemb.embed import snapshot
from llmemb.metrics.ranking import chunks_of, rank_targets
from llmemb.metrics.slices import head_items
from llmemb.rat.config import RatConfig
from llmemb.rat.content import ContentTraining
from llmemb.rat.fit import validation_targets
from llmemb.rat.fusion import fuse
from llmemb.rat.inputs import Sources, load_inputs
from llmemb.rat.model import make_model, seen_logits
from llmemb.rat.precision import precision_of
from llmemb.rat.recommender import Recommender
from llmemb.rat.training import TrainingLoop, make_objective, validation_ndcg
from llmemb.srs.encoder import TermWeights
from llmemb.srs.objective import NextItem, Objective
from llmemb.srs.repeats import repeat_share
from llmemb.workers import Worker

ROWS_PER_PART = 100_000
STEPS, CONTENT_STEPS, CHUNKS = 20, 5, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--embedding-dim", type=int, default=512)
    parser.add_argument("--longest", type=int, default=12, help="items of the longest sequence")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        torch.set_num_threads(arguments.threads)
        print(json.dumps(measure(arguments.measure)))
        return
    figures = [in_own_process(size, arguments) for size in arguments.sizes]
    print(f"{'':32}" + "".join(f"{size:>14,}" for size in arguments.sizes))
    for name in figures[0]:
        print(f"{name:32}" + "".join(f"{each[name]:>14,.3g}" for each in figures))


def in_own_process(size: int, arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        generate(Path(temporary), size, longest=arguments.longest, embedding_dim=arguments.embedding_dim)
        command = [sys.executable, __file__, "--measure", temporary, "--threads", str(arguments.threads)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])


def generate(folder: Path, size: int, *, longest: int, embedding_dim: int) -> None:
    """A dataset of as many users as items, in ``dataset``, and a snapshot of its items, in ``embeddings``."""
    random = np.random.default_rng(0)
    ids = np.char.add("item-", np.arange(size).astype(str))
    lengths = random.integers(4, longest + 1, size)
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
    snapshot.publish(f"{folder}/embeddings", manifest | {"files": entries, "refused_file": None})


def measure(folder: Path) -> dict[str, float]:
    """Seconds, and the most memory that this process has held."""
    config = RatConfig.parse(
        {
            "dataset": str(folder / "dataset"),
            "embeddings": str(folder / "embeddings"),
            "output": str(folder / "recommender"),
            "training": {"loss": "sampled_softmax"},
        }
    )
    dataset, precision = Dataset.open(config.dataset), precision_of(config, Worker())
    figures = of_sequences(dataset, config)
    started = time.perf_counter()
    model = make_model(load_inputs(config, dataset, Sources(None, "")))
    figures["seconds to load"] = time.perf_counter() - started
    rates: dict[str, Any] = {"adapter_rate": config.adapter.learning_rate_factor, "precision": precision}
    loop = TrainingLoop(model, dataset.train, config.training, seed=0, worker=Worker(), **rates)
    objective = make_objective(dataset.train, model.encoder, config.training)
    model.train()
    figures |= {"s a step": median_seconds(loop.step, objective, STEPS), "steps an epoch": objective.steps_per_epoch}
    del loop
    content = ContentTraining(model, dataset.train, config.content, sampled=True, precision=precision)
    figures["s a step of content"] = median_seconds(content.step, content.objective, CONTENT_STEPS)
    figures["steps of content"] = config.content.epochs * content.objective.steps_per_epoch
    content.maps.put_into(model)
    del content
    figures["GiB after training"] = peak_gib()
    targets = validation_targets(config, dataset)
    chunks = chunks_of(targets, num_items=dataset.num_items)[:CHUNKS]
    some = targets.take(np.concatenate(chunks))
    of_a_user = 1000 / len(some.items)
    figures["users of validation"] = len(targets.items)
    figures["ms a user after an epoch"] = of_a_user * seconds(lambda: validation_ndcg(model, some, worker=Worker()))
    weights: dict[str, Any] = config.fusion.model_dump(include={"content_weights", "content_shares", "tail_price"})
    weights |= {"head": head_items(dataset.popularity), "seen_logits": seen_logits(config, dataset)}
    figures["ms a user for the weights"] = of_a_user * seconds(lambda: fuse(model, some, **weights))
    model.encoder.weights = TermWeights(seen_logit=-10.0, content_weight=2.0, content_share=0.2)
    with torch.inference_mode():
        recommender = Recommender({"label": "LLMEmb"}, model.encoder, dataset.item_ids, model.eval().final_table())
    del model
    sizes: dict[str, Any] = {"num_items": dataset.num_items, "depth": 10, "chunks": chunks}
    figures["ms a user ranked"] = of_a_user * seconds(lambda: rank_targets(recommender, targets, **sizes))
    return figures | {"GiB after ranking": peak_gib()}


def of_sequences(dataset: Dataset, config: RatConfig) -> dict[str, float]:
    before, started = peak_gib(), time.perf_counter()
    repeat_share(dataset.train)
    figures = {
        "interactions trained on": float(dataset.train.lengths.sum()),
        "s to read": time.perf_counter() - started,
    }
    sizes = {"max_seq_len": config.model.max_seq_len, "batch_positions": config.training.batch_positions}
    batches = NextItem(dataset.train, **sizes).batches(seed=0, epoch=0)
    figures["s for an epoch's batches"] = seconds(lambda: deque(batches, maxlen=0))
    return figures | {"GiB of sequences": peak_gib() - before}


def median_seconds(step: Callable[..., float], objective: Objective, steps: int) -> float:
    batches = enumerate(islice(objective.batches(seed=0, epoch=0), steps))
    return statistics.median(seconds(partial(step, batch, np.random.default_rng(number))) for number, batch in batches)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
