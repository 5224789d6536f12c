from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmemb.data.sequences import Sequences
from llmemb.srs.objective import MASK, Cloze, NextItem

lists = st.lists(st.lists(st.integers(1, 50), max_size=14), max_size=12)


def cloze(sequences: Sequences, **options) -> Cloze:
    settings = {"max_seq_len": 5, "batch_positions": 16, "mask_share": 0.4, "newest_share": 0.0}
    return Cloze(sequences, **(settings | options))


def test_a_target_is_the_item_after_its_input():
    (batch,) = NextItem(Sequences.from_lists([[1, 2, 3], [4, 5], [6]]), max_seq_len=5, batch_positions=9).batches(
        seed=0, epoch=0
    )
    rows = {tuple(inputs): tuple(targets) for inputs, targets in zip(batch.inputs, batch.targets, strict=True)}
    assert rows == {(1, 2): (2, 3), (4, 0): (5, 0)}
    assert batch.num_targets == 3


@given(lists, st.integers(2, 6), st.integers(1, 20))
def test_masked_and_unmasked_items_together_are_the_sequence(sequences, max_seq_len, batch_positions):
    objective = cloze(Sequences.from_lists(sequences), max_seq_len=max_seq_len, batch_positions=batch_positions)
    batches = list(objective.batches(seed=1, epoch=2))
    assert len(batches) == objective.steps_per_epoch
    seen: Counter = Counter()
    for batch in batches:
        assert batch.inputs.shape[1] <= max_seq_len
        assert ((batch.inputs == MASK) == (batch.targets > 0)).all()
        assert ((batch.inputs == MASK).any(axis=1)).all()  # a row without a mask would teach nothing
        whole = np.where(batch.inputs == MASK, batch.targets, batch.inputs)
        seen.update(whole[whole > 0].tolist())
    expected = Counter(item for one in sequences if len(one) > 1 for item in one)
    assert set(seen) == set(expected)
    assert all(seen[item] >= count for item, count in expected.items())  # windows share the item between them


def test_the_share_of_masks_is_as_configured():
    sequences = Sequences.from_lists([[*range(1, 21)]] * 200)
    for share in (0.2, 0.6):
        objective = cloze(sequences, max_seq_len=20, batch_positions=4000, mask_share=share)
        masks = np.concatenate([batch.inputs for batch in objective.batches(seed=0, epoch=0)]) == MASK
        assert abs(masks.mean() - share) < 0.02


def test_the_newest_item_alone_can_be_masked():
    objective = cloze(Sequences.from_lists([[1, 2, 3], [4, 5]]), newest_share=1.0)
    (batch,) = objective.batches(seed=0, epoch=0)
    assert sorted(batch.inputs.tolist()) == [[1, 2, MASK], [4, MASK, 0]]


def test_masks_depend_on_seed_and_epoch_alone():
    objective = cloze(Sequences.from_lists([[*range(1, 9)]] * 20))

    def inputs(seed: int, epoch: int) -> list:
        return [batch.inputs.tolist() for batch in objective.batches(seed=seed, epoch=epoch)]

    assert inputs(0, 0) == inputs(0, 0)
    assert inputs(0, 0) != inputs(0, 1)
    assert inputs(0, 0) != inputs(1, 0)


def test_a_batch_knows_its_items():
    (batch,) = NextItem(Sequences.from_lists([[7, 2, 7], [4, 5]]), max_seq_len=5, batch_positions=9).batches(
        seed=0, epoch=0
    )
    assert batch.rows.tolist() == [1, 3, 4, 6]
    assert (batch.num_targets, batch.num_interactions) == (3, 5)
    (masked,) = cloze(Sequences.from_lists([[7, 2, 7], [4, 5]])).batches(seed=0, epoch=0)
    assert masked.rows.tolist() == [1, 3, 4, 6]
    assert masked.num_interactions == 5
