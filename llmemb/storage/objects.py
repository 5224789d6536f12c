"""Objects read, written whole, copied and deleted."""

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from fsspec.implementations.local import LocalFileSystem

from llmemb.errors import InputError
from llmemb.storage.checksums import fingerprint
from llmemb.storage.failures import code, explained
from llmemb.storage.filesystem import filesystem_of, reading
from llmemb.storage.node_copy import node_copy
from llmemb.storage.paths import join

DELETIONS_AT_ONCE, UPLOADS_AT_ONCE = 16, 4
MAX_UPLOADS = 4
"""Of one object whose parts the store says it does not know."""
NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
"""What a disk without hard links says, or one that has too many of a file."""
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")
"""What file systems call an object's tag and time."""


def open_read(uri: str, *, ranged: bool = False) -> BinaryIO:
    """An object as a stream, for what may be too large to hold.

    Args:
        ranged: For reading here and there: each read fetches its own bytes and nothing ahead of them.

    Raises:
        InputError: it is not there or may not be read.
    """
    filesystem, path = filesystem_of(uri)
    options = {"cache_type": "none"} if ranged else {}
    with explained(uri):
        return cast(BinaryIO, filesystem.open(path, "rb", **options))


def read_bytes(uri: str) -> bytes:
    """The whole object.

    Raises:
        InputError: it is not there or may not be read.
    """
    filesystem, path = filesystem_of(uri)
    with explained(uri):
        return filesystem.cat_file(path, **reading(filesystem))


def write_bytes(uri: str, content: bytes) -> None:
    """Writes an object whole: on a local disk through a temporary file beside it, elsewhere as one put.

    Raises:
        InputError: the place cannot be written.
    """
    filesystem, path = filesystem_of(uri)
    with explained(uri):
        if isinstance(filesystem, LocalFileSystem):
            with _appearing(Path(path)) as temporary:
                temporary.write_bytes(content)
        else:
            _uploaded(lambda: filesystem.pipe_file(path, content))


def copy(source: str, target: str) -> None:
    """Copies an object without its content passing through here, where both are in one store.

    A local copy is a hard link where the disk has them: nothing here writes into a file that stands.

    Raises:
        InputError: there is no such object, or the place cannot be written.
    """
    (filesystem, source_path), (target_filesystem, target_path) = filesystem_of(source), filesystem_of(target)
    if filesystem is not target_filesystem:
        write_bytes(target, read_bytes(source))
        return
    with explained(f"{source} to {target}"):
        if isinstance(filesystem, LocalFileSystem):
            with _appearing(Path(target_path)) as temporary:
                _link_or_copy(source_path, temporary)
        else:
            _uploaded(lambda: filesystem.cp_file(source_path, target_path))


def remove(uri: str) -> None:
    """Deletes an object or a folder; nothing happens where there is none, or where another is faster.

    Raises:
        InputError: something is there still.
    """
    filesystem, path = filesystem_of(uri)
    with explained(uri):
        if isinstance(filesystem, LocalFileSystem):
            _remove_local(Path(path))
            return
        # One by one: s3fs 2026.9 does not look at what a bulk deletion could not delete, and reads "*" in a path.
        with ThreadPoolExecutor(DELETIONS_AT_ONCE) as pool:
            list(pool.map(partial(_remove_object, filesystem), filesystem.find(path)))


def read_json(uri: str) -> Any:
    try:
        return json.loads(read_bytes(uri))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{uri}: not JSON: {error}") from error


def write_json(uri: str, value: object) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def check_writable(folder: str) -> None:
    """Finds out before any work whether a folder can be written.

    Raises:
        InputError: it cannot.
    """
    probe = join(folder, f".writable-{uuid.uuid4().hex}")
    write_bytes(probe, b"")
    remove(probe)


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[Path]:
    """The folder on a local disk: itself, or a temporary download for libraries that read paths only.

    Processes of a node that want the same content at the same time share a download; it is not to be written into.
    """
    filesystem, path = filesystem_of(folder)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return

    def download(target: Path) -> None:
        # File by file, or "*" and "[" in a name would be patterns; several at once, each over one connection.
        files = filesystem.find(path)
        if not files:
            raise FileNotFoundError(path)
        inside = [PurePosixPath(file.removeprefix(path.rstrip("/") + "/")) for file in files]
        if outside := [name for name in inside if name.is_absolute() or ".." in name.parts]:
            raise InputError(f"{folder}: has an object named {outside[0]}; expected names inside the folder")
        filesystem.get(files, [str(target / name) for name in inside], **reading(filesystem))

    with contextlib.ExitStack() as stack:
        with explained(folder):
            target = stack.enter_context(node_copy(_content_key(filesystem, path), download))
        yield target


def upload(source: Path, folder: str) -> None:
    """Copies a local folder's files to a URI, several at once.

    Raises:
        InputError: the place cannot be written.
    """
    filesystem, path = filesystem_of(folder)
    files = [file for file in sorted(source.rglob("*")) if file.is_file()]
    targets = [f"{path}/{file.relative_to(source).as_posix()}" for file in files]
    with explained(folder), ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        list(pool.map(partial(_upload_file, filesystem), files, targets))


def _upload_file(filesystem: Any, file: Path, target: str) -> None:
    if isinstance(filesystem, LocalFileSystem):
        with _appearing(Path(target)) as temporary:
            shutil.copyfile(file, temporary)
    else:
        _uploaded(partial(filesystem.put_file, str(file), target))


def _content_key(filesystem: Any, folder: str) -> str:
    """The same for the same content alone, as far as the store says when or what its objects are."""
    found = filesystem.find(folder, detail=True)
    versions = {name: [str(info[key]) for key in _VERSIONS if info.get(key)] for name, info in found.items()}
    if not all(versions.values()):
        return uuid.uuid4().hex
    return fingerprint({"folder": filesystem.unstrip_protocol(folder), "versions": versions})


def _uploaded(upload: Callable[[], object]) -> None:
    """Writes a whole object, once more where a store does not know the upload whose parts it has put together.

    It says so when it did, its answer was lost and the request came again; or where another took the parts away.
    """
    for _ in range(MAX_UPLOADS - 1):
        try:
            upload()
            return
        except FileNotFoundError as error:
            if code(error) != "NoSuchUpload":
                raise
    upload()


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A free name beside a local file; what has it at the end vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A temporary name beside a local file, which becomes that file at the end and vanishes on failure."""
    with temporary_beside(path) as temporary:
        yield temporary
        os.replace(temporary, path)


def _remove_object(filesystem: Any, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def _remove_local(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _link_or_copy(source: str, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        shutil.copyfile(source, target)
