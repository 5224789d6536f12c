"""Attributes of items, for people to read beside the ids."""

from typing import Any

from llmemb import storage

MAX_CHARACTERS = 80


def attributes_of(uri: str, item_ids: list[str], columns: list[str]) -> dict[str, dict[str, Any]]:
    """Attributes by item id; of the dataset only the files of these items are read."""
    from llmemb.buckets import buckets
    from llmemb.data.dataset import ITEM_ID, Dataset
    from llmemb.errors import InputError

    dataset = Dataset.open(uri)
    if missing := set(columns) - set(dataset.item_columns):
        raise InputError(f"dataset: {uri} has no {sorted(missing)[0]!r}; it has {', '.join(dataset.item_columns)}")
    files = dataset.item_files
    wanted = set(item_ids)
    known: dict[str, dict[str, Any]] = {}
    for index in sorted(set(buckets(item_ids, len(files)).tolist())):
        rows = storage.read_table(files[index], [ITEM_ID, *columns]).to_pylist()
        known |= {row.pop(ITEM_ID): row for row in rows if row[ITEM_ID] in wanted}
    return known


def shortened(value: Any) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return shown if len(shown) <= MAX_CHARACTERS else shown[: MAX_CHARACTERS - 1] + "…"
