"""What changed since the parent snapshot: a bucket's prompts tonight against the hashes beside its vectors."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from llmemb import storage
from llmemb.buckets import buckets, overlapping
from llmemb.embed.plan import SnapshotPlan
from llmemb.embed.snapshot import PROMPT_HASH
from llmemb.errors import InputError
from llmemb.prompts import PromptTemplate, prompt_hash
from llmemb.vectors import ITEM_ID

NO_ATTRIBUTE = "no usable attribute"
NOT_UTF8 = "an attribute is not UTF-8"
DUPLICATE = "duplicate item id"
WINDOW_ITEMS = 1024


class Item(NamedTuple):
    """A catalogue row as the encoder reads it; ``prompt`` is None where it cannot, and ``refusal`` says why."""

    item_id: str
    prompt: str | None
    refusal: str = ""

    @property
    def prompt_hash(self) -> str:
        return prompt_hash(self.prompt or "")


class Changes:
    """Sorts a bucket's items into those to encode, those whose vectors are kept, and those refused."""

    def __init__(self, parent_hashes: dict[str, str]) -> None:
        self._parent = parent_hashes
        self._seen: set[str] = set()
        self.num_fresh = 0
        self.kept: list[str] = []
        self.refused: list[tuple[str, str]] = []

    def fresh(self, items: Iterable[Item]) -> list[Item]:
        """Those that are new or whose prompt is another one; the rest is noted."""
        fresh = []
        for item in items:
            if item.prompt is None:
                self.refused.append((item.item_id, item.refusal))
            elif item.item_id in self._seen:
                self.refused.append((item.item_id, DUPLICATE))
            else:
                self._seen.add(item.item_id)
                if self._parent.get(item.item_id) == item.prompt_hash:
                    self.kept.append(item.item_id)
                else:
                    fresh.append(item)
        self.num_fresh += len(fresh)
        return fresh

    @property
    def nothing_changed(self) -> bool:
        """Whether the parent's vectors are exactly those wanted."""
        return self.num_fresh == 0 and len(self.kept) == len(self._parent)


def read_items(plan: SnapshotPlan, bucket: int) -> Iterator[list[Item]]:
    """The items of a bucket, a window at a time.

    Raises:
        InputError: an item is in a file that its id does not belong to.
    """
    columns = list(dict.fromkeys([ITEM_ID, *plan.template.columns]))
    for index in overlapping(bucket, plan.num_buckets, len(plan.item_files)):
        file = plan.item_files[index]
        for batch in storage.read_batches(file, columns, WINDOW_ITEMS):
            items = _items(batch, plan.template)
            item_ids = [item.item_id for item in items]
            astray = buckets(item_ids, len(plan.item_files)) != index
            if astray.any():
                raise InputError(
                    f"{file}: item {item_ids[astray.argmax()]!r} is not in its file: expected item files as prepare "
                    "cuts them, by the hash of the id"
                )
            mine = buckets(item_ids, plan.num_buckets) == bucket
            yield [item for item, is_mine in zip(items, mine, strict=True) if is_mine]


def parent_hashes(plan: SnapshotPlan, bucket: int) -> dict[str, str]:
    """The prompt hashes of the parent's vectors in a bucket, by item id; no vector is read."""
    hashes: dict[str, str] = {}
    for folder, entry in parent_shards(plan, bucket):
        for batch in storage.read_batches(storage.entry_uri(folder, entry), [ITEM_ID, PROMPT_HASH], WINDOW_ITEMS):
            mine = batch.filter(in_bucket(batch.column(ITEM_ID), plan, bucket))
            hashes |= zip(mine.column(ITEM_ID).to_pylist(), mine.column(PROMPT_HASH).to_pylist(), strict=True)
    return hashes


def parent_shards(plan: SnapshotPlan, bucket: int) -> list[tuple[str, dict[str, Any]]]:
    """The parent's folder and the manifest entries of its shards that may hold items of a bucket."""
    if plan.parent is None:
        return []
    files = plan.parent.files
    return [(plan.parent.uri, files[index]) for index in overlapping(bucket, plan.num_buckets, len(files))]


def in_bucket(item_ids: pa.Array, plan: SnapshotPlan, bucket: int) -> pa.Array:
    """Which of these ids belong to a bucket."""
    return pa.array(buckets(item_ids.to_pylist(), plan.num_buckets) == bucket)


def _items(batch: pa.RecordBatch, template: PromptTemplate) -> list[Item]:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        if batch.num_rows == 1:
            item_id = batch.column(ITEM_ID).cast(pa.binary())[0].as_py()
            return [Item(item_id.decode(errors="backslashreplace"), None, NOT_UTF8)]
        return [item for row in range(batch.num_rows) for item in _items(batch.slice(row, 1), template)]
    prompts = template.render_batch(batch)
    return [
        Item(item_id, prompt, NO_ATTRIBUTE if prompt is None else "")
        for item_id, prompt in zip(batch.column(ITEM_ID).to_pylist(), prompts, strict=True)
    ]
