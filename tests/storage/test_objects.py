import errno
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from llmemb import storage
from llmemb.errors import InputError
from llmemb.storage.filesystem import filesystem_of
from llmemb.storage.objects import MAX_UPLOADS, UPLOADS_AT_ONCE
from tests.object_stores import Faults


def test_object_reads_back_as_written(root: str) -> None:
    uri = storage.join(root, "a", "b.bin")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.exists(uri)
    assert storage.read_bytes(uri) == b"two"


def test_json_reads_back_as_written(root: str) -> None:
    storage.write_json(storage.join(root, "x.json"), {"ü": [1, None]})
    assert storage.read_json(storage.join(root, "x.json")) == {"ü": [1, None]}


def test_copy_replaces_and_outlives_its_source(root: str) -> None:
    source, target = storage.join(root, "x"), storage.join(root, "deep", "y")
    storage.write_bytes(target, b"old")
    storage.write_bytes(source, b"new")
    storage.copy(source, target)
    storage.write_bytes(source, b"newer")
    assert storage.read_bytes(target) == b"new"
    with pytest.raises(InputError, match=r"absent to .*y: no such file"):
        storage.copy(storage.join(root, "absent"), target)


def test_copy_between_stores(root: str, tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "x"), b"one")
    storage.copy(str(tmp_path / "x"), storage.join(root, "y"))
    assert storage.read_bytes(storage.join(root, "y")) == b"one"


def test_remove_takes_files_and_folders_and_forgives_absence(root: str) -> None:
    storage.write_bytes(storage.join(root, "a", "b"), b"x")
    storage.remove(storage.join(root, "a"))
    storage.remove(storage.join(root, "a"))
    assert not storage.exists(storage.join(root, "a", "b"))


def test_local_copy_and_upload_carry_a_folder(root: str, tmp_path: Path) -> None:
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "source" / "deep" / "x.txt").write_text("x")
    storage.upload(tmp_path / "source", storage.join(root, "model"))
    with storage.local_copy(storage.join(root, "model")) as folder:
        assert (folder / "deep" / "x.txt").read_text() == "x"


def test_signs_of_a_pattern_in_a_folders_name_are_its_name(root: str) -> None:
    for name in ("model[1]", "model*", "model1"):
        storage.write_bytes(storage.join(root, name, "weights"), name.encode())
    for name in ("model[1]", "model*"):
        with storage.local_copy(storage.join(root, name)) as folder:
            assert [file.read_text() for file in folder.rglob("*") if file.is_file()] == [name]
    with pytest.raises(InputError, match="absent: no such file"), storage.local_copy("memory://absent"):
        pass


@pytest.mark.parametrize("name", ["../../outside", "/outside"])
def test_no_object_is_written_outside_of_a_local_copy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    filesystem, _ = filesystem_of("memory://model")

    def find(path: str, **_: object) -> dict[str, dict[str, str]]:
        return {f"{path}/{name}": {}, f"{path}/weights": {}}

    monkeypatch.setattr(filesystem, "find", find)
    message = f"has an object named {name}; expected names inside the folder"
    with pytest.raises(InputError, match=message), storage.local_copy("memory://model"):
        pass


def test_checking_leaves_nothing_behind(root: str) -> None:
    storage.check_writable(root)
    assert storage.list_files(root) == []


@pytest.mark.parametrize("root", ["s3://plain", "s3://faulty"], indirect=True)
def test_large_objects_go_in_parts(root: str) -> None:
    content = os.urandom(1 << 20) * 120
    storage.write_bytes(storage.join(root, "large"), content)
    assert storage.read_bytes(storage.join(root, "large")) == content


PARTS_PUT_TOGETHER = ("POST", "?uploadId=")


