"""The files of a source: found under a URI, opened as streams, cut into lines, named by a fingerprint."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa

from llmemb import storage
from llmemb.errors import InputError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
PARQUET = ".parquet"
MAX_LINE_BYTES = 16 * 2**20
"""A longer line is refused unread: a worker holds no more than one of them."""
MAX_DOCUMENT_BYTES = 2**30
"""The same of a file that is one JSON document: parsing holds it whole, several times over."""
READ_BYTES = 2**20
EXPANSION = 6
"""How many times its size on disk a compressed or Parquet file may fill, roughly; only sizes of work follow from it."""

DAMAGED = (OSError, EOFError, zlib.error, pa.ArrowException)
"""What reading a damaged file may raise."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        suffix: What it holds, such as ``.csv``, without the compression's own suffix.
        compression: ``gzip``, ``zstd`` or None.
    """

    uri: str
    size: int
    suffix: str
    compression: str | None

    @property
    def content_bytes(self) -> int:
        """About how many bytes it holds once unpacked."""
        return self.size * (EXPANSION if self.compression or self.suffix == PARQUET else 1)


def find_files(uri: str, suffixes: Sequence[str]) -> list[SourceFile]:
    """The files at a URI: one file of any name, a folder's files with these suffixes, or those that a glob matches.

    In the order of their names; of a folder and a glob, names that begin with ``.`` or ``_`` are left out.

    Raises:
        InputError: nothing is there.
    """
    if storage.list_files(uri):
        files = [file for file in map(_describe, _shown(storage.list_files(uri))) if file.suffix in suffixes]
    elif any(character in uri for character in "*?[") and not storage.exists(uri):
        files = [_describe(file) for file in _shown(storage.glob(uri))]
    elif _describe_name(uri)[0]:
        return [_describe(uri)]
    else:
        files = []
    if not files:
        raise InputError(f"{uri}: no such table: expected a file, a folder or a glob of {', '.join(suffixes)} files")
    return files


def _shown(uris: Sequence[str]) -> list[str]:
    """Without what hides, such as Spark's ``_SUCCESS``."""
    return [uri for uri in uris if storage.name(uri)[0] not in "._"]


def fingerprint(files: Sequence[SourceFile]) -> str:
    """Names the files' contents, by the store's own checksum where it has one."""
    return storage.fingerprint([storage.content_key(file.uri) for file in files])


def open_stream(file: SourceFile) -> BinaryIO:
    """The unpacked content.

    Raises:
        InputError: it is not there or may not be read.
    """
    raw = storage.open_read(file.uri)
    if file.compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if file.compression == "zstd":
        return cast(BinaryIO, io.BufferedReader(_Unpacked(pa.CompressedInputStream(pa.PythonFile(raw), "zstd"))))
    return raw


class _Unpacked(io.RawIOBase):
    """Arrow's stream as Python's."""

    def __init__(self, stream: pa.CompressedInputStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def read_lines(file: SourceFile, max_bytes: int) -> Iterator[bytes | None]:
    """The lines without their ends, empty ones too; None in place of one longer than ``max_bytes``.

    Raises:
        InputError: the file cannot be unpacked.
    """
    with undamaged(file, f"{file.compression or 'readable'} to its end"), open_stream(file) as stream:
        first = True
        for line in _bounded_lines(stream, max_bytes):
            yield line.removeprefix(b"\xef\xbb\xbf") if first and line else line
            first = False


@contextlib.contextmanager
def undamaged(file: SourceFile, kind: str) -> Iterator[None]:
    """Says in one line what reading a file has found wrong.

    Raises:
        TemporaryError: the store has failed meanwhile.
        InputError: the file is not of this kind.
    """
    with storage.explained(file.uri):
        try:
            yield
        except DAMAGED as error:
            if storage.is_temporary(error):
                raise
            raise InputError(f"{file.uri}: not {kind}: {' '.join(str(error).split())}") from error


def _bounded_lines(stream: BinaryIO, max_bytes: int) -> Iterator[bytes | None]:
    while line := stream.readline(max_bytes + 2):
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield line.rstrip(b"\r\n")
            continue
        while (rest := stream.readline(READ_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


def _describe(uri: str) -> SourceFile:
    suffix, compression = _describe_name(uri)
    return SourceFile(uri, storage.size(uri), suffix, compression)


def _describe_name(uri: str) -> tuple[str, str | None]:
    name = storage.name(uri).lower()
    stem, dot, last = name.rpartition(".")
    compression = COMPRESSIONS.get(dot + last)
    if compression:
        _, dot, last = stem.rpartition(".")
    return (dot + last if dot else "", compression)
