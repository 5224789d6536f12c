import numpy as np
import pytest
import torch

from llmemb import contrastive
from llmemb.scft.gradient_cache import contrastive_step

VOCABULARY, DIM = 20, 6


def model():
    torch.manual_seed(0)
    return torch.nn.EmbeddingBag(VOCABULARY, DIM, mode="mean", dtype=torch.float64)


def texts(num_pairs):
    generator = np.random.default_rng(0)
    return [generator.integers(0, VOCABULARY, generator.integers(1, 9)).tolist() for _ in range(2 * num_pairs)]


def embed_with(module, token_ids):
    return lambda rows: torch.cat([module(torch.tensor([token_ids[row]])) for row in rows])


def loss(first, second):
    return contrastive.soft_targets(first, second, temperature=0.3)


@pytest.mark.parametrize("tokens_per_chunk", [1, 7, 30, 10_000])
def test_loss_and_gradient_are_the_whole_batchs_whatever_the_chunks(tokens_per_chunk):
    token_ids, num_pairs = texts(11), 11
    whole = model()
    expected = loss(*embed_with(whole, token_ids)(range(2 * num_pairs)).view(2, num_pairs, DIM))
    expected.backward()

    chunked, last_flags = model(), []

    def backward(value, *, is_last):
        last_flags.append(is_last)
        value.backward()

    value = contrastive_step(
        token_ids, embed=embed_with(chunked, token_ids), loss=loss, backward=backward, tokens_per_chunk=tokens_per_chunk
    )
    assert value == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(chunked.weight.grad, whole.weight.grad, rtol=1e-10, atol=1e-12)
    assert last_flags == [False] * (len(last_flags) - 1) + [True]
    assert (len(last_flags) == 1) == (tokens_per_chunk == 10_000)
