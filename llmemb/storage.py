"""Files at any URI: local paths, ``s3://`` and whatever else fsspec knows.

Nothing here leans on rename across a store: an object is written whole, and a local file appears whole. A store's
endpoint, region and credentials are found the way every AWS client finds them (environment, ``~/.aws``, role). What a
store throttles, drops or answers with 5xx is tried again, with exponential backoff and jitter (botocore's "standard").
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from llmemb.errors import InputError

MAX_ATTEMPTS = 10
"""Of one request to a store; ``AWS_MAX_ATTEMPTS`` overrides it."""
_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


@dataclass(frozen=True)
class Entry:
    """One object below a folder."""

    uri: str
    bytes: int
    modified: datetime


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
    with _explained(uri):
        return filesystem.exists(path)


def list_files(uri: str, suffix: str = "") -> list[str]:
    """The files directly in a folder whose names end so, sorted; empty where there is no such folder."""
    return sorted(join(uri, entry) for entry in _names(uri, "file") if entry.endswith(suffix))


def list_folders(uri: str) -> list[str]:
    """The folders directly in a folder, sorted; empty where there is no such folder."""
    return sorted(join(uri, entry) for entry in _names(uri, "directory"))


def list_tree(uri: str) -> list[Entry]:
    """Every object below a folder at any depth, sorted; empty where there is no such folder."""
    filesystem, path = _filesystem(uri)
    with _explained(uri):
        found = filesystem.find(path, detail=True)
    root = path.rstrip("/")
    return [
        Entry(join(uri, name.removeprefix(root).lstrip("/")), info["size"], _modified(info))
        for name, info in sorted(found.items())
    ]


def glob(pattern: str) -> list[str]:
    """The files that a pattern such as ``s3://bucket/day=*/part-*.parquet`` matches, sorted."""
    filesystem, path = _filesystem(pattern)
    with _explained(pattern):
        found = filesystem.glob(path, detail=True)
    names = [name for name, info in found.items() if info["type"] == "file"]
    return sorted(filesystem.unstrip_protocol(name) if "://" in pattern else name for name in names)


def size(uri: str) -> int:
    """Bytes of an object.

    Raises:
        InputError: it is not there or may not be read.
    """
    return _info(uri)["size"]


def content_key(uri: str) -> str:
    """Names an object's content: the store's own tag for it where it has one, else the SHA-256, read in pieces."""
    tag = _info(uri).get("ETag")
    if tag:
        return str(tag)
    with open_read(uri) as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def open_read(uri: str) -> BinaryIO:
    """An object as a stream, for what may be too large to hold.

    Raises:
        InputError: it is not there or may not be read.
    """
    filesystem, path = _filesystem(uri)
    with _explained(uri):
        return cast(BinaryIO, filesystem.open(path, "rb"))


def read_bytes(uri: str) -> bytes:
    """The whole object.

    Raises:
        InputError: it is not there or may not be read.
    """
    filesystem, path = _filesystem(uri)
    with _explained(uri):
        return filesystem.cat_file(path, **_reading(filesystem))


def _info(uri: str) -> dict[str, Any]:
    filesystem, path = _filesystem(uri)
    with _explained(uri):
        return filesystem.info(path)


def write_bytes(uri: str, content: bytes) -> None:
    """Writes an object whole: on a local disk through a temporary file beside it, elsewhere as one put.

    Raises:
        InputError: the place cannot be written.
    """
    filesystem, path = _filesystem(uri)
    with _explained(uri):
        if isinstance(filesystem, LocalFileSystem):
            with _appearing(Path(path)) as temporary:
                temporary.write_bytes(content)
        else:
            filesystem.pipe_file(path, content)


def copy(source: str, target: str) -> None:
    """Copies an object without its content passing through here, where both are in one store.

    A local copy is a hard link where the disk has them: nothing here writes into a file that stands.

    Raises:
        InputError: there is no such object, or the place cannot be written.
    """
    (filesystem, source_path), (target_filesystem, target_path) = _filesystem(source), _filesystem(target)
    if filesystem is not target_filesystem:
        write_bytes(target, read_bytes(source))
        return
    with _explained(f"{source} to {target}"):
        if isinstance(filesystem, LocalFileSystem):
            with _appearing(Path(target_path)) as temporary:
                _link_or_copy(source_path, temporary)
        else:
            filesystem.cp_file(source_path, target_path)


