"""Files at any URI: local paths, ``s3://`` and whatever else fsspec knows.

Nothing here leans on rename across a store: an object is written whole, and a local file appears whole.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from llmemb.errors import InputError


def absolute(uri: str) -> str:
    """The URI itself, or a local path made absolute.

    Raises:
        InputError: a relative path inside the working directory that Ray made for a submitted job, which Ray deletes.
    """
    if "://" in uri and not uri.startswith("file://"):
        return uri.rstrip("/")
    path = Path(uri.removeprefix("file://")).expanduser()
    if not path.is_absolute() and "runtime_resources/working_dir_files" in os.getcwd() and not path.exists():
        raise InputError(
            f"{uri}: a relative path in a submitted job is deleted with its working directory; "
            "expected an absolute path or a URI such as s3://bucket/folder"
        )
    return os.path.abspath(path)


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    return PurePosixPath(uri).name


def is_local(uri: str) -> bool:
    return isinstance(_filesystem(uri)[0], LocalFileSystem)


def exists(uri: str) -> bool:
    filesystem, path = _filesystem(uri)
    return filesystem.exists(path)


def list_files(uri: str, suffix: str = "") -> list[str]:
    """The files directly in a folder whose names end so, sorted; empty where there is no such folder."""
    filesystem, path = _filesystem(uri)
    if not filesystem.isdir(path):
        return []
    entries = filesystem.ls(path, detail=True, refresh=True)
    names = [PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "file"]
    return sorted(join(uri, entry) for entry in names if entry.endswith(suffix))


def read_bytes(uri: str) -> bytes:
    """The whole object.

    Raises:
        InputError: it is not there or may not be read.
    """
    filesystem, path = _filesystem(uri)
    try:
        return filesystem.cat_file(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{uri}: no such file") from error
    except PermissionError as error:
        raise InputError(f"{uri}: may not be read: {error}") from error


def write_bytes(uri: str, content: bytes) -> None:
    """Writes an object whole: on a local disk through a temporary file beside it, elsewhere as one put.

    Raises:
        InputError: the place cannot be written.
    """
    filesystem, path = _filesystem(uri)
    try:
        if isinstance(filesystem, LocalFileSystem):
            _write_local(Path(path), content)
        else:
            filesystem.pipe_file(path, content)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{uri}: cannot be written: {error.strerror or error}") from error


def _write_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove(uri: str) -> None:
    """Deletes an object or a folder; nothing happens where there is none."""
    filesystem, path = _filesystem(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def read_json(uri: str) -> Any:
    try:
        return json.loads(read_bytes(uri))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{uri}: not JSON: {error}") from error


def write_json(uri: str, value: object) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file.

    Raises:
        InputError: it is not there or not Parquet.
    """
    return parse_table(read_bytes(uri), uri, columns)


def parse_table(content: bytes, uri: str, columns: list[str] | None = None) -> pa.Table:
    """The same from bytes that were read already."""
    try:
        return pq.read_table(io.BytesIO(content), columns=columns)
    except pa.ArrowInvalid as error:
        raise InputError(f"{uri}: not Parquet: {error}") from error


def write_table(uri: str, table: pa.Table, **options: Any) -> dict[str, Any]:
    """Writes one Parquet file and returns its manifest entry: file, rows, bytes, sha256."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    content = buffer.getvalue()
    write_bytes(uri, content)
    return {"file": name(uri), "rows": table.num_rows, "bytes": len(content), "sha256": checksum(content)}


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def checksum_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: object) -> str:
    """16 hex digits that name a JSON value: equal values, in any key order, have equal fingerprints."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def check_writable(folder: str) -> None:
    """Finds out before any work whether a folder can be written.

    Raises:
        InputError: it cannot.
    """
    probe = join(folder, ".writable")
    write_bytes(probe, b"")
    remove(probe)


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[Path]:
    """The folder on a local disk: itself, or a temporary download for libraries that read paths only."""
    filesystem, path = _filesystem(folder)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="llmemb-") as target:
        filesystem.get(path.rstrip("/") + "/", target, recursive=True)
        yield Path(target)


def upload(source: Path, folder: str) -> None:
    """Copies a local folder's files to a URI."""
    filesystem, path = _filesystem(folder)
    if isinstance(filesystem, LocalFileSystem):
        shutil.copytree(source, path, dirs_exist_ok=True)
        return
    for file in sorted(source.rglob("*")):
        if file.is_file():
            filesystem.put_file(str(file), f"{path}/{file.relative_to(source).as_posix()}")


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise ImportError(f"{uri}: its store needs a package: pip install 'llmemb[s3]' for s3:// ({error})") from error
    except ValueError as error:
        raise InputError(f"{uri}: not a path or a URI that fsspec knows: {error}") from error
