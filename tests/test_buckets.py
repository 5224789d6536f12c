import hashlib

import numpy as np
import pytest

from llmemb.buckets import buckets, num_buckets, overlapping

IDS = [f"item {index}" for index in range(500)] + ["ü", ""]


def test_a_bucket_is_the_ids_hash_on_any_machine():
    expected = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % 16 for text in IDS]
    assert buckets(IDS, 16).tolist() == expected
    assert len(buckets([], 4)) == 0


@pytest.mark.parametrize(("items", "expected"), [(1, 8), (8 * 16, 8), (8 * 16 + 1, 16), (33 * 16, 64)])
def test_the_number_of_buckets_is_the_smallest_power_of_two_that_is_enough(items, expected):
    assert num_buckets(items, items_per_bucket=16, at_least=8) == expected


@pytest.mark.parametrize(("few", "many"), [(1, 1), (4, 16), (16, 4), (8, 8)])
def test_overlapping_names_exactly_the_buckets_that_share_items(few, many):
    first, second = buckets(IDS, few), buckets(IDS, many)
    for bucket in range(few):
        assert set(overlapping(bucket, few, many)) == set(second[first == bucket].tolist())
    assert not np.array_equal(first, second) or few == many