def swap(uri: str, content: bytes, expected: bytes | None) -> bool:
    """Writes an object if it still holds what is expected there: compare-and-swap.

    Where the store has no conditional put (see :func:`has_conditional_put`), the object is compared and then written,
    and a writer that comes in between is overwritten.

    Args:
        content: Should tell its writer apart: two writers of the same bytes both win.
        expected: None for an object that is not there yet.

    Returns:
        Whether the object now holds ``content``.
    """
    filesystem, path = _filesystem(uri)
    if isinstance(filesystem, LocalFileSystem):
        with _explained(uri), _locked(Path(path).parent):
            return _swap_unlocked(uri, content, expected)
    if not has_conditional_put(uri.rsplit("/", 1)[0]):
        return _swap_unlocked(uri, content, expected)
    while True:
        with _explained(uri):
            found, condition = _version(filesystem, path)
            if found != expected:
                return found == content
            if _put_if(filesystem, path, content, condition):
                return True
            # Refused: another was faster, or an earlier attempt of ours whose answer was lost. Reading again tells.


@functools.cache
def has_conditional_put(folder: str) -> bool:
    """Whether a store refuses a put whose condition does not hold; found out once, with a probe in this folder.

    True for a local disk, by a lock.
    """
    filesystem, path = _filesystem(folder)
    if isinstance(filesystem, LocalFileSystem):
        return True
    if "s3" not in _protocols(filesystem):
        return False
    probe = join(folder, f".conditional-{uuid.uuid4().hex}")
    with _explained(folder):
        try:
            if not _put_if(filesystem, f"{path}/{name(probe)}", b"1", {"IfNoneMatch": "*"}):
                return False
            # Some stores ignore conditions, some know only one of the two.
            held = [
                _put_if(filesystem, f"{path}/{name(probe)}", b"2", condition)
                for condition in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * 32}"'})
            ]
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return False
            raise
    remove(probe)
    return not any(held)


def remove(uri: str) -> None:
    """Deletes an object or a folder; nothing happens where there is none."""
    filesystem, path = _filesystem(uri)
    with _explained(uri):
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


def read_batches(uri: str, columns: list[str], num_rows: int) -> Iterator[pa.RecordBatch]:
    """These columns of one Parquet file, by ranged reads, in batches of at most so many rows.

    Raises:
        InputError: it is not there or not Parquet.
    """
    filesystem, path = _filesystem(uri)
    with _explained(uri):
        try:
            # No read-ahead: the next column is not wanted.
            with filesystem.open(path, "rb", cache_type="none") as file:
                yield from pq.ParquetFile(file, pre_buffer=True).iter_batches(num_rows, columns=columns)
        except pa.ArrowInvalid as error:
            raise InputError(f"{uri}: not Parquet: {error}") from error


def write_table(uri: str, table: pa.Table, **options: Any) -> dict[str, Any]:
    """Writes one Parquet file and returns its manifest entry."""
    content = table_bytes(table, **options)
    write_bytes(uri, content)
    return entry(uri, table.num_rows, content)


def table_bytes(table: pa.Table, **options: Any) -> bytes:
    """A Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    return buffer.getvalue()


def entry(uri: str, rows: int, content: bytes) -> dict[str, Any]:
    """The manifest entry of a file: file, rows, bytes, sha256."""
    return {"file": name(uri), "rows": rows, "bytes": len(content), "sha256": checksum(content)}


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
        with _explained(folder):
            filesystem.get(path.rstrip("/") + "/", target, recursive=True, **_reading(filesystem))
        yield Path(target)


def upload(source: Path, folder: str) -> None:
    """Copies a local folder's files to a URI."""
    filesystem, path = _filesystem(folder)
    with _explained(folder):
        if isinstance(filesystem, LocalFileSystem):
            shutil.copytree(source, path, dirs_exist_ok=True)
            return
        for file in sorted(source.rglob("*")):
            if file.is_file():
                filesystem.put_file(str(file), f"{path}/{file.relative_to(source).as_posix()}")


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(uri, **_options(uri))
    except ImportError as error:
        raise ImportError(f"{uri}: its store needs a package: pip install 'llmemb[s3]' for s3:// ({error})") from error
    except ValueError as error:
        raise InputError(f"{uri}: not a path or a URI that fsspec knows: {error}") from error


