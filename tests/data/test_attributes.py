"""Which kind of value a column of text records holds, and its values as that kind."""

from typing import Any

import pytest

from llmemb.data.attributes import kind_of, merge_kinds, typed


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "-20", "0", ""], [1, -20, 0, None]),
        (["1", "2.5", "3e2"], [1.0, 2.5, 300.0]),
        (["1234567890123456789", "5"], [1234567890123456789, 5]),
        (["9223372036854775807", "-9223372036854775808"], [2**63 - 1, -(2**63)]),
        (["9223372036854775808", "5"], ["9223372036854775808", "5"]),
        (["12345678901234567890123", "-9223372036854775809"], ["12345678901234567890123", "-9223372036854775809"]),
        (["1" * 5000, "1"], ["1" * 5000, "1"]),
        (["9007199254740993", "0.5"], [2.0**53, 0.5]),
        (["1e999", "-1e999", "2.5"], [None, None, 2.5]),
        (["1e999", "3"], [None, 3.0]),
        (["007", "7"], ["007", "7"]),
        (["1e999", "high"], ["1e999", "high"]),
        (["true", ""], [True, None]),
    ],
)
def test_column_of_texts_has_the_narrowest_kind_and_loses_no_digit(texts: list[str], values: list[Any]) -> None:
    kind = merge_kinds({"x": kind_of(text, infers=True)} for text in texts)["x"]
    found = [typed(text, kind) for text in texts]
    assert found == values
    assert list(map(type, found)) == list(map(type, values))