@pytest.mark.parametrize("root", ["s3://plain", "s3://conditional"], indirect=True)
@pytest.mark.parametrize("how", ["write", "upload"])
def test_large_object_stands_when_the_answer_to_its_end_is_lost(
    root: str, how: str, tmp_path: Path, object_stores: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(1 << 20) * 120
    monkeypatch.setattr(object_stores, "lost_answers", [PARTS_PUT_TOGETHER])
    if how == "write":
        storage.write_bytes(storage.join(root, "large"), content)
    else:
        (tmp_path / "large").write_bytes(content)
        storage.upload(tmp_path, root)
    assert object_stores.lost_answers == []
    assert storage.read_bytes(storage.join(root, "large")) == content


@pytest.mark.usefixtures("object_stores")
def test_upload_that_a_store_never_knows_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = []

    def put(*_: object) -> None:
        uploads.append(1)
        refusal = ClientError({"Error": {"Code": "NoSuchUpload", "Message": "no"}}, "CompleteMultipartUpload")
        raise FileNotFoundError("no") from refusal

    monkeypatch.setattr(filesystem_of("s3://plain")[0], "pipe_file", put)
    with pytest.raises(InputError, match=r"s3://plain/large: no such upload: its parts were taken away"):
        storage.write_bytes("s3://plain/large", b"")
    assert len(uploads) == MAX_UPLOADS


def test_interrupted_write_leaves_the_old_content_and_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "x.json")
    storage.write_bytes(uri, b"old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(uri, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert storage.read_bytes(uri) == b"old"


@pytest.mark.parametrize("root", ["s3://plain", "s3://conditional"], indirect=True)
def test_what_could_not_be_deleted_is_said(root: str, object_stores: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(storage.join(root, "a", "kept"), b"x")
    monkeypatch.setattr(object_stores, "read_only", {"/a/kept"})
    with pytest.raises(InputError, match="not permitted"):
        storage.remove(storage.join(root, "a"))
    monkeypatch.undo()
    assert storage.read_bytes(storage.join(root, "a", "kept")) == b"x"


def test_a_name_with_a_pattern_in_it_is_a_name(root: str) -> None:
    for folder in ("run[1]", "run1", "run*"):
        storage.write_bytes(storage.join(root, folder, "x"), b"x")
    storage.remove(storage.join(root, "run[1]"))
    storage.remove(storage.join(root, "run*"))
    assert storage.exists(storage.join(root, "run1", "x"))
    assert not storage.exists(storage.join(root, "run[1]", "x"))
    assert not storage.exists(storage.join(root, "run*", "x"))


def write_files(folder: Path, number: int) -> None:
    folder.mkdir()
    for index in range(number):
        (folder / f"{index:02d}").write_text(str(index))


def test_files_are_uploaded_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "source", 2 * UPLOADS_AT_ONCE)
    together, copyfile = threading.Barrier(UPLOADS_AT_ONCE, timeout=10), shutil.copyfile

    def wait_for_others(source: Path, target: Path) -> None:
        together.wait()
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", wait_for_others)
    storage.upload(tmp_path / "source", str(tmp_path / "target"))
    copied = {file.name: file.read_text() for file in (tmp_path / "target").iterdir()}
    assert copied == {f"{index:02d}": str(index) for index in range(2 * UPLOADS_AT_ONCE)}


def test_after_an_upload_that_fails_no_more_are_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "source", 40)
    begun = []

    def full(source: Path, _: Path) -> None:
        begun.append(source)
        time.sleep(0.1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="target: No space left on device"):
        storage.upload(tmp_path / "source", str(tmp_path / "target"))
    assert len(begun) < 40


def test_an_uploaded_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x").write_bytes(b"new")
    storage.write_bytes(str(tmp_path / "target" / "x"), b"old")

    def full(_: Path, target: Path) -> None:
        target.write_bytes(b"n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="No space left on device"):
        storage.upload(tmp_path / "source", str(tmp_path / "target"))
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["x"]
    assert storage.read_bytes(str(tmp_path / "target" / "x")) == b"old"
