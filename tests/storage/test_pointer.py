import re

import pytest

from llmemb import storage

NAMES = re.compile("[a-z]+")


@pytest.mark.parametrize("by_hand", [b"one", b"one\n", b"one\r\n", b" one\n\n"])
def test_a_pointer_written_by_hand_is_read_and_moved(root: str, by_hand: bytes) -> None:
    uri = storage.join(root, "LATEST")
    storage.write_bytes(uri, by_hand)
    assert storage.pointed_at(uri, NAMES, expected="a name") == "one"
    assert storage.point(uri, "two", previous="one") is True
    assert storage.read_bytes(uri) == b"two\n"


def test_a_pointer_moves_only_from_what_is_expected(root: str) -> None:
    uri = storage.join(root, "LATEST")
    assert storage.pointed_at(uri, NAMES, expected="a name") is None
    assert storage.point(uri, "one", previous="zero") is False
    assert storage.point(uri, "one", previous=None) is True
    assert storage.point(uri, "two", previous=None) is False
    assert storage.point(uri, "two", previous="zero") is False
    assert storage.pointed_at(uri, NAMES, expected="a name") == "one"
    assert storage.point(uri, "one", previous="zero") is True  # it names it already
