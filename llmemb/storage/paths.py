"""URIs and local paths, as text."""

import os
from pathlib import Path, PurePosixPath

from llmemb.errors import InputError


def absolute(uri: str) -> str:
    """The URI itself, or a local path made absolute.

    Raises:
        InputError: a relative path inside the working directory that Ray made for a submitted job, which Ray deletes.
    """
    if "://" in uri and not uri.startswith("file://"):
        return uri.rstrip("/")
    path = Path(uri.removeprefix("file://")).expanduser()
    if not path.is_absolute() and "runtime_resources/working_dir_files" in os.getcwd() and not path.exists():
        raise InputError(
            f"{uri}: a relative path in a submitted job is deleted with its working directory; "
            "expected an absolute path or a URI such as s3://bucket/folder"
        )
    return os.path.abspath(path)


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    return PurePosixPath(uri).name
