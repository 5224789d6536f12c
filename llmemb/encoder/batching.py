"""Batches of texts of similar length, bounded by the tokens they hold once padded."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TokenIds = Sequence[int] | NDArray[np.integer]
"""One text's."""


def token_budget_batches(lengths: Sequence[int] | NDArray[np.int64], max_tokens: int) -> list[NDArray[np.int64]]:
    """Row indices in batches, longest rows first; ``rows x longest row`` stays within ``max_tokens``.

    A row longer than the budget is a batch of its own. Longest first, so that memory runs out at once or never.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def packed_batches(lengths: Sequence[int] | NDArray[np.int64], max_tokens: int) -> list[NDArray[np.int64]]:
    """Row indices in batches, longest rows first; the tokens of a batch, end to end, stay within ``max_tokens``.

    A row longer than the budget is a batch of its own.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        held = np.cumsum(lengths[order[start : start + max_tokens]])
        rows = max(1, int(np.searchsorted(held, max_tokens, side="right")))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def split_batches(batches: list[NDArray[np.int64]], num_batches: int) -> list[NDArray[np.int64]]:
    """The same rows in ``num_batches`` batches: the one with most rows is halved until there are enough.

    Workers that must take part in the same number of collectives use it; it needs ``num_batches`` rows.
    """
    batches = list(batches)
    if sum(map(len, batches)) < num_batches:
        raise ValueError(f"expected at least {num_batches} rows to split, got {sum(map(len, batches))}")
    while len(batches) < num_batches:
        largest = max(range(len(batches)), key=lambda index: len(batches[index]))
        rows = batches[largest]
        batches[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return batches


def merge_batches(
    batches: list[NDArray[np.int64]], lengths: Sequence[int] | NDArray[np.int64], num_batches: int
) -> list[NDArray[np.int64]]:
    """The same rows in ``num_batches`` batches or fewer: of two neighbours, those that hold least together are joined.

    A batch may then exceed the budget that the others were made for.
    """
    batches, lengths = list(batches), np.asarray(lengths)
    while len(batches) > num_batches:
        joined = [np.concatenate(pair) for pair in itertools.pairwise(batches)]
        held = [len(rows) * int(lengths[rows].max()) for rows in joined]
        least = held.index(min(held))
        batches[least : least + 2] = [joined[least]]
    return batches
