import numpy as np
import pytest
import torch

from llmemb import contrastive
from llmemb.encoder.batching import token_budget_batches
from llmemb.scft.gradient_cache import contrastive_step

VOCABULARY, DIM, PAIRS = 20, 6, 11


def model():
    torch.manual_seed(0)
    return torch.nn.EmbeddingBag(VOCABULARY, DIM, mode="mean", dtype=torch.float64)


def texts():
    generator = np.random.default_rng(0)
    return [generator.integers(0, VOCABULARY, generator.integers(1, 9)).tolist() for _ in range(2 * PAIRS)]


def embed_with(module, token_ids, dropout=0.0):
    def embed(rows, place):
        torch.manual_seed(place)
        vectors = torch.cat([module(torch.tensor([token_ids[row]])) for row in rows])
        return torch.nn.functional.dropout(vectors, dropout)

    return embed


def loss(first, second):
    return contrastive.soft_targets(first, second, temperature=0.3)


@pytest.mark.parametrize("tokens_per_chunk", [1, 7, 30, 10_000])
def test_loss_and_gradient_are_the_whole_batchs_whatever_the_chunks(tokens_per_chunk):
    token_ids = texts()
    whole = model()
    expected = loss(*embed_with(whole, token_ids)(range(2 * PAIRS), 0).view(2, PAIRS, DIM))
    expected.backward()

    chunked, last_flags = model(), []

    def backward(value, *, is_last):
        last_flags.append(is_last)
        value.backward()

    chunks = token_budget_batches([len(ids) for ids in token_ids], tokens_per_chunk)
    value = contrastive_step(chunks, embed=embed_with(chunked, token_ids), loss=loss, backward=backward)
    assert value == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(chunked.weight.grad, whole.weight.grad, rtol=1e-10, atol=1e-12)
    assert last_flags == [False] * (len(last_flags) - 1) + [True]
    assert (len(last_flags) == 1) == (tokens_per_chunk == 10_000)


def test_dropout_that_the_place_decides_has_the_gradient_of_what_was_embedded():
    token_ids = texts()
    chunks = token_budget_batches([len(ids) for ids in token_ids], 20)
    assert len(chunks) > 2
    whole = model()
    embed = embed_with(whole, token_ids, dropout=0.5)
    vectors = torch.cat([embed(rows, place) for place, rows in enumerate(chunks)])
    expected = loss(*vectors[np.argsort(np.concatenate(chunks))].view(2, PAIRS, DIM))
    expected.backward()

    chunked = model()
    value = contrastive_step(
        chunks,
        embed=embed_with(chunked, token_ids, dropout=0.5),
        loss=loss,
        backward=lambda value, *, is_last: value.backward(),
    )
    assert value == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(chunked.weight.grad, whole.weight.grad, rtol=1e-10, atol=1e-12)


def test_the_weight_scales_all_gradients_and_the_losss_own_parameters_get_theirs():
    token_ids, module = texts(), model()
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    embed = embed_with(module, token_ids)

    def tempered(first, second):
        return contrastive.info_nce(first, second, temperature=temperature)

    expected = tempered(*embed(range(2 * PAIRS), 0).view(2, PAIRS, DIM))
    weight_gradient, own_gradient = torch.autograd.grad(expected, [module.weight, temperature])
    for _ in range(2):
        value = contrastive_step(
            token_budget_batches([len(ids) for ids in token_ids], 30),
            embed=embed,
            loss=tempered,
            backward=lambda value, *, is_last: value.backward(),
            weight=0.5,
            loss_parameters=[temperature],
        )
        assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(module.weight.grad, weight_gradient)
    torch.testing.assert_close(temperature.grad, own_gradient)
