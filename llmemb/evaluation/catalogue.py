"""What the report tells of items: a title, and a category to colour them by."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from llmemb.data.dataset import ITEM_ID, Dataset
from llmemb.errors import InputError

TITLE_ATTRIBUTES = ("title", "name")
CATEGORY_ATTRIBUTES = ("categories", "category", "genres", "genre")
NUM_CATEGORIES = 7
OTHER = "other"
COMMON_SHARE = 0.6
"""A level of a category path that most items share, such as the shop's name, tells nothing."""


def titles(dataset: Dataset, attribute: str | None) -> list[str]:
    """A name for every item, in index order: its title, or its id where it has none.

    Raises:
        InputError: the catalogue lacks the attribute that was asked for.
    """
    column = _attribute(dataset, attribute, TITLE_ATTRIBUTES, key="examples.title")
    if column is None:
        return dataset.item_ids
    values = dataset.items([column])[column].to_pylist()
    return [str(value) if value else item_id for value, item_id in zip(values, dataset.item_ids, strict=True)]


def categories(dataset: Dataset, attribute: str | None) -> tuple[NDArray[np.int64], list[str]] | None:
    """A category for every item, or None where the catalogue has no such attribute.

    Of a list of strings, read as a path, the first level counts at which items differ.

    Returns:
        int64 ``[num_items]`` in index order, and the names: the most frequent first, ``other`` last.

    Raises:
        InputError: the catalogue lacks the attribute that was asked for.
    """
    column = _attribute(dataset, attribute, CATEGORY_ATTRIBUTES, key="embedding_map.category")
    if column is None:
        return None
    values = dataset.items([column])[column].to_pylist()
    paths = [[str(part) for part in value] if isinstance(value, list) else [str(value or "")] for value in values]
    labels = [""] * len(paths)
    for level in range(max(map(len, paths), default=0)):
        labels = [path[level] if level < len(path) else "" for path in paths]
        if max(Counter(labels).values()) < COMMON_SHARE * len(labels):
            break
    names = [name for name, _ in Counter(filter(None, labels)).most_common(NUM_CATEGORIES)]
    code = {name: number for number, name in enumerate(names)}
    codes = np.array([code.get(label, len(names)) for label in labels])
    return codes, [*names, OTHER] if (codes == len(names)).any() else names


def _attribute(dataset: Dataset, asked: str | None, usual: tuple[str, ...], *, key: str) -> str | None:
    """The attribute asked for, or the first usual one that the catalogue has."""
    if asked is not None and asked not in dataset.item_columns:
        available = ", ".join(column for column in dataset.item_columns if column != ITEM_ID)
        raise InputError(f"{key}: the catalogue has no attribute {asked!r}; it has {available}")
    return asked or next((column for column in usual if column in dataset.item_columns), None)
