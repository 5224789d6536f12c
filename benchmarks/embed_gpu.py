"""Packed encoding on a GPU: tokens per second and the share of the peak, for random models of 0.1B to 7B parameters.

    PYTHONPATH=. python benchmarks/embed_gpu.py [--models 0.1B,0.5B,1B,3B,7B] [--tokens 2000000] [--device cuda]

Needs torch and transformers alone. Prompts of random ids, their lengths drawn like those of Amazon Beauty (54 tokens on
average), from ids on the host to vectors on the host. The share counts the FLOPs of linear layers and attention over
real tokens, against two peaks: a square bf16 product measured here, and the card's datasheet (dense bf16).
"""

import argparse
import time
from typing import NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

from llmemb.encoder.packed import embed_packed, pack, prepare


class Shape(NamedTuple):
    hidden_dim: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate_dim: int


MODELS = {
    "tiny": Shape(64, 2, 4, 2, 128),
    "0.1B": Shape(768, 12, 12, 12, 2048),
    "0.5B": Shape(1024, 28, 16, 8, 3072),
    "1B": Shape(2048, 16, 32, 8, 8192),
    "3B": Shape(3072, 28, 24, 8, 8192),
    "7B": Shape(4096, 32, 32, 32, 11008),
}
# Dense bf16 TFLOP/s, by a piece of the name that torch gives the card; the first that fits.
DATASHEET = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "B200": 2250, "A100": 312, "L40S": 362}
WARM_UP_BATCHES = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="0.1B,0.5B,1B,3B,7B", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="for each model")
    parser.add_argument("--tokens-per-batch", type=int, default=32768)
    parser.add_argument("--datasheet-tflops", type=float, help="the card's dense bf16 peak, where it is not known here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    measured, datasheet = matmul_peak(arguments.device, dtype), arguments.datasheet_tflops or known_peak(on_gpu)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    known = f"{datasheet:,.0f} by its datasheet" if datasheet else "datasheet unknown"
    print(f"{name}, {dtype}, torch {torch.__version__}: {measured / 1e12:,.2f} TFLOP/s measured, {known}")
    for model in arguments.models.split(","):
        rates = measure(model, arguments.tokens, arguments.tokens_per_batch, arguments.device, dtype)
        share = f", {rates.flops / datasheet / 1e12:.0%} of the datasheet" if datasheet else ""
        memory = f", {torch.cuda.max_memory_allocated() / 2**30:,.1f} GiB" if on_gpu else ""
        print(
            f"{model}: {rates.tokens:,.0f} tokens/s, {rates.texts:,.0f} texts/s, "
            f"{rates.flops / measured:.0%} of the measured peak{share}{memory}",
            flush=True,
        )


class Rates(NamedTuple):
    """Per second."""

    tokens: float
    texts: float
    flops: float


@torch.inference_mode()
def measure(name: str, num_tokens: int, tokens_per_batch: int, device: str, dtype: torch.dtype) -> Rates:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = random_model(name, device, dtype)
    batches, held = [], 0
    generator = np.random.default_rng(0)
    while held < num_tokens:
        batches.append(random_batch(generator, tokens_per_batch))
        held += sum(map(len, batches[-1]))
    run(model, batches[:WARM_UP_BATCHES], device)
    started = time.perf_counter()
    run(model, batches, device)
    elapsed = time.perf_counter() - started
    return Rates(held / elapsed, sum(map(len, batches)) / elapsed, flops(model, batches) / elapsed)


def run(model: LlamaModel, batches: list[list[np.ndarray]], device: str) -> torch.Tensor:
    """The copy to the host waits for the device."""
    return torch.cat([embed_packed(model, pack(batch, device), "mean", True) for batch in batches]).cpu()


def random_model(name: str, device: str, dtype: torch.dtype) -> LlamaModel:
    shape = MODELS[name]
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=shape.hidden_dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        intermediate_size=shape.intermediate_dim,
        dtype=dtype,
    )
    with torch.device(device):
        model = LlamaModel._from_config(config, dtype=dtype).eval()  # in its dtype from the start: half the memory
    prepare(model)
    return model


def random_batch(generator: np.random.Generator, max_tokens: int) -> list[np.ndarray]:
    lengths = np.clip(generator.lognormal(3.9, 0.4, max_tokens // 8), 4, 256).astype(int)
    return [generator.integers(0, 32000, length) for length in lengths[np.cumsum(lengths) <= max_tokens]]


def flops(model: LlamaModel, batches: list[list[np.ndarray]]) -> float:
    """Causal attention sees half of the pairs."""
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    lengths = np.array([len(ids) for batch in batches for ids in batch])
    attention = 2 * model.config.num_hidden_layers * model.config.hidden_size * int((lengths**2).sum())
    return 2 * linear * int(lengths.sum()) + attention


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of the best of some square products."""
    size = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def known_peak(on_gpu: bool) -> float | None:
    """The card's dense bf16 TFLOP/s by its datasheet."""
    name = torch.cuda.get_device_name() if on_gpu else ""
    return next((tflops for piece, tflops in DATASHEET.items() if piece in name), None)


if __name__ == "__main__":
    main()
