import math

from hypothesis import given
from hypothesis import strategies as st

from llmemb.scft.views import pair

CLAUSES = [f"attribute{index} is {index}" for index in range(10)]


@given(st.integers(1, 10), st.floats(0, 0.99))
def test_a_view_drops_its_share_and_keeps_at_least_one_clause(num_clauses, drop_ratio):
    clauses = CLAUSES[:num_clauses]
    for view in pair(clauses, seed=1, epoch=2, item_index=3, drop_ratio=drop_ratio):
        assert len(view) == max(1, num_clauses - math.floor(drop_ratio * num_clauses))
        assert len(set(view)) == len(view)
        assert set(view) <= set(clauses)


def test_a_pair_is_a_function_of_seed_epoch_and_item_alone():
    def views(**changed):
        return pair(CLAUSES, **{"seed": 1, "epoch": 2, "item_index": 3, "drop_ratio": 0.4} | changed)

    assert views() == views()
    assert all(views() != views(**{key: 9}) for key in ("seed", "epoch", "item_index"))
    first, second = views()
    assert first != second
