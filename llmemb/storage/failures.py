"""What a disk or a store says when it refuses, as one line for the user."""

import contextlib
import sys
from collections.abc import Iterator

from llmemb.errors import InputError

MISSING = {"NoSuchBucket": "bucket", "NoSuchUpload": "upload: its parts were taken away, each time it was written"}


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns what a disk or a store says into one line for the user; a store's own words hold no secret key."""
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
        raise InputError(f"{uri}: {_words(error)}{_hint(uri)}") from error


def code(error: OSError) -> str:
    """The S3 error code behind an error that s3fs translated."""
    return getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")


def _store_errors() -> tuple[type[Exception], ...]:
    """OSError, and what a store's client raises beside it: no credentials, no route, an answer cut short."""
    classes = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"))
    return OSError, *(getattr(sys.modules[module], kind) for module, kind in classes if module in sys.modules)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _hint(uri: str) -> str:
    return " (endpoint and credentials are those of the environment and ~/.aws)" if uri.startswith("s3") else ""
