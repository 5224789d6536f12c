import errno
import fcntl
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from llmemb import storage
from llmemb.storage import compare_and_swap
from tests.object_stores import Faults
from tests.storage.conftest import ATOMIC


def test_swap_writes_only_over_what_is_expected(root: str) -> None:
    uri = storage.join(root, "LATEST")
    assert storage.swap(uri, b"one", None) is True
    assert storage.swap(uri, b"two", None) is False
    assert storage.swap(uri, b"two", b"zero") is False
    assert storage.read_bytes(uri) == b"one"
    assert storage.swap(uri, b"two", b"one") is True
    assert storage.read_bytes(uri) == b"two"


def test_stores_with_conditional_put_are_found_out_and_nothing_is_left_behind(root: str) -> None:
    atomic = root.startswith(("/", "s3://conditional", "s3://faulty-conditional"))
    assert storage.has_conditional_put(root) is atomic
    assert storage.list_tree(root) == []


@pytest.mark.parametrize("root", ["s3://conditional"], indirect=True)
@pytest.mark.parametrize("num_lost", [1, 2, 3])
def test_lost_answers_do_not_hide_that_a_store_is_atomic(
    root: str, num_lost: int, object_stores: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_stores, "lost_answers", [("PUT", "/.conditional-")] * num_lost)
    assert storage.has_conditional_put(root)
    assert object_stores.lost_answers == []
    assert storage.list_tree(root) == []


@pytest.mark.parametrize("root", ATOMIC, indirect=True)
def test_of_many_writers_at_once_each_swap_has_one_winner(root: str) -> None:
    uri, wins = storage.join(root, "counter"), []
    storage.write_bytes(uri, b"0 nobody")

    def count_up(writer: int) -> None:
        for _ in range(5):
            found = storage.read_bytes(uri)
            if storage.swap(uri, b"%d %d" % (int(found.split()[0]) + 1, writer), found):
                wins.append(writer)

    writers = [threading.Thread(target=count_up, args=(writer,)) for writer in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    counted = int(storage.read_bytes(uri).split()[0])
    # A win whose answer was lost may be overwritten before its writer looks again: it is counted up, not claimed.
    assert len(wins) == counted or ("faulty" in root and len(wins) < counted)
    assert counted >= 5


@pytest.mark.parametrize("root", ["s3://conditional"], indirect=True)
@pytest.mark.parametrize("size", [1, 101 << 20])
def test_a_writer_that_comes_in_between_is_not_overwritten(root: str, size: int, monkeypatch) -> None:
    uri, version = storage.join(root, "object"), compare_and_swap._version

    def overtaken(*arguments: object) -> object:
        seen = version(*arguments)
        monkeypatch.setattr(compare_and_swap, "_version", version)
        storage.write_bytes(uri, b"another's")
        return seen

    monkeypatch.setattr(compare_and_swap, "_version", overtaken)
    assert storage.swap(uri, b"x" * size, None) is False
    assert storage.read_bytes(uri) == b"another's"


def test_what_another_creates_in_between_is_not_overwritten_without_any_lock(tmp_path: Path, monkeypatch) -> None:
    file, link = tmp_path / "manifest.json", os.link

    def overtaken(source: Path, target: Path) -> None:
        file.write_bytes(b"another's")
        link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    assert storage.swap(str(file), b"mine", None) is False
    assert storage.swap(str(file), b"another's", None) is True
    assert file.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_on_a_disk_without_hard_links_a_file_is_created_once(tmp_path: Path, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    uri = str(tmp_path / "manifest.json")
    assert storage.swap(uri, b"mine", None) is True
    assert storage.swap(uri, b"another's", None) is False
    assert storage.read_bytes(uri) == b"mine"


def test_the_lock_is_on_a_file_that_is_open_for_writing(tmp_path: Path, monkeypatch) -> None:
    locked: list[bool] = []

    def flock(file: int | Any, _: int) -> None:
        number = file if isinstance(file, int) else file.fileno()
        mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        locked.append(stat.S_ISREG(os.fstat(number).st_mode) and mode != os.O_RDONLY)

    monkeypatch.setattr(compare_and_swap.fcntl, "flock", flock)
    file = tmp_path / "LATEST"
    file.write_bytes(b"one")
    assert storage.swap(str(file), b"two", b"one") is True
    assert locked == [True]
