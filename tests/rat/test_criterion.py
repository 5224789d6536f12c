import numpy as np
import pytest
import torch

import llmemb.rat.criterion
from llmemb.rat.criterion import candidates_of, is_sampled, make_criterion
from llmemb.srs.objective import Batch

NUM_ITEMS, DIM = 9, 4
POPULARITY = torch.tensor([5.0, 3.0, 1.0, 0.0, 2.0, 1.0, 1.0, 4.0, 1.0])
BATCH = Batch(np.array([[1, 2, 8], [5, 3, 0]]), np.array([[2, 8, 1], [3, 6, 0]]), num_interactions=7)

POSITIONS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
"""Those of the batch that have a target."""


def criterion(name: str, *, num_negatives: int | None = 3, offset: float = 0.0):
    return make_criterion(
        name,  # type: ignore[arg-type]
        POPULARITY,
        popularity_offset=offset,
        num_negatives=num_negatives,
        calibration=0.75,
        matmul_dtype=torch.float32,
    )


def leaves(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """A table and the queries of the batch, always the same."""
    torch.manual_seed(0)
    table, queries = torch.randn(NUM_ITEMS, DIM), torch.randn(2, 3, DIM)
    return table.to(dtype).requires_grad_(), queries.to(dtype).requires_grad_()


def summed(name: str, share: slice = slice(None), **options) -> torch.Tensor:
    """The loss of a worker's rows, with queries that are the same however the rows are shared out."""
    return worked(name, *leaves(), share, **options)


def worked(
    name: str, table: torch.Tensor, queries: torch.Tensor, share: slice = slice(None), **options
) -> torch.Tensor:
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
    table, queries = leaves(torch.float64)
    drawn = np.random.default_rng(7).integers(NUM_ITEMS, size=(2, 3, negatives))
    expected = torch.zeros((), dtype=torch.float64)
    for row, position in POSITIONS:
        query, target = queries[row, position], BATCH.targets[row, position] - 1
        expected = expected - power * torch.log(torch.sigmoid(query @ table[target]))
        for negative in drawn[row, position]:
            if negative != target:
                expected = expected - torch.log(1 - torch.sigmoid(query @ table[negative]))
    check_against(expected, (table, queries), name)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_sampled_softmax_is_corrected_by_the_log_of_each_items_chance(offset):
    """To be in the batch, or drawn for it: an item that nearly always is counts for less than one that seldom is."""
    table, queries = leaves(torch.float64)
    drawn = np.random.default_rng(7).integers(NUM_ITEMS, size=3)
    candidates = sorted({int(item) - 1 for item in BATCH.inputs.ravel() if item > 0} | {*BATCH.rows} | {*drawn})
    assert len(candidates) < NUM_ITEMS
    share, smoothed = POPULARITY.double() / POPULARITY.sum(), POPULARITY.double() + 1
    chance = 1 - (1 - share) ** BATCH.num_interactions * (1 - 1 / NUM_ITEMS) ** 3
    added = offset * torch.log(smoothed / smoothed.sum()) - torch.log(chance)
    expected = torch.zeros((), dtype=torch.float64)
    for row, position in POSITIONS:
        logits = torch.stack([queries[row, position] @ table[item] + added[item] for item in candidates])
        place = candidates.index(BATCH.targets[row, position] - 1)
        expected = expected - (logits[place] - torch.log(torch.exp(logits).sum()))
    check_against(expected, (table, queries), "sampled_softmax", offset=offset)


def check_against(expected: torch.Tensor, inputs: tuple[torch.Tensor, torch.Tensor], name: str, **options) -> None:
    """The loss, and the gradients of the table and the queries."""
    actual_inputs = leaves()
    actual = worked(name, *actual_inputs, **options)
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=0)
    actual.backward()
    expected.backward()
    for mine, theirs in zip(actual_inputs, inputs, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad.float(), rtol=1e-4, atol=1e-6)


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
