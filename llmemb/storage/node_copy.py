"""One copy of a folder for all processes of a node, instead of one for each."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from llmemb.errors import InputError


@contextlib.contextmanager
def node_copy(key: str, fill: Callable[[Path], None]) -> Iterator[Path]:
    """A folder that the first process to want it fills, that others read too, and that the last of them removes.

    Readers hold a shared lock, which the system releases when one is killed; what such a one leaves is removed by the
    next that wants any folder.

    Args:
        key: Names the content; it is the same for the same content alone.
        fill: Writes it into a folder that is empty.
    """
    root = _root()
    for other in root.glob("*.lock"):
        with other.open("a") as lock:
            _remove_if_unused(lock, other.with_suffix(""))
    folder = root / key
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        # A lock changes its kind in two steps, between which another may fill the folder or remove it.
        while not folder.exists():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not folder.exists():
                    _fill(folder, fill)
            fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            yield folder
        finally:
            _remove_if_unused(lock, folder)


def _root() -> Path:
    root = Path(tempfile.gettempdir(), f"llmemb-{os.getuid()}")
    root.mkdir(mode=0o700, exist_ok=True)
    if root.lstat().st_uid != os.getuid():
        raise InputError(f"{root}: belongs to another user; expected TMPDIR to name another folder")
    return root


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        fill(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_if_unused(lock: IO[Any], folder: Path) -> None:
    """The lock's file stays: who waits for it has it open."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in (folder, folder.with_suffix(".partial")):
            shutil.rmtree(path, ignore_errors=True)
        fcntl.flock(lock, fcntl.LOCK_UN)
