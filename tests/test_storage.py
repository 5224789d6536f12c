"""The same calls on a local disk, on fsspec's memory file system and on real S3 stores, two of them faulty."""

import os
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from llmemb import storage
from llmemb.errors import InputError

ATOMIC = ["local", "s3://conditional", "s3://faulty-conditional"]
OTHER = ["memory://", "s3://plain", "s3://faulty"]


@pytest.fixture(params=ATOMIC + OTHER)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "root")
    if request.param.startswith("s3://"):
        request.getfixturevalue("object_stores")
    return f"{request.param}/{uuid.uuid4().hex}"


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


def test_list_tree_tells_size_and_age_at_any_depth(root: str) -> None:
    for file in ("b.json", "a/b/c.parquet"):
        storage.write_bytes(storage.join(root, file), b"four")
    tree = storage.list_tree(root)
    assert [(entry.uri, entry.bytes) for entry in tree] == [
        (storage.join(root, "a/b/c.parquet"), 4),
        (storage.join(root, "b.json"), 4),
    ]
    assert all(abs(datetime.now(UTC) - entry.modified) < timedelta(minutes=1) for entry in tree)
    assert storage.list_folders(root) == [storage.join(root, "a")]
    assert storage.list_tree(storage.join(root, "absent")) == storage.list_folders(storage.join(root, "absent")) == []


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


@pytest.fixture
def other_environment(object_stores: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """For changing AWS_* variables: the store's client reads them when it is made."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    yield monkeypatch
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("environment", "uri", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://plain/x", "s3://plain/x: not permitted: "),
        ({"AWS_ACCESS_KEY_ID": "no-such-access-key"}, "s3://plain/x", "s3://plain/x: not permitted: "),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "s3://plain/x", "Unable to locate credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "2"}, "s3://plain/x", "Could not connect"),
        ({}, "s3://absent-bucket/x", "s3://absent-bucket/x: no such bucket"),
    ],
)
@pytest.mark.parametrize("call", [storage.read_bytes, lambda uri: storage.write_bytes(uri, b"x")])
def test_a_store_that_refuses_is_one_line_without_secrets(other_environment, environment, uri, message, call) -> None:
    for key, value in environment.items():
        other_environment.setenv(key, value)
    with pytest.raises(InputError, match=message) as caught:
        call(uri)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value) or not os.environ["AWS_SECRET_ACCESS_KEY"]
    assert "\n" not in str(caught.value)


def test_every_kind_of_fault_is_ridden_out(object_stores) -> None:
    folder = f"s3://faulty/{uuid.uuid4().hex}"
    before = object_stores.counts.copy()
    for number in range(20):
        content = os.urandom(1000) + b"%d" % number
        uri = storage.join(folder, str(number))
        storage.write_bytes(uri, content)
        storage.copy(uri, uri + "-copy")
        assert storage.read_bytes(uri + "-copy") == content
    assert len(storage.list_files(folder)) == 40
    for kind in object_stores.KINDS:
        assert object_stores.counts[kind] > before[kind], kind


@pytest.mark.parametrize("root", ["s3://plain", "s3://faulty"], indirect=True)
def test_large_objects_go_in_parts(root: str) -> None:
    content = os.urandom(1 << 20) * 120
    storage.write_bytes(storage.join(root, "large"), content)
    assert storage.read_bytes(storage.join(root, "large")) == content


@pytest.mark.parametrize("root", ["s3://conditional"], indirect=True)
@pytest.mark.parametrize("size", [1, 101 << 20])
def test_a_writer_that_comes_in_between_is_not_overwritten(root: str, size: int, monkeypatch) -> None:
    uri, version = storage.join(root, "object"), storage._version

    def overtaken(*arguments: object) -> object:
        seen = version(*arguments)
        monkeypatch.setattr(storage, "_version", version)
        storage.write_bytes(uri, b"another's")
        return seen

    monkeypatch.setattr(storage, "_version", overtaken)
    assert storage.swap(uri, b"x" * size, None) is False
    assert storage.read_bytes(uri) == b"another's"


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
