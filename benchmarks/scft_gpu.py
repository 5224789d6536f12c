"""A step of SCFT on one GPU: tokens per second and the share of its arithmetic, for random Llama models of 1B and 7B.

    PYTHONPATH=. python benchmarks/scft_gpu.py [--models 1B,7B] [--pairs 512] [--steps 5] [--device cuda]

Needs torch, transformers, peft and jaxtyping alone: gradient caching, packed texts, LoRA of rank 8, bf16, as the job
does them, with torch's AdamW in place of DeepSpeed. Views of random ids, as long as those of Amazon Beauty's items. A
token counts once, however often it passes: 2 FLOPs forward and 2 backward per weight of the linear layers. The share is
of a measured product of two square matrices; gradient caching adds a forward pass, so it cannot exceed two thirds.
"""

import argparse
import time
from functools import partial

import numpy as np
import peft
import torch

from benchmarks.embed_gpu import matmul_peak, random_model
from llmemb import contrastive
from llmemb.encoder.batching import packed_batches
from llmemb.encoder.packed import embed_packed, pack
from llmemb.scft.gradient_cache import contrastive_step

VOCABULARY = 32000
MEAN_TOKENS = 33
WARM_UP_STEPS = 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="1B,7B")
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tokens-per-chunk", type=int, default=16384)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    peak = matmul_peak(arguments.device, dtype)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"{name}, {dtype}: {peak / 1e12:,.2f} TFLOP/s measured in a square product")
    for model in arguments.models.split(","):
        tokens, share = measure(
            model, arguments.pairs, arguments.steps, arguments.tokens_per_chunk, arguments.device, dtype, peak
        )
        print(f"{model}: {tokens:,.0f} tokens/s, {share:.0%} of that", flush=True)


def measure(
    name: str, num_pairs: int, steps: int, tokens_per_chunk: int, device: str, dtype: torch.dtype, peak: float
) -> tuple[float, float]:
    """Tokens per second over whole steps, and the share of the peak."""
    model = with_adapters(random_model(name, device, dtype))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    generator = np.random.default_rng(0)
    batches = [random_views(generator, num_pairs) for _ in range(WARM_UP_STEPS + steps)]
    for views in batches[:WARM_UP_STEPS]:
        step(model, optimizer, views, tokens_per_chunk, device)
    synchronize(device)
    started = time.perf_counter()
    for views in batches[WARM_UP_STEPS:]:
        step(model, optimizer, views, tokens_per_chunk, device)
    synchronize(device)
    elapsed = time.perf_counter() - started
    tokens = sum(len(view) for views in batches[WARM_UP_STEPS:] for view in views)
    matrices = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    return tokens / elapsed, 4.0 * matrices * tokens / elapsed / peak


def step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    views: list[np.ndarray],
    tokens_per_chunk: int,
    device: str,
) -> float:
    def embed(rows: np.ndarray, place: int) -> torch.Tensor:
        return embed_packed(model, pack([views[row] for row in rows], device), "mean", normalized=False)

    value = contrastive_step(
        packed_batches([len(view) for view in views], tokens_per_chunk),
        embed=embed,
        loss=partial(contrastive.info_nce, temperature=0.05),
        backward=lambda loss, *, is_last: loss.backward(),
    )
    optimizer.step()
    optimizer.zero_grad()
    return value


def with_adapters(model: torch.nn.Module) -> torch.nn.Module:
    adapters = peft.LoraConfig(r=8, lora_alpha=32, target_modules="all-linear")
    return peft.get_peft_model(model, adapters, autocast_adapter_dtype=False)


def random_views(generator: np.random.Generator, num_pairs: int) -> list[np.ndarray]:
    lengths = np.clip(generator.normal(MEAN_TOKENS, MEAN_TOKENS / 3, 2 * num_pairs), 8, 256).astype(int)
    return [generator.integers(0, VOCABULARY, length) for length in lengths]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
