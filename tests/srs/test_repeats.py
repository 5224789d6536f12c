import numpy as np
import pytest
import torch

from llmemb.data.sequences import Sequences
from llmemb.srs.objective import MASK
from llmemb.srs.repeats import repeat_share, seen_rows


def test_each_user_has_seen_each_item_of_the_history_once():
    users, rows = seen_rows(torch.tensor([[0, 5, 3, 5], [0, 0, 0, 0], [1, 3, 2, MASK]]))
    assert list(zip(users.tolist(), rows.tolist(), strict=True)) == [(0, 2), (0, 4), (2, 0), (2, 1), (2, 2)]


def test_the_share_of_repeats_is_counted_over_targets():
    sequences = Sequences.from_lists([[1, 2, 1, 1], [1, 3], [4]])
    assert repeat_share(sequences) == pytest.approx((2 + 1) / (4 + 2))
    nothing = Sequences(np.array([], dtype=np.int32), np.array([0]))
    assert 0 < repeat_share(nothing) < 1
