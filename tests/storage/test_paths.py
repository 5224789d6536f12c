from pathlib import Path

import pytest

from llmemb import storage
from llmemb.errors import InputError


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


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:planted@bucket/x",
        "sftp://me:planted@host/x",
        "https://:planted@host/x",
        "https://planted@host/x",
        "https://host/x?a=1&X-Amz-Signature=planted",
    ],
)
@pytest.mark.parametrize("use", [storage.absolute, storage.exists, storage.read_bytes])
def test_a_password_in_a_uri_is_refused_and_not_shown(uri, use):
    with pytest.raises(InputError, match="holds a password; expected it in the environment") as raised:
        use(uri)
    assert "planted" not in str(raised.value)
    assert storage.absolute("sftp://me@host/a:b@c") == "sftp://me@host/a:b@c"


def test_one_slash_for_two_is_no_folder_of_this_machine():
    with pytest.raises(InputError, match=r"^s3:/bucket/x: expected two slashes after the scheme"):
        storage.absolute("s3:/bucket/x")
    assert storage.absolute("/runs/s3:/x") == "/runs/s3:/x"
