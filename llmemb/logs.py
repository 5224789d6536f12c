"""A job's lines, for people; for programs with ``LLMEMB_LOG_FORMAT=json`` in its environment: a JSON object each."""

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any

from llmemb.errors import InputError

VARIABLE, FORMATS = "LLMEMB_LOG_FORMAT", ("text", "json")


def set_up(*, verbose: bool) -> None:
    """The log of a job's own process.

    Raises:
        InputError: there is no such format.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if is_json() else logging.Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


def is_json() -> bool:
    """Whether lines are for programs."""
    chosen = os.environ.get(VARIABLE, FORMATS[0])
    if chosen not in FORMATS:
        raise InputError(f"{VARIABLE}: expected one of {', '.join(FORMATS)}, got {chosen!r}")
    return chosen == "json"


def line(**fields: Any) -> str:
    """One JSON object, with the time first."""
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}, ensure_ascii=False)


class JsonLines(logging.Formatter):
    """``time, level, logger, message`` and, where there is one, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return line(**fields)
