"""The items that SCFT learns from: their clauses in a memory-mapped Arrow file, whatever the catalogue's size."""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmemb import storage
from llmemb.data.dataset import ITEM_ID, Dataset
from llmemb.encoder.torch_engine import tokenize
from llmemb.prompts import PromptTemplate, prompt_hash
from llmemb.scft.views import pair
from llmemb.workers import Worker

_ROWS_PER_BATCH = 8192
_SCHEMA = pa.schema(
    [(ITEM_ID, pa.string()), ("row", pa.int64()), ("clauses", pa.list_(pa.string())), ("prompt_hash", pa.string())]
)


class ItemTexts:
    """Prompts and views of the catalogue's usable items, which have one clause or more, as token ids.

    An item is named by its place among these. Only what is asked for comes into memory; the rest stays in the file.
    """

    def __init__(self, path: Path, template: PromptTemplate, tokenizer: Any, *, max_seq_len: int) -> None:
        with pa.memory_map(str(path)) as source:
            self._table: pa.Table = pa.ipc.open_file(source).read_all()
        self._template, self._tokenizer, self._max_seq_len = template, tokenizer, max_seq_len

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def catalogue_rows(self) -> NDArray[np.int64]:
        """int64 ``[items]``: each item's row in the catalogue."""
        return self._table["row"].to_numpy()

    def item_ids(self, items: NDArray[np.int64]) -> list[str]:
        return self._values(ITEM_ID, items)

    def prompts(self, items: NDArray[np.int64]) -> list[list[int]]:
        """Full prompts, nothing dropped."""
        return self._tokenize([self._template.join(clauses) for clauses in self._values("clauses", items)])

    def views(self, items: NDArray[np.int64], *, seed: int, epoch: int, drop_ratio: float) -> list[list[int]]:
        """The first views of these items, then their second views."""
        pairs = [
            pair(clauses, seed=seed, epoch=epoch, item_index=row + 1, drop_ratio=drop_ratio)
            for row, clauses in zip(self._values("row", items), self._values("clauses", items), strict=True)
        ]
        return self._tokenize([self._template.join(both[side]) for side in (0, 1) for both in pairs])

    def equal(self, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool ``[items, items]``: pairs whose full prompts read the same."""
        _, names = np.unique(self._values("prompt_hash", items), return_inverse=True)
        return names[:, None] == names[None, :]

    def _values(self, column: str, items: NDArray[np.int64]) -> list[Any]:
        # One by one: Arrow's take would first join all chunks of a nested column in memory.
        values = self._table[column]
        return [values[int(item)].as_py() for item in items]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return tokenize(self._tokenizer, texts, self._max_seq_len)


@contextlib.contextmanager
def node_file(write: Callable[[Path], None]) -> Iterator[Path]:
    """A file that one worker of each node writes, for all of that node to open; its name is gone afterwards."""
    worker = Worker.here()
    name = worker.from_first(f"llmemb-{uuid.uuid4().hex}.arrow")
    path, is_first = Path(tempfile.gettempdir(), name), os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        if is_first:
            write(path)
        worker.wait_for_all()
        yield path
        worker.wait_for_all()
    finally:
        if is_first:
            path.unlink(missing_ok=True)


def write_items(dataset: Dataset, template: PromptTemplate, path: Path) -> None:
    """Writes the file of :class:`ItemTexts`, a few thousand items at a time."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for batch in _usable(dataset, template):
            writer.write_batch(batch)


def survey(dataset: Dataset, template: PromptTemplate, num_prompts: int) -> tuple[int, list[str]]:
    """How many items are usable, and the prompts of the first of them."""
    count, prompts = 0, list[str]()
    for batch in _usable(dataset, template):
        prompts += [template.join(clauses) for clauses in batch["clauses"][: num_prompts - len(prompts)].to_pylist()]
        count += batch.num_rows
    return count, prompts


def _usable(dataset: Dataset, template: PromptTemplate) -> Iterator[pa.RecordBatch]:
    columns, start = list(dict.fromkeys([ITEM_ID, *template.columns])), 0
    for file in dataset.item_files:
        for batch in storage.read_batches(file, columns, _ROWS_PER_BATCH):
            clauses = template.clauses_batch(batch)
            kept = np.flatnonzero([bool(entry) for entry in clauses])
            texts = [clauses[row] for row in kept]
            hashes = [prompt_hash(template.join(entry)) for entry in texts]
            values = [batch[ITEM_ID].take(pa.array(kept)), kept + start, texts, hashes]
            yield pa.record_batch(
                [pa.array(value, field.type) for value, field in zip(values, _SCHEMA, strict=True)], schema=_SCHEMA
            )
            start += batch.num_rows
