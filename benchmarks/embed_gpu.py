"""Packed encoding on a GPU: tokens per second and the share of the peak, for random models of 0.1B to 7B parameters.

    PYTHONPATH=. python benchmarks/embed_gpu.py [--models 0.1B,0.5B,1B,3B,7B] [--tokens 2000000] [--device cuda]

Needs torch and transformers alone. Prompts of random ids, their lengths drawn like those of Amazon Beauty (54 tokens on
average). The share counts the FLOPs of linear layers and attention over real tokens, against a measured bf16 product.
"""

import argparse
import time

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

from llmemb.encoder.packed import embed_packed, pack, prepare

# hidden size, layers, heads, key-value heads, intermediate size
MODELS = {
    "tiny": (64, 2, 4, 2, 128),
    "0.1B": (768, 12, 12, 12, 2048),
    "0.5B": (1024, 28, 16, 8, 3072),
    "1B": (2048, 16, 32, 8, 8192),
    "3B": (3072, 28, 24, 8, 8192),
    "7B": (4096, 32, 32, 32, 11008),
}
WARM_UP_BATCHES = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="0.1B,0.5B,1B,3B,7B")
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--tokens-per-batch", type=int, default=32768)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    peak = matmul_peak(arguments.device, dtype)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"{name}, {dtype}: {peak / 1e12:,.2f} TFLOP/s measured in a square product")
    for model in arguments.models.split(","):
        tokens, share = measure(model, arguments.tokens, arguments.tokens_per_batch, arguments.device, dtype, peak)
        print(f"{model}: {tokens:,.0f} tokens/s, {share:.0%} of that", flush=True)


@torch.inference_mode()
def measure(
    name: str, num_tokens: int, tokens_per_batch: int, device: str, dtype: torch.dtype, peak: float
) -> tuple[float, float]:
    """Tokens per second, from ids on the host to vectors on the host, and the share of the peak."""
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
    return held / elapsed, flops(model, batches) / elapsed / peak


def run(model: LlamaModel, batches: list[list[np.ndarray]], device: str) -> torch.Tensor:
    return torch.cat([embed_packed(model, pack(batch, device), "mean", True) for batch in batches]).cpu()


def random_model(name: str, device: str, dtype: torch.dtype) -> LlamaModel:
    hidden, layers, heads, groups, intermediate = MODELS[name]
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=intermediate,
    )
    with torch.device(device):
        model = LlamaModel(config).to(dtype).eval()
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


if __name__ == "__main__":
    main()
