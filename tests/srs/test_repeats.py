import pytest

from llmemb.data.sequences import Sequences
from llmemb.srs.repeats import repeat_share, seen_rows


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (0, 99), (1, 3)])
def test_each_user_has_seen_each_item_of_the_history_once(start: int, stop: int):
    expected = [(0, 2), (0, 4), (2, 0), (2, 1), (2, 2), (3, 0)]
    users, rows = seen_rows(Sequences.from_lists([[5, 3, 5], [], [1, 3, 2], [1]]), start, stop)
    pairs = list(zip(users.tolist(), rows.tolist(), strict=True))
    assert pairs == [(user - start, row) for user, row in expected if start <= user < stop]


def test_the_share_of_repeats_is_counted_over_targets():
    sequences = Sequences.from_lists([[1, 2, 1, 1], [1, 3], [4]])
    assert repeat_share(sequences) == pytest.approx((2 + 1) / (4 + 2))
    nothing = Sequences.from_lists([])
    assert 0 < repeat_share(nothing) < 1
