"""URIs and local paths, as text."""

import os
import re
from pathlib import Path, PurePosixPath

from llmemb.errors import InputError

_ONE_SLASH = re.compile(r"[a-z][a-z0-9+.-]+:/(?!/)")  # Windows' drives have one letter
_PASSWORD = re.compile(r"(\w+)://[^@\s/]*:[^@\s]*@|(https?)://[^@\s/]+@")
_SIGNATURE = re.compile(r"(\w+)://\S*[?&](X-Amz-Signature|X-Goog-Signature|sig)=", re.IGNORECASE)


def absolute(uri: str) -> str:
    """The URI itself, or a local path made absolute.

    Raises:
        InputError: a relative path inside the working directory that Ray made for a submitted job, which Ray deletes;
            a URI with a password in it, or with one slash for two.
    """
    check_no_password(uri)
    if _ONE_SLASH.match(uri):
        raise InputError(f"{uri}: expected two slashes after the scheme, as in s3://bucket/folder")
    if "://" in uri and not uri.startswith("file://"):
        return uri.rstrip("/")
    path = Path(uri.removeprefix("file://")).expanduser()
    if not path.is_absolute() and "runtime_resources/working_dir_files" in os.getcwd() and not path.exists():
        raise InputError(
            f"{uri}: a relative path in a submitted job is deleted with its working directory; "
            "expected an absolute path or a URI such as s3://bucket/folder"
        )
    return os.path.abspath(path)


def check_no_password(uri: str) -> None:
    """URIs are written into configs, records and error messages: what they hold is no secret.

    Raises:
        InputError: one holds a password, a token or a signature, which is not shown.
    """
    if found := _PASSWORD.search(uri) or _SIGNATURE.search(uri):
        raise InputError(
            f"{found[1] or found[2]}://…: holds a password; expected it in the environment or in the store's own "
            "configuration"
        )


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def name(uri: str) -> str:
    return PurePosixPath(uri).name
