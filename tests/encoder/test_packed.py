from functools import partial

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
)

from llmemb.encoder import packed as packed_module
from llmemb.encoder import torch_engine
from llmemb.encoder.folder import EncoderFolder
from llmemb.encoder.packed import embed_packed, pack, prepare
from llmemb.encoder.torch_engine import TorchEngine, embed, pad

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
LENGTHS = [7, 1, 19, 3]


@pytest.fixture(params=["bert", "roberta", "llama", "qwen3"])
def model(request):
    torch.manual_seed(0)
    if request.param == "bert":
        return BertModel(BertConfig(vocab_size=50, max_position_embeddings=32, **SIZES), add_pooling_layer=False).eval()
    if request.param == "roberta":  # position 0 is the row before its table's padding
        config = RobertaConfig(vocab_size=50, max_position_embeddings=34, **SIZES)
        return RobertaModel(config, add_pooling_layer=False).eval()
    grouped = {"vocab_size": 50, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32, **SIZES}
    if request.param == "llama":
        return LlamaModel(LlamaConfig(**grouped)).eval()
    return Qwen3Model(Qwen3Config(**grouped)).eval()


@pytest.mark.parametrize("pooling", ["mean", "lasttoken", "cls"])
@torch.inference_mode()
def test_packed_texts_have_the_vectors_of_padded_ones(model, pooling):
    generator = np.random.default_rng(0)
    token_ids = [generator.integers(2, 50, length) for length in LENGTHS]
    expected = torch.cat([embed(model, *pad([ids], "cpu"), pooling, True) for ids in token_ids])
    prepare(model)
    packed = pack(token_ids, "cpu")
    assert packed.ids.shape == (1, sum(LENGTHS))
    assert packed.positions[0, 7:10].tolist() == [0, 0, 1]
    np.testing.assert_allclose(embed_packed(model, packed, pooling, True), expected, atol=1e-6)


def test_the_sample_by_which_packing_is_tried_has_no_padding_in_it():
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=10, max_position_embeddings=34, **SIZES)  # every tenth token would be
    model = RobertaModel(config, add_pooling_layer=False).eval()
    texts = packed_module.sample_texts(model, 30)
    with torch.inference_mode():
        expected = torch.cat([embed(model, *pad([text], "cpu"), "mean", True) for text in texts])
        embed_texts = partial(embed_with, model)
        assert packed_module.prepare_if_same(model, expected, embed_texts, 30) is None


def embed_with(model, texts):
    return embed_packed(model, pack(texts, "cpu"), "mean", True)


@pytest.fixture
def engine(tiny_encoder):
    return TorchEngine(EncoderFolder.read(tiny_encoder), precision="fp32", tokens_per_batch=24, device="cpu")


def test_the_engine_packs_where_packing_gives_the_same_vectors(engine):
    """What a GPU does in bf16, here on a CPU."""
    generator = np.random.default_rng(1)
    token_ids = [generator.integers(1, 20, length) for length in (4, 30, 1, 9, 9)]
    padded = engine.encode(token_ids)
    assert engine._prepare_packing()
    assert not engine.pads
    np.testing.assert_allclose(engine.encode(token_ids), padded, atol=1e-6)


def test_the_engine_pads_where_packing_gives_others(engine, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(torch_engine.logger, "warning", lambda message, *values: told.append(message % values))
    token_ids = [np.arange(1, 9), np.arange(1, 5)]
    before = engine.encode(token_ids)
    monkeypatch.setattr(packed_module, "pool_packed", lambda states, offsets, mode: states[offsets[:-1]])
    assert not engine._prepare_packing()
    assert "batches are padded, since packing fails here: cosine" in told[0]
    engine.pads = True
    np.testing.assert_array_equal(engine.encode(token_ids), before)
