"""What is there: names, sizes, times."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Any, cast

from fsspec.implementations.local import LocalFileSystem

from llmemb.storage.failures import explained
from llmemb.storage.filesystem import filesystem_of
from llmemb.storage.objects import open_read
from llmemb.storage.paths import join


@dataclass(frozen=True)
class Entry:
    """One object below a folder."""

    uri: str
    bytes: int
    modified: datetime


def exists(uri: str) -> bool:
    """Whether there is such an object or folder.

    Raises:
        InputError: that cannot be found out: no permission, a disk that fails.
    """
    filesystem, path = filesystem_of(uri)
    with explained(uri):
        if isinstance(filesystem, LocalFileSystem):  # its own answer is "no" to every error
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True
        return filesystem.exists(path)


def list_files(uri: str, suffix: str = "") -> list[str]:
    """The files directly in a folder whose names end so, sorted; empty where there is no such folder."""
    return sorted(join(uri, entry) for entry in _names(uri, "file") if entry.endswith(suffix))


def list_folders(uri: str) -> list[str]:
    """The folders directly in a folder, sorted; empty where there is no such folder."""
    return sorted(join(uri, entry) for entry in _names(uri, "directory"))


def list_tree(uri: str) -> list[Entry]:
    """Every object below a folder at any depth, sorted; empty where there is no such folder."""
    filesystem, path = filesystem_of(uri)
    with explained(uri):
        if isinstance(filesystem, LocalFileSystem):  # to its own listing a folder that cannot be read is empty
            return _local_tree(uri, path)
        found = filesystem.find(path, detail=True)
    root = path.rstrip("/")
    return [
        Entry(join(uri, name.removeprefix(root).lstrip("/")), info["size"], _modified(info))
        for name, info in sorted(found.items())
    ]


def glob(pattern: str) -> list[str]:
    """The files that a pattern such as ``s3://bucket/day=*/part-*.parquet`` matches, sorted."""
    filesystem, path = filesystem_of(pattern)
    with explained(pattern):
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
    with explained(uri), open_read(uri) as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def _info(uri: str) -> dict[str, Any]:
    filesystem, path = filesystem_of(uri)
    with explained(uri):
        return filesystem.info(path)


def _names(uri: str, kind: str) -> list[str]:
    filesystem, path = filesystem_of(uri)
    with explained(uri):
        if isinstance(filesystem, LocalFileSystem):
            return _local_names(path, kind)
        if not filesystem.isdir(path):
            return []
        entries = filesystem.ls(path, detail=True, refresh=True)
    return [PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == kind]


def _local_names(path: str, kind: str) -> list[str]:
    try:
        with os.scandir(path) as found:
            is_kind = {"file": os.DirEntry.is_file, "directory": os.DirEntry.is_dir}[kind]
            return [entry.name for entry in found if is_kind(entry, follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _local_tree(uri: str, root: str) -> list[Entry]:
    entries = []
    for folder, _, names in os.walk(root, onerror=_unless_gone):
        for file in (os.path.join(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(file)
                modified = datetime.fromtimestamp(found.st_mtime, UTC)
                entries.append(Entry(join(uri, os.path.relpath(file, root)), found.st_size, modified))
    return sorted(entries, key=attrgetter("uri"))


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _modified(info: dict[str, Any]) -> datetime:
    """As the file system calls it: s3fs, local and sshfs, gcsfs, memory."""
    moment = next(info[key] for key in ("LastModified", "mtime", "updated", "created") if info.get(key) is not None)
    return datetime.fromtimestamp(moment, UTC) if isinstance(moment, int | float) else moment
