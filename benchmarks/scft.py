"""SCFT's step against sentence-transformers' gradient-cached loss: same model, adapters, texts and batch.

    PYTHONPATH=. python benchmarks/scft.py [--batch-size 1024] [--steps 1] [--threads 2]

MiniLM with LoRA on Amazon Beauty's prompts (the folder that LLMEMB_DATA names, ../shared/data by default), both "views"
the full prompt of 54 tokens on average, symmetric InfoNCE over the whole batch, float32. sentence-transformers runs at
the best of several mini-batch sizes, in the texts' own order, which is how its trainer feeds it, and sorted by length,
which pads less. All take turns, and must give the same loss. The limit is what the measured matrix product would need
for the linear layers: two passes forward, by gradient caching, and one backward.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.embed import ENCODER, TEMPLATE, beauty_prompts, matmul_peak
from llmemb.encoder.folder import EncoderFolder, local_folder
from llmemb.encoder.torch_engine import load_tokenizer, tokenize
from llmemb.scft.config import ScftConfig
from llmemb.scft.engine import WorkerBatch, make_engine, train_step
from llmemb.scft.loss import TemperedLoss
from llmemb.scft.model import make_model
from llmemb.scft.throughput import flops_per_token

TEMPERATURE = 0.05
MINI_BATCHES: tuple[dict[str, int], ...] = (
    *({"mini_batch_size": size} for size in (8, 16, 32, 64)),
    *({"mini_batch_num_tokens": tokens} for tokens in (1024, 4096)),
)
CALIBRATION_PAIRS = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prompts = beauty_prompts()[: arguments.batch_size]
    peak = matmul_peak(torch.float32, time.perf_counter)
    with local_folder(ENCODER) as path:
        ours, theirs = Ours(path, prompts), SentenceTransformers(path, prompts)
        theirs.calibrate()
        ours.step(prompts[:CALIBRATION_PAIRS])
        steps = {
            "llmemb": ours.step,
            "sentence-transformers": theirs.step,
            "sentence-transformers, sorted": lambda texts: theirs.step(sorted(texts, key=len)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(arguments.steps):
            for name, step in steps.items():
                started = time.perf_counter()
                loss = step(prompts)
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: loss {loss:.5f}, {seconds[name][-1]:.1f} s", flush=True)
    rates = {name: arguments.batch_size / statistics.median(times) for name, times in seconds.items()}
    flops = ours.tokens * ours.flops_per_token * 6 / 4  # forward twice and backward
    for name, rate in rates.items():
        print(f"{name}: {rate:.2f} pairs/s; llmemb {rates['llmemb'] / rate:.2f}x")
    limit = arguments.batch_size / (flops / peak)
    print(f"mini-batches {theirs.mini_batches}; matmul limit at {peak / 1e9:,.0f} GFLOP/s: {limit:.2f} pairs/s")


class Ours:
    """The step of the job, DeepSpeed included, in a group of one."""

    def __init__(self, path: Path, prompts: list[str]) -> None:
        with tempfile.NamedTemporaryFile() as store:
            dist.init_process_group("gloo", init_method=f"file://{store.name}.group", rank=0, world_size=1)
        os.environ.update(DS_ACCELERATOR="cpu", RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        config = ScftConfig.model_validate(
            {
                "dataset": "none",
                "output": "none",
                "prompt": TEMPLATE.model_dump(),
                "loss": {"kind": "info_nce", "temperature": TEMPERATURE},
            }
        )
        folder = EncoderFolder.read(path)
        self._config, self._tokenizer, self._max_seq_len = config, load_tokenizer(path), folder.max_seq_len
        encoder = make_model(folder, config, precision="fp32")
        self.flops_per_token = flops_per_token(encoder, "lora")
        self._engine = make_engine(encoder, config.engine, config.optimizer, "fp32")
        self._loss = TemperedLoss(config.loss)
        self.tokens = 2 * sum(map(len, tokenize(self._tokenizer, prompts, self._max_seq_len)))

    def step(self, prompts: list[str]) -> float:
        token_ids = tokenize(self._tokenizer, prompts, self._max_seq_len)
        value, *_ = train_step(
            self._engine,
            [WorkerBatch(token_ids + token_ids, torch.eye(len(prompts), dtype=torch.bool))],
            self._loss,
            learning_rate=0.0,
            tokens_per_chunk=self._config.engine.tokens_per_chunk,
            dropout_seed=[0],
        )
        return value


class SentenceTransformers:
    """CachedMultipleNegativesRankingLoss in both directions, in the loop that its trainer runs."""

    def __init__(self, path: Path, prompts: list[str]) -> None:
        import peft
        from sentence_transformers import SentenceTransformer

        settings = ScftConfig.model_fields["lora"].default
        self._model = SentenceTransformer(str(path), device="cpu")
        self._model.add_adapter(
            peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules="all-linear")
        )
        self._model.eval()  # without dropout, as ours
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=0.0)
        self._prompts = prompts
        self.mini_batches = MINI_BATCHES[0]

    def calibrate(self) -> None:
        """Finds the fastest mini-batch."""
        seconds = []
        for self.mini_batches in MINI_BATCHES:
            started = time.perf_counter()
            self.step(self._prompts[:CALIBRATION_PAIRS])
            seconds.append(time.perf_counter() - started)
        self.mini_batches = MINI_BATCHES[seconds.index(min(seconds))]

    def step(self, prompts: list[str]) -> float:
        from sentence_transformers.sentence_transformer import losses

        loss = losses.CachedMultipleNegativesRankingLoss(
            self._model,
            scale=1 / TEMPERATURE,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
            **self.mini_batches,
        )
        features: list[Any] = [self._model.preprocess(prompts) for _ in range(2)]
        value: Tensor = loss(features, torch.empty(0))
        self._optimizer.zero_grad()
        value.backward()
        self._optimizer.step()
        return float(value.detach())


if __name__ == "__main__":
    main()
