import numpy as np
import pytest
import torch

import llmemb.rat.criterion
from llmemb.rat.criterion import candidates_of, is_sampled, make_criterion
from llmemb.srs.objective import Batch

NUM_ITEMS, DIM = 9, 4
POPULARITY = torch.tensor([5.0, 3.0, 1.0, 0.0, 2.0, 1.0, 1.0, 4.0, 1.0])
BATCH = Batch(np.array([[1, 2, 8], [5, 3, 0]]), np.array([[2, 8, 1], [3, 6, 0]]), num_interactions=7)


def criterion(name: str, *, num_negatives: int | None = 3, offset: float = 0.0):
    return make_criterion(
        name,  # type: ignore[arg-type]
        POPULARITY,
        popularity_offset=offset,
        num_negatives=num_negatives,
        calibration=0.75,
        matmul_dtype=torch.float32,
    )


def summed(name: str, share: slice = slice(None), **options) -> torch.Tensor:
    """The loss of a worker's rows, with queries that are the same however the rows are shared out."""
    torch.manual_seed(0)
    table, queries = torch.randn(NUM_ITEMS, DIM), torch.randn(2, 3, DIM)
    chosen = criterion(name, **options)
    drawn = chosen.draw(BATCH, np.random.default_rng(7))
    candidates = candidates_of(BATCH, drawn, share, device=torch.device("cpu"))
    targets = candidates.place(torch.from_numpy(BATCH.targets[share]))
    real = targets > 0
    rows = torch.arange(NUM_ITEMS) if candidates.rows is None else candidates.rows
    return chosen(queries[share][real], table[rows], targets[real] - 1, candidates)


def test_with_all_items_as_candidates_the_sampled_softmax_is_the_full_one():
    """Every row is drawn for certain, so nothing is corrected."""
    full, sampled = summed("softmax"), summed("sampled_softmax", num_negatives=100_000)
    torch.testing.assert_close(sampled, full, rtol=1e-5, atol=0)
    full, sampled = summed("softmax", offset=0.5), summed("sampled_softmax", num_negatives=100_000, offset=0.5)
    torch.testing.assert_close(sampled, full, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("name", "negatives", "power"), [("bce", 1, 1.0), ("gbce", 3, 1 - 0.75 * (1 - 3 / 8))])
def test_binary_losses_equal_their_formula(name, negatives, power):
    torch.manual_seed(0)
    table, queries = torch.randn(NUM_ITEMS, DIM).double(), torch.randn(2, 3, DIM).double()
    drawn = np.random.default_rng(7).integers(NUM_ITEMS, size=(2, 3, negatives))
    expected = 0.0
    for row, position in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]:
        query, target = queries[row, position], BATCH.targets[row, position] - 1
        expected -= power * torch.log(torch.sigmoid(query @ table[target])).item()
        for negative in drawn[row, position]:
            if negative != target:
                expected -= torch.log(1 - torch.sigmoid(query @ table[negative])).item()
    assert summed(name).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["softmax", "sampled_softmax", "gbce", "bce"])
def test_workers_losses_add_up_to_that_of_one(name):
    shares = [slice(rank, None, 2) for rank in range(2)]
    parts = torch.stack([summed(name, share) for share in shares])
    torch.testing.assert_close(parts.sum(), summed(name))


def test_a_large_catalogue_is_sampled_unless_something_else_is_said(monkeypatch):
    assert criterion("auto").draw(BATCH, np.random.default_rng(0)) is None
    monkeypatch.setattr(llmemb.rat.criterion, "FULL_SOFTMAX_ITEMS", NUM_ITEMS - 1)
    drawn = criterion("auto").draw(BATCH, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, criterion("sampled_softmax").draw(BATCH, np.random.default_rng(0)))
    assert criterion("softmax").draw(BATCH, np.random.default_rng(0)) is None


@pytest.mark.parametrize("loss", ["auto", "bce"])
def test_content_too_is_sampled_by_the_catalogues_size_alone(loss):
    assert [is_sampled(loss, num_items) for num_items in (100_000, 100_001)] == [False, True]


@pytest.mark.parametrize(("name", "shape"), [("sampled_softmax", (4096,)), ("gbce", (2, 3, 256)), ("bce", (2, 3, 1))])
def test_a_position_has_fewer_negatives_by_default_than_a_batch(name, shape):
    assert criterion(name, num_negatives=None).draw(BATCH, np.random.default_rng(0)).shape == shape


def test_candidates_are_the_batchs_items_and_those_drawn():
    drawn = np.array([0, 8])
    candidates = candidates_of(BATCH, drawn, slice(None), device=torch.device("cpu"))
    assert candidates.rows is not None
    assert candidates.rows.tolist() == [0, 1, 2, 4, 5, 7, 8]
    assert (candidates.num_interactions, candidates.num_drawn) == (7, 2)
