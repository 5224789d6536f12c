import os
from datetime import timedelta
from pathlib import Path

import pytest

from llmemb import storage
from llmemb.embed.history import History, Sweep, plan_sweep, sweep
from llmemb.embed.snapshot import Snapshot, latest_id
from llmemb.errors import InputError
from tests.snapshots import write_snapshot

DAY = timedelta(days=1)
UNFINISHED = "00000000000000aa"


@pytest.fixture(params=["local", "s3://plain"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "root")
    request.getfixturevalue("object_stores")
    return f"s3://plain/{tmp_path.name}"


def nights(root: str, count: int) -> list[Snapshot]:
    return [write_snapshot(root, {"a": "1"}, night=night, num_files=1) for night in range(count)]


def cut_off(root: str) -> str:
    uri = storage.join(root, UNFINISHED)
    storage.write_bytes(storage.join(uri, "_shards", "part-00000.json"), b"four")
    return uri


def plan(root: str, *, keep: int, unfinished_age: timedelta = DAY) -> Sweep:
    return plan_sweep(History.read(root), keep=keep, unfinished_age=unfinished_age)


def test_history_is_newest_first_and_tells_unfinished_runs(root):
    nights(root, 3)
    cut_off(root)
    storage.write_bytes(storage.join(root, "mine", "notes.txt"), b"x")
    history = History.read(root)
    assert [int(snapshot.snapshot_id, 16) for snapshot in history.published] == [2, 1, 0]
    assert history.latest_id == f"{2:016x}"
    assert [(storage.name(run.uri), run.bytes) for run in history.unfinished] == [(UNFINISHED, 4)]


def test_a_folder_without_snapshots_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="expected the output of embed"):
        History.read(str(tmp_path))


@pytest.mark.parametrize("content", [b'{"format": 1}', b"{", b"[]"])
def test_a_snapshot_that_cannot_be_read_is_told_apart_and_stays(root, content):
    nights(root, 4)
    old = storage.join(root, f"{1:016x}")
    storage.write_bytes(storage.join(old, "manifest.json"), content)
    history = History.read(root)
    assert [int(snapshot.snapshot_id, 16) for snapshot in history.published] == [3, 2, 0]
    [unreadable] = history.unreadable
    assert unreadable.uri == old
    assert f"{old}/manifest.json" in unreadable.reason
    planned = plan(root, keep=1, unfinished_age=timedelta(0))
    assert planned.kept[f"{1:016x}"] == "cannot be read"
    assert list(sweep(planned)) == [storage.join(root, f"{0:016x}")]
    assert storage.exists(storage.join(old, "part-00000.parquet"))


def test_where_latest_names_one_that_cannot_be_read_it_is_an_error(root):
    nights(root, 2)
    storage.write_bytes(storage.join(root, f"{1:016x}", "manifest.json"), b'{"format": 1}')
    with pytest.raises(InputError, match="is of format 1; expected 2"):
        History.read(root)
    storage.write_bytes(storage.join(root, "LATEST"), f"{0:016x}\n".encode())
    assert [storage.name(one.uri) for one in History.read(root).unreadable] == [f"{1:016x}"]


def test_sweep_keeps_the_newest_and_what_is_not_ours(root):
    nights(root, 5)
    storage.write_bytes(storage.join(root, "mine", "notes.txt"), b"x")
    planned = plan(root, keep=3)
    assert len(list(sweep(planned))) == 2
    assert [storage.name(uri) for uri in storage.list_folders(root)] == [*(f"{n:016x}" for n in (2, 3, 4)), "mine"]
    assert list(sweep(plan(root, keep=3))) == []


def test_sweep_keeps_what_latest_names_and_its_parent_however_old(root):
    nights(root, 5)
    storage.write_bytes(storage.join(root, "LATEST"), f"{1:016x}\n".encode())
    assert [snapshot.snapshot_id for snapshot in plan(root, keep=1).snapshots] == [f"{n:016x}" for n in (3, 2)]


def test_a_snapshot_that_latest_came_to_name_meanwhile_stays(root):
    nights(root, 3)
    planned = plan(root, keep=1)
    assert [snapshot.snapshot_id for snapshot in planned.snapshots] == [f"{0:016x}"]
    storage.write_bytes(storage.join(root, "LATEST"), f"{0:016x}\n".encode())
    assert list(sweep(planned)) == []
    assert Snapshot.open(root).snapshot_id == latest_id(root) == f"{0:016x}"


def test_unfinished_runs_go_only_once_they_are_old(root):
    nights(root, 1)
    uri = cut_off(root)
    assert plan(root, keep=1).unfinished == []
    planned = plan(root, keep=1, unfinished_age=timedelta(0))
    assert list(sweep(planned)) == [uri]
    assert storage.list_tree(uri) == []


def test_an_unfinished_run_that_writes_again_stays(tmp_path):
    root = str(tmp_path)
    nights(root, 1)
    uri = cut_off(root)
    os.utime(storage.list_tree(uri)[0].uri, (0, 0))
    planned = plan(root, keep=1)
    assert len(planned.unfinished) == 1
    storage.write_bytes(storage.join(uri, "part-00000.parquet"), b"x")
    assert list(sweep(planned)) == []
    assert len(storage.list_tree(uri)) == 2
