import errno
import gzip
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmemb import storage
from llmemb.errors import InputError, TemporaryError

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


@pytest.mark.parametrize(
    ("environment", "fault", "message"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "none", "Could not connect"),
        ({"AWS_ENDPOINT_URL": "http://nosuch.invalid"}, "none", "Could not connect"),
        ({}, "throttled", "s3://faulty/x: "),
        ({}, "reset before", "s3://faulty/x: "),
    ],
)
@pytest.mark.parametrize("call", [storage.read_bytes, storage.exists, lambda uri: storage.write_bytes(uri, b"x")])
def test_a_store_that_does_not_answer_is_no_bad_input(
    other_environment, object_stores, environment, fault, message, call
) -> None:
    for key, value in ({"AWS_MAX_ATTEMPTS": "1"} | environment).items():
        other_environment.setenv(key, value)
    other_environment.setattr(object_stores, "draw", lambda: fault)
    with pytest.raises(TemporaryError, match=message) as caught:
        call("s3://faulty/x")
    assert not isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)


def answered(status: int, code: str) -> OSError:
    """An error as s3fs makes it of a store's answer."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    response = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = translate_boto_error(ClientError(response, "GetObject"))
    assert isinstance(error, OSError)
    return error


def said_by_clients(names: list[str]) -> list[Exception]:
    """Errors of botocore and aiohttp, without what their constructors want."""
    import aiohttp
    import botocore.exceptions

    classes = [getattr(aiohttp if hasattr(aiohttp, name) else botocore.exceptions, name) for name in names]
    return [kind.__new__(kind) for kind in classes]


def test_what_may_be_gone_by_itself_is_told_from_what_stays() -> None:
    numbers = ["EBUSY", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH", "EPIPE", "ESTALE", "ETIMEDOUT"]
    answers = [(500, "InternalError"), (502, "502"), (503, "SlowDown"), (503, "x"), (504, "504")]
    answers += [(400, "RequestTimeout"), (429, "TooManyRequests"), (400, "Throttling"), (409, "OperationAborted")]
    names = ["EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"]
    names += ["IncompleteReadError", "CredentialRetrievalError", "MetadataRetrievalError"]
    names += ["ClientPayloadError", "ServerDisconnectedError", "ClientConnectorDNSError"]
    errors = [OSError(getattr(errno, name), name) for name in numbers] + [answered(*answer) for answer in answers]
    errors += [TimeoutError(), socket.gaierror(socket.EAI_AGAIN, "try again"), *said_by_clients(names)]
    assert [error for error in errors if not storage.is_temporary(error)] == []


def test_what_only_a_user_can_mend_is_not_temporary() -> None:
    numbers = ["EACCES", "EDQUOT", "EIO", "EINVAL", "ENAMETOOLONG", "ENOENT", "ENOSPC", "EROFS"]
    answers = [(403, "AccessDenied"), (403, "403"), (404, "NoSuchBucket"), (404, "404"), (400, "InvalidRequest")]
    answers += [(501, "NotImplemented"), (301, "PermanentRedirect"), (400, "x")]
    names = ["NoCredentialsError", "SSLError", "ProfileNotFound", "ClientConnectorCertificateError", "InvalidURL"]
    errors = [OSError(getattr(errno, name), name) for name in numbers] + [answered(*answer) for answer in answers]
    errors += [gzip.BadGzipFile("Not a gzipped file"), ValueError("x"), *said_by_clients(names)]
    assert [error for error in errors if storage.is_temporary(error)] == []


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
