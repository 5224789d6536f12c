import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmemb import storage
from llmemb.errors import InputError

MAX_ROUNDS = 500  # a kind of fault comes with every thirtieth request or so


@pytest.mark.parametrize("read", [storage.read_bytes, storage.read_json, storage.read_table, storage.read_schema])
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
    for number in range(MAX_ROUNDS):
        content = os.urandom(1000) + b"%d" % number
        uri = storage.join(folder, str(number))
        storage.write_bytes(uri, content)
        storage.copy(uri, uri + "-copy")
        assert storage.read_bytes(uri + "-copy") == content
        missing = [kind for kind in object_stores.KINDS if object_stores.counts[kind] == before[kind]]
        if not missing:
            break
    assert not missing
    assert len(storage.list_files(folder)) == 2 * (number + 1)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be written; permissions do not bind the superuser, who is somebody else meanwhile."""
    user = os.geteuid()
    tmp_path.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    yield tmp_path
    os.seteuid(user)
    tmp_path.chmod(0o755)


def test_what_a_disk_does_not_permit_is_one_line(locked: Path) -> None:
    with pytest.raises(InputError, match="not permitted: Permission denied"):
        storage.check_writable(str(locked / "out"))


def test_below_a_regular_file_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        storage.check_writable(str(tmp_path / "file" / "out"))


def test_unknown_scheme_is_an_input_error() -> None:
    with pytest.raises(InputError, match="nosuch://x: not a path or a URI"):
        storage.exists("nosuch://x")
