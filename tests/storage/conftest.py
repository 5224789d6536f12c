"""The same calls on a local disk, on fsspec's memory file system and on real S3 stores, two of them faulty."""

import uuid
from pathlib import Path

import pytest

ATOMIC = ["local", "s3://conditional", "s3://faulty-conditional"]
OTHER = ["memory://", "s3://plain", "s3://faulty"]


@pytest.fixture(params=ATOMIC + OTHER)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "root")
    if request.param.startswith("s3://"):
        request.getfixturevalue("object_stores")
    return f"{request.param}/{uuid.uuid4().hex}"
