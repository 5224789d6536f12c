import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmemb.encoder.batching import (
    merge_batches,
    packed_batches,
    split_batches,
    token_budget_batches,
)

LENGTHS = st.lists(st.integers(1, 300), max_size=200)


@given(LENGTHS, st.integers(1, 1000))
def test_every_row_is_in_one_batch_and_batches_keep_the_budget(lengths, max_tokens):
    batches = token_budget_batches(lengths, max_tokens)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= max_tokens


def test_batches_hold_rows_of_similar_length_longest_first():
    batches = token_budget_batches([1, 9, 2, 10, 1], max_tokens=20)
    assert [batch.tolist() for batch in batches] == [[3, 1], [2, 0, 4]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=100), st.data())
def test_split_batches_gives_the_number_asked_for_and_loses_no_row(lengths, data):
    batches = token_budget_batches(lengths, 64)
    number = data.draw(st.integers(len(batches), len(lengths)))
    split = split_batches(batches, number)
    assert len(split) == number
    assert all(len(batch) for batch in split)
    assert sorted(np.concatenate(split)) == list(range(len(lengths)))


def test_split_batches_refuses_more_batches_than_rows():
    with pytest.raises(ValueError, match="at least 3 rows"):
        split_batches([np.array([0, 1])], 3)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=100), st.data())
def test_merge_batches_gives_the_number_asked_for_and_loses_no_row(lengths, data):
    batches = token_budget_batches(lengths, 64)
    number = data.draw(st.integers(1, len(batches) + 1))
    merged = merge_batches(batches, lengths, number)
    assert len(merged) == min(number, len(batches))
    assert np.concatenate(merged).tolist() == np.concatenate(batches).tolist()


def test_merge_batches_joins_those_that_hold_least():
    batches = [np.array([row]) for row in range(4)]
    assert [rows.tolist() for rows in merge_batches(batches, [9, 5, 4, 4], 3)] == [[0], [1], [2, 3]]
    assert [rows.tolist() for rows in merge_batches(batches, [9, 5, 4, 4], 2)] == [[0], [1, 2, 3]]
    assert [rows.tolist() for rows in merge_batches(batches, [9, 7, 6, 6], 2)] == [[0, 1], [2, 3]]


@given(LENGTHS, st.integers(1, 1000))
def test_packed_batches_hold_every_row_once_and_as_many_as_fit(lengths, max_tokens):
    batches = packed_batches(lengths, max_tokens)
    assert [row for batch in batches for row in batch] == np.argsort(-np.array(lengths), kind="stable").tolist()
    held = [sum(lengths[row] for row in batch) for batch in batches]
    for batch, following, tokens in zip(batches, batches[1:], held, strict=False):
        assert len(batch) == 1 or tokens <= max_tokens
        assert tokens + lengths[following[0]] > max_tokens
