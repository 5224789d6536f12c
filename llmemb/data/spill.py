"""A shuffle through files: rows written by bucket, then read bucket by bucket, so that memory holds one bucket."""

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from llmemb import storage
from llmemb.buckets import buckets


@dataclass(frozen=True)
class Spill:
    """A folder of Arrow files, each with one record batch per bucket: a reader of a bucket reads only its batches.

    Attributes:
        num_buckets: A power of two. Rows with equal keys share a bucket.
    """

    folder: str
    num_buckets: int

    def write(self, name: str, frame: pl.DataFrame, key: str) -> str:
        """Writes a frame's rows under a name, in their order within each bucket; returns the name."""
        bucket = buckets_of(frame[key], self.num_buckets)
        order = np.argsort(bucket, kind="stable")
        bounds = np.searchsorted(bucket[order], np.arange(self.num_buckets + 1))
        table = frame[order].to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
        buffer = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(buffer, table.schema, options=options) as writer:
            # Slices of one batch share its dictionaries: the format lets none be replaced.
            whole = table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], table.schema)
            for start, stop in itertools.pairwise(bounds):
                writer.write_batch(whole.slice(start, stop - start))
        storage.write_bytes(storage.join(self.folder, name), buffer.getvalue())
        return name

    def read(self, names: Iterable[str], wanted: Sequence[int]) -> pl.DataFrame:
        """All rows of some buckets, in the order of the names."""
        return pl.concat(self.frames(names, wanted), how="vertical_relaxed")

    def frames(
        self, names: Iterable[str], wanted: Sequence[int], columns: Sequence[str] | None = None
    ) -> Iterator[pl.DataFrame]:
        """The same, one frame for each name and bucket; empty ones too.

        Args:
            columns: The first columns, where the others are not wanted: they are not fetched.
        """
        options = pa.ipc.IpcReadOptions(included_fields=list(range(len(columns))) if columns else None)
        for name in names:
            uri = storage.join(self.folder, name)
            with storage.explained(uri), storage.open_read(uri, ranged=True) as file:
                reader = pa.ipc.open_file(pa.PythonFile(file), options=options)
                for bucket in wanted:
                    batch = reader.get_batch(bucket)
                    table = pa.Table.from_batches([batch.select(columns) if columns else batch])
                    yield pl.DataFrame(pl.from_arrow(table))


def rows_of_bucket(frame: pl.DataFrame, key: str, bucket: int, num_buckets: int) -> pl.DataFrame:
    """The rows whose key falls into one of ``num_buckets``."""
    return frame.filter(pl.Series(buckets_of(frame[key], num_buckets) == bucket))


def buckets_of(texts: pl.Series, num_buckets: int) -> NDArray[np.int64]:
    """int64 ``[texts]``: each distinct text is hashed once."""
    if num_buckets == 1:
        return np.zeros(len(texts), dtype=np.int64)
    encoded = texts.to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode()
    return buckets(encoded.dictionary.to_pylist(), num_buckets)[encoded.indices.to_numpy()]
