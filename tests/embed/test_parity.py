from dataclasses import replace

import pytest

from llmemb.compute import tasks
from llmemb.embed import parity, pipeline
from llmemb.embed.config import EmbedConfig
from llmemb.embed.pipeline import run_embed
from llmemb.embed.plan import EncoderPlan
from llmemb.errors import InputError

ENCODER = EncoderPlan(
    uri="s3://bucket/encoder",
    fingerprint="0",
    kind="vllm",
    max_seq_len=64,
    precision="bf16",
    normalize=True,
    dimension=None,
    dtype="float16",
    tokens_per_batch=64,
    threads=3,
    device="cuda",
    gpus_per_worker=2,
    compiled=False,
)


@pytest.mark.parametrize(
    ("device", "num_parameters", "expected"),
    [
        ("cuda", 600_000_000, ("cuda", 1, 1)),
        ("cuda", 7_000_000_000, ("cpu", 0, 8)),
        ("cpu", 600_000_000, ("cpu", 0, 3)),
    ],
)
def test_a_reference_too_large_for_a_gpu_runs_on_cpus(monkeypatch, device, num_parameters, expected):
    monkeypatch.setattr(parity, "cpu_threads", lambda *_: 96)
    found = parity._reference(replace(ENCODER, device=device, num_parameters=num_parameters))
    assert (found.device, found.num_gpus, found.threads) == expected


def test_that_no_node_can_check_the_vectors_is_said_before_any_is_made(
    tiny_dataset, tiny_encoder, tmp_path, monkeypatch, ray_local
):
    def encodes(*_: object) -> None:
        raise AssertionError("encoding began")

    monkeypatch.setattr(pipeline, "_stream", encodes)
    monkeypatch.setattr(parity, "float32_memory", lambda _: 2**45)
    monkeypatch.setattr(tasks, "NODE_WAIT_SECONDS", 0.1)
    config = EmbedConfig.parse(
        {
            "dataset": tiny_dataset,
            "encoder": str(tiny_encoder),
            "output": str(tmp_path),
            "prompt": {"attributes": ["title"]},
        }
    )
    with pytest.raises(InputError, match=r"parity: no node of the cluster has 32768 GiB of memory and \d CPU"):
        run_embed(config)
