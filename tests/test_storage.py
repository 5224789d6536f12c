"""The same calls on a local disk and on a store that has only objects (fsspec's memory file system)."""

import os
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from llmemb import storage
from llmemb.errors import InputError


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "root") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


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


def test_table_reads_back_and_its_entry_describes_the_file(root: str) -> None:
    table = pa.table({"item_id": ["a", "b"], "price": [1.5, None]})
    uri = storage.join(root, "part-0.parquet")
    entry = storage.write_table(uri, table)
    content = storage.read_bytes(uri)
    assert entry == {
        "file": "part-0.parquet",
        "rows": 2,
        "bytes": len(content),
        "sha256": storage.checksum(content),
    }
    assert storage.read_table(uri) == table
    assert storage.read_table(uri, ["price"]).column_names == ["price"]


def test_list_files_is_sorted_and_not_recursive(root: str) -> None:
    for file in ("b.parquet", "a.parquet", "c.json", "deeper/d.parquet"):
        storage.write_bytes(storage.join(root, file), b"x")
    assert [storage.name(uri) for uri in storage.list_files(root, ".parquet")] == ["a.parquet", "b.parquet"]
    assert storage.list_files(storage.join(root, "absent")) == []


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


def test_checking_leaves_nothing_behind(root: str) -> None:
    storage.check_writable(root)
    assert storage.list_files(root) == []


@pytest.mark.parametrize("read", [storage.read_bytes, storage.read_json, storage.read_table])
def test_reading_what_is_absent_names_it(root: str, read) -> None:
    with pytest.raises(InputError, match="absent: no such file"):
        read(storage.join(root, "absent"))


def test_reading_the_wrong_format_names_the_file(root: str) -> None:
    uri = storage.join(root, "x")
    storage.write_bytes(uri, b"{not json, not parquet")
    with pytest.raises(InputError, match="x: not JSON"):
        storage.read_json(uri)
    with pytest.raises(InputError, match="x: not Parquet"):
        storage.read_table(uri)


def test_below_a_regular_file_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        storage.check_writable(str(tmp_path / "file" / "out"))


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


def test_relative_path_in_a_submitted_job_is_refused_unless_it_was_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working_dir = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    (working_dir / "data").mkdir(parents=True)
    monkeypatch.chdir(working_dir)
    with pytest.raises(InputError, match="runs/x: a relative path in a submitted job"):
        storage.absolute("runs/x")
    assert storage.absolute("data") == str(working_dir / "data")
    assert storage.absolute("/runs/x") == "/runs/x"
    assert storage.absolute("s3://bucket/runs/") == "s3://bucket/runs"


def test_unknown_scheme_is_an_input_error() -> None:
    with pytest.raises(InputError, match="nosuch://x: not a path or a URI"):
        storage.exists("nosuch://x")


def test_fingerprint_ignores_key_order_and_nothing_else() -> None:
    assert storage.fingerprint({"a": 1, "b": [2, 3]}) == storage.fingerprint({"b": [2, 3], "a": 1})
    assert storage.fingerprint({"a": 1, "b": [2, 3]}) != storage.fingerprint({"a": 1, "b": [3, 2]})
