"""The file system behind a URI, and how it is asked: credentials, retries, caches."""

import os
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from llmemb.errors import InputError
from llmemb.storage.paths import check_no_password

MAX_ATTEMPTS = 10
"""Of one request to a store; ``AWS_MAX_ATTEMPTS`` overrides it."""


def filesystem_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    check_no_password(uri)
    try:
        return fsspec.core.url_to_fs(uri, **_options(uri))
    except ImportError as error:
        raise InputError(
            f"{uri}: its store needs a package: pip install -e '.[s3]' in the checkout for s3:// ({error})"
        ) from error
    except ValueError as error:
        raise InputError(f"{uri}: not a path or a URI that fsspec knows: {error}") from error


def is_local(uri: str) -> bool:
    return isinstance(filesystem_of(uri)[0], LocalFileSystem)


def protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def reading(filesystem: fsspec.AbstractFileSystem) -> dict[str, int]:
    # s3fs 2026.9 tries a body that was cut again, unless it reads several ranges of an object at once.
    return {"max_concurrency": 1} if "s3" in protocols(filesystem) else {}


def _options(uri: str) -> dict[str, Any]:
    if not uri.startswith(("s3://", "s3a://")):
        return {}
    mode, attempts = os.environ.get("AWS_RETRY_MODE", "standard"), os.environ.get("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS)
    # Another process may have written since a listing was cached.
    return {
        "config_kwargs": {"retries": {"mode": mode, "total_max_attempts": int(attempts)}},
        "use_listings_cache": False,
    }
