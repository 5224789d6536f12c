import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmemb.scft.batches import global_batch, worker_slice


def test_an_epoch_sees_no_item_twice_and_the_next_epoch_is_in_another_order():
    batches = [global_batch(step, seed=0, num_items=10, batch_size=3) for step in range(6)]
    assert [batch.epoch for batch in batches] == [0, 0, 0, 1, 1, 1]
    for epoch in (batches[:3], batches[3:]):
        assert len(np.unique(np.concatenate([batch.items for batch in epoch]))) == 9
    assert not np.array_equal(batches[0].items, batches[3].items)


def test_a_batch_is_a_function_of_seed_and_step_alone():
    again = global_batch(4, seed=7, num_items=100, batch_size=8)
    np.testing.assert_array_equal(global_batch(4, seed=7, num_items=100, batch_size=8).items, again.items)
    assert not np.array_equal(global_batch(4, seed=8, num_items=100, batch_size=8).items, again.items)


def test_an_epochs_order_is_drawn_once_and_is_numpys():
    batches = [global_batch(step, seed=7, num_items=100, batch_size=8) for step in (12, 13, 23)]
    order = np.random.default_rng([7, 1]).permutation(100)
    for batch, start in zip(batches, (0, 8, 88), strict=True):
        assert batch.epoch == 1
        np.testing.assert_array_equal(batch.items, order[start : start + 8])
    assert batches[0].items.base is batches[2].items.base


def test_a_batch_larger_than_the_catalogue_is_refused():
    with pytest.raises(ValueError, match="at most 3 items, got 4"):
        global_batch(0, seed=0, num_items=3, batch_size=4)


@given(st.integers(1, 500), st.integers(1, 9))
def test_workers_share_the_batch_out_evenly_and_completely(batch_size, num_workers):
    parts = [range(batch_size)[worker_slice(batch_size, rank=r, num_workers=num_workers)] for r in range(num_workers)]
    assert [row for part in parts for row in part] == list(range(batch_size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
