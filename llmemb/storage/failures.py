"""What a disk or a store says when it refuses, as one line for the user."""

import contextlib
import errno
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from llmemb.errors import InputError, TemporaryError

MISSING = {"NoSuchBucket": "bucket", "NoSuchUpload": "upload: its parts were taken away, each time it was written"}
TOO_MANY_REQUESTS, SERVER_FAULT, NOT_IMPLEMENTED = 429, 500, 501
_THROTTLED = {"RequestLimitExceeded", "RequestThrottled", "Throttling", "ThrottlingException"}
"""Codes that may come with another status than 429."""
# Of EBUSY and EREMOTEIO s3fs makes 503 and 500; ESTALE is NFS's.
_PASSING = {"EAGAIN", "EBUSY", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO", "ESTALE"}
_TEMPORARY = (
    ("aiohttp", "ClientConnectionError"),
    ("aiohttp", "ClientPayloadError"),
    ("botocore.exceptions", "ConnectionError"),
    ("botocore.exceptions", "HTTPClientError"),
    ("botocore.exceptions", "IncompleteReadError"),
    # Of a node's or a container's own endpoint; that there are no credentials anywhere is another error.
    ("botocore.exceptions", "CredentialRetrievalError"),
    ("botocore.exceptions", "MetadataRetrievalError"),
    ("botocore.parsers", "ResponseParserError"),  # a proxy's words in place of the store's
)
_UNTRUSTED = (("aiohttp", "ClientSSLError"), ("botocore.exceptions", "SSLError"))
"""Of those, what stays: a certificate that is not accepted."""


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns what a disk or a store says into one line for the user; a store's own words hold no secret key.

    Raises:
        TemporaryError: it may be gone by itself.
        InputError: anything else.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{uri}: no such {MISSING.get(code(error), 'file')}") from error
    except PermissionError as error:
        raise InputError(f"{uri}: not permitted: {_words(error)}{_hint(uri)}") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{uri}: cannot be written: {_words(error)}") from error
    except IsADirectoryError as error:
        raise InputError(f"{uri}: a folder; expected a file") from error
    except _store_errors() as error:
        kind = TemporaryError if is_temporary(error) else InputError
        raise kind(f"{uri}: {_words(error)}{_hint(uri)}") from error


def is_temporary(error: BaseException) -> bool:
    """Whether it may be gone by itself: a name or a connection that fails, a timeout, throttling, 5xx."""
    if isinstance(error, _classes(_UNTRUSTED)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, *_classes(_TEMPORARY))):
        return True
    if isinstance(error, OSError) and (errno.errorcode.get(error.errno or 0) in _PASSING or code(error) in _THROTTLED):
        return True
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") or getattr(error, "status", 0)
    return status == TOO_MANY_REQUESTS or (status >= SERVER_FAULT and status != NOT_IMPLEMENTED)


def code(error: BaseException) -> str:
    """The S3 error code behind an error that s3fs translated."""
    return _response(error).get("Error", {}).get("Code", "")


def _response(error: BaseException) -> dict[str, Any]:
    response = getattr(error.__cause__, "response", None)
    return response if isinstance(response, dict) else {}


def _store_errors() -> tuple[type[Exception], ...]:
    """OSError, and what a store's client raises beside it: no credentials, no route, an answer cut short."""
    client = ("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError")
    return OSError, *_classes((*client, ("botocore.parsers", "ResponseParserError")))


def _classes(names: Iterable[tuple[str, str]]) -> tuple[type[Exception], ...]:
    """Those of modules that are loaded: the others have raised nothing."""
    return tuple(getattr(sys.modules[module], kind) for module, kind in names if module in sys.modules)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _hint(uri: str) -> str:
    return " (endpoint and credentials are those of the environment and ~/.aws)" if uri.startswith("s3") else ""
