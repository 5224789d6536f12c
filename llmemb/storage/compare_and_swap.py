"""Writing only over what is expected: by conditional put where a store has it, by a hard link or a lock on a disk."""

import errno
import fcntl
import functools
import os
import uuid
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from llmemb.storage.failures import code, explained
from llmemb.storage.filesystem import filesystem_of, protocols, reading
from llmemb.storage.listing import exists
from llmemb.storage.objects import NO_HARD_LINK, read_bytes, remove, temporary_beside, write_bytes
from llmemb.storage.paths import join, name

LOCK_FILE = ".lock"
"""Beside what has been swapped on a local disk; it stays."""
_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


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
    filesystem, path = filesystem_of(uri)
    if isinstance(filesystem, LocalFileSystem):
        with explained(uri):
            return _create(Path(path), content) if expected is None else _swap_locked(Path(path), content, expected)
    if not has_conditional_put(uri.rsplit("/", 1)[0]):
        return _swap_unlocked(uri, content, expected)
    while True:
        with explained(uri):
            found, condition = _version(filesystem, path)
            if found != expected:
                return found == content
            if _put_if(filesystem, path, content, condition):
                return True


@functools.cache
def has_conditional_put(folder: str) -> bool:
    """Whether a store refuses a put whose condition does not hold; found out once, with a probe in this folder.

    True for a local disk, by a hard link and a lock.
    """
    filesystem, path = filesystem_of(folder)
    if isinstance(filesystem, LocalFileSystem):
        return True
    if "s3" not in protocols(filesystem):
        return False
    probe = join(folder, f".conditional-{uuid.uuid4().hex}")
    with explained(folder):
        try:
            # Refused, though nobody else knows the name: the put was done, its answer was lost, and it came again.
            if not _put_if(filesystem, f"{path}/{name(probe)}", b"1", {"IfNoneMatch": "*"}) and not exists(probe):
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


def _create(path: Path, content: bytes) -> bool:
    """A file that is not there yet: a hard link is made once, on NFS too."""
    with temporary_beside(path) as temporary:
        temporary.write_bytes(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return path.read_bytes() == content
        except OSError as error:
            if error.errno not in NO_HARD_LINK:
                raise
            return _swap_locked(path, content, None)
    return True


def _swap_locked(path: Path, content: bytes, expected: bytes | None) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file opened for writing: of those alone NFS tells other nodes that they are locked.
    with (path.parent / LOCK_FILE).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _swap_unlocked(str(path), content, expected)


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
        return filesystem.cat_file(path, **reading(filesystem)), {"IfMatch": etag}
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
        if code(error) not in _LOST:
            raise
        return False
    return True
