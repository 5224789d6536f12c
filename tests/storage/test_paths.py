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
