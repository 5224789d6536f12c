import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from llmemb import storage
from llmemb.storage.node_copy import node_copy


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this node's temporary files."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def folders(node: Path) -> list[Path]:
    return [path for path in node.glob("llmemb-*/*") if path.is_dir()]


def test_readers_at_the_same_time_share_one_copy_and_the_last_removes_it(node: Path) -> None:
    fills, all_read, seen = [], threading.Barrier(4), []

    def fill(folder: Path) -> None:
        fills.append(folder)
        (folder / "x").write_text("content")

    def read() -> None:
        with node_copy("key", fill) as folder:
            all_read.wait(timeout=60)
            seen.append((folder / "x").read_text())

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert seen == ["content"] * 4
    assert len(fills) == 1
    assert folders(node) == []


def test_a_download_that_fails_leaves_nothing_and_the_next_begins_anew(node: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "x").write_text("half")
        raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"), node_copy("key", fails):
        pass
    assert folders(node) == []
    with node_copy("key", lambda folder: (folder / "y").touch()) as folder:
        assert [path.name for path in folder.iterdir()] == ["y"]


KILLED = """
import os, pathlib, signal, sys, tempfile
from llmemb.storage.node_copy import node_copy
tempfile.tempdir = sys.argv[1]
with node_copy("killed", lambda folder: (folder / "x").touch()):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next(node: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(node)]).returncode == -9
    assert [path.name for path in folders(node)] == ["killed"]
    with node_copy("other", lambda folder: None):
        assert [path.name for path in folders(node)] == ["other"]


@pytest.mark.parametrize("root", ["s3://plain", "s3://conditional"], indirect=True)
def test_copies_of_what_has_not_changed_are_one(root: str, node: Path) -> None:
    storage.write_bytes(storage.join(root, "model", "x"), b"one")
    with storage.local_copy(storage.join(root, "model")) as first:
        with storage.local_copy(storage.join(root, "model")) as second:
            assert first == second
        storage.write_bytes(storage.join(root, "model", "x"), b"two")
        with storage.local_copy(storage.join(root, "model")) as changed:
            assert [(folder / "x").read_bytes() for folder in (first, changed)] == [b"one", b"two"]
    assert folders(node) == []
