"""The dataset artifact: ``items/*.parquet``, ``sequences/*.parquet`` and, last, ``dataset.json``."""

from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmemb import storage
from llmemb.data.sequences import Sequences, Split, Targets, split_from_info
from llmemb.errors import InputError

ITEM_ID, USER_ID, ITEM_IDS, TIMESTAMPS = "item_id", "user_id", "item_ids", "timestamps"
DATASET_FILE = "dataset.json"


class Dataset:
    """A prepared dataset, read lazily.

    An item's index is its row in the item files, in their order, plus one; index 0 is padding.
    """

    def __init__(self, uri: str, info: dict[str, Any]) -> None:
        self.uri = uri
        self.info = info

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.uri, self.info)  # another process reads the files itself

    @classmethod
    def open(cls, uri: str) -> Self:
        """Opens a finished dataset.

        Raises:
            InputError: there is none, or it is not complete.
        """
        if not storage.exists(storage.join(uri, DATASET_FILE)):
            raise InputError(f"dataset: {uri} has no {DATASET_FILE}: expected the output of a finished prepare job")
        return cls(uri, storage.read_json(storage.join(uri, DATASET_FILE)))

    @property
    def fingerprint(self) -> str:
        return self.info["fingerprint"]

    @property
    def num_items(self) -> int:
        return self.info["counts"]["items"]

    @property
    def item_files(self) -> list[str]:
        return [storage.entry_uri(storage.join(self.uri, "items"), entry) for entry in self.info["files"]["items"]]

    @cached_property
    def item_columns(self) -> list[str]:
        """The catalogue's columns: ``item_id`` and the attributes."""
        return storage.read_schema(self.item_files[0]).names

    @property
    def catalogue_fingerprint(self) -> str:
        """Names the catalogue alone: it stays when only interactions are new."""
        return storage.fingerprint([entry["sha256"] for entry in self.info["files"]["items"]])

    def items(self, columns: list[str] | None = None) -> pa.Table:
        """The catalogue, in index order."""
        return pa.concat_tables([storage.read_table(file, columns) for file in self.item_files])

    @cached_property
    def item_ids(self) -> list[str]:
        """The ids in index order: ``item_ids[index - 1]``."""
        return self.items([ITEM_ID]).column(ITEM_ID).to_pylist()

    @cached_property
    def user_ids(self) -> list[str]:
        """The ids in the order of the sequences."""
        return pa.concat_tables([storage.read_table(file, [USER_ID]) for file in self._sequence_files])[
            USER_ID
        ].to_pylist()

    @cached_property
    def sequences(self) -> Sequences:
        """All users', on a local disk, mapped: of the items only what is in use needs memory.

        Raises:
            InputError: the files and ``dataset.json`` are not of one dataset.
        """
        columns = [ITEM_IDS, TIMESTAMPS] if self.split.needs_timestamps else [ITEM_IDS]
        item_ids = pa.array(self.item_ids, pa.string())
        expected: int = self.info["counts"]["interactions"]
        items = storage.zeros_on_disk((expected,), "int32")
        timestamps = storage.zeros_on_disk((expected,), "int64") if TIMESTAMPS in columns else None
        lengths: list[NDArray[np.int64]] = []
        done = num_unknown = 0
        for file in self._sequence_files:  # ids as text take many times what their indices do
            table = storage.read_table(file, columns)
            index = pc.index_in(pc.list_flatten(table.column(ITEM_IDS)), value_set=item_ids)
            num_unknown += index.null_count
            start, done = done, done + len(index)
            if done <= expected:
                items[start:done] = pc.fill_null(index, -1).to_numpy() + np.int32(1)
                if timestamps is not None:
                    timestamps[start:done] = pc.list_flatten(table.column(TIMESTAMPS)).to_numpy()
            lengths.append(pc.list_value_length(table.column(ITEM_IDS)).to_numpy().astype(np.int64))
        if num_unknown:
            raise InputError(f"dataset: {self.uri}: {num_unknown} interactions name items that items/ lacks")
        if done != expected:
            raise InputError(
                f"dataset: {self.uri}: sequences/ holds {done:,} interactions; expected {expected:,} ({DATASET_FILE})"
            )
        for array in (items, timestamps):
            if array is not None:
                array.flags.writeable = False  # all that is taken of it shares it
        return Sequences.of_all(items, np.concatenate(lengths), timestamps)

    @property
    def _sequence_files(self) -> list[str]:
        return [
            storage.entry_uri(storage.join(self.uri, "sequences"), entry) for entry in self.info["files"]["sequences"]
        ]

    @cached_property
    def split(self) -> Split:
        """What is for training, validation and the test.

        Raises:
            InputError: the dataset is of a time before datasets had one.
        """
        if "split" not in self.info:
            raise InputError(f"dataset: {self.uri}: its {DATASET_FILE} has no split: prepare it again")
        return split_from_info(self.info["split"])

    @property
    def split_policy(self) -> str:
        """What the split's rule is called."""
        return self.info["split"]["policy"]

    @cached_property
    def train(self) -> Sequences:
        return self.split.train(self.sequences)

    @cached_property
    def popularity(self) -> NDArray[np.int64]:
        """int64 ``[num_items + 1]``: training interactions per item index."""
        return self.train.counts(self.num_items)

    def validation(self) -> Targets:
        return self.split.targets(self.sequences, "validation")

    def test(self) -> Targets:
        return self.split.targets(self.sequences, "test")