def _options(uri: str) -> dict[str, Any]:
    if not uri.startswith(("s3://", "s3a://")):
        return {}
    mode, attempts = os.environ.get("AWS_RETRY_MODE", "standard"), os.environ.get("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS)
    # Another process may have written since a listing was cached.
    return {
        "config_kwargs": {"retries": {"mode": mode, "total_max_attempts": int(attempts)}},
        "use_listings_cache": False,
    }


def _reading(filesystem: fsspec.AbstractFileSystem) -> dict[str, int]:
    # s3fs 2026.9 tries a body that was cut again, unless it reads several ranges of an object at once.
    return {"max_concurrency": 1} if "s3" in _protocols(filesystem) else {}


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns what a disk or a store says into one line for the user; a store's own words hold no secret key."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{uri}: no such {'bucket' if _code(error) == 'NoSuchBucket' else 'file'}") from error
    except PermissionError as error:
        raise InputError(f"{uri}: not permitted: {_words(error)}{_hint(uri)}") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{uri}: cannot be written: {_words(error)}") from error
    except IsADirectoryError as error:
        raise InputError(f"{uri}: a folder; expected a file") from error
    except _store_errors() as error:
        raise InputError(f"{uri}: {_words(error)}{_hint(uri)}") from error


def _store_errors() -> tuple[type[Exception], ...]:
    """OSError, and what a store's client raises beside it: no credentials, no route, an answer cut short."""
    classes = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))
    return OSError, *(getattr(sys.modules[module], kind) for module, kind in classes if module in sys.modules)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _hint(uri: str) -> str:
    return " (endpoint and credentials are those of the environment and ~/.aws)" if uri.startswith("s3") else ""


def _code(error: OSError) -> str:
    """The S3 error code behind an error that s3fs translated."""
    return getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")


def _names(uri: str, kind: str) -> list[str]:
    filesystem, path = _filesystem(uri)
    with _explained(uri):
        if not filesystem.isdir(path):
            return []
        entries = filesystem.ls(path, detail=True, refresh=True)
    return [PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == kind]


def _modified(info: dict[str, Any]) -> datetime:
    """As the file system calls it: s3fs, local and sshfs, gcsfs, memory."""
    moment = next(info[key] for key in ("LastModified", "mtime", "updated", "created") if info.get(key) is not None)
    return datetime.fromtimestamp(moment, UTC) if isinstance(moment, int | float) else moment


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A temporary name beside a local file, which becomes that file at the end and vanishes on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _link_or_copy(source: str, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        shutil.copyfile(source, target)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder itself, so that no lock file is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _swap_unlocked(uri: str, content: bytes, expected: bytes | None) -> bool:
    found = read_bytes(uri) if exists(uri) else None
    if found != expected:
        return found == content
    write_bytes(uri, content)
    return True


def _version(filesystem: Any, path: str) -> tuple[bytes | None, dict[str, str]]:
    """An object's content, and the condition that it is still that one."""
    bucket, key, _ = filesystem.split_path(path)
    try:
        etag = filesystem.call_s3("head_object", Bucket=bucket, Key=key)["ETag"]
        # Read after the ETag: content newer than its ETag makes the put fail, never succeed wrongly.
        return filesystem.cat_file(path, **_reading(filesystem)), {"IfMatch": etag}
    except FileNotFoundError:
        return None, {"IfNoneMatch": "*"}


def _put_if(filesystem: Any, path: str, content: bytes, condition: dict[str, str]) -> bool:
    """One conditional put to an S3 store; False where it was refused."""
    try:
        # In one piece: the parts of a multipart upload carry no condition.
        filesystem.pipe_file(path, content, chunksize=len(content) + 1, **condition)
    except FileExistsError:
        return False
    except OSError as error:
        if _code(error) not in _LOST:
            raise
        return False
    return True


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
