"""What a night did, for programs (JSON), for people (text) and for others (a webhook); what those before it did."""

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from datetime import datetime
from typing import Any

from llmemb import storage
from llmemb.errors import InputError

NIGHTS_FOLDER = "nights"
WEBHOOK_SECONDS = 10
Summary = dict[str, Any]
_WEBHOOK = re.compile(r"https?://[^/?#@:\s]+(:\d+)?([/?][^\s]*)?")


def write(root: str, summary: Summary) -> str:
    """Writes ``nights/<when it began>.json`` and ``.txt``; returns the URI of the JSON."""
    moment = datetime.fromisoformat(summary["started_at"]).strftime("%Y%m%dT%H%M%S.%fZ")
    uri = storage.join(root, NIGHTS_FOLDER, f"{moment}.json")
    storage.write_bytes(uri.removesuffix(".json") + ".txt", (as_text(summary) + "\n").encode())
    storage.write_json(uri, summary)
    return uri


def read_all(root: str) -> list[Summary]:
    """All nights of a root, oldest first."""
    return [storage.read_json(uri) for uri in storage.list_files(storage.join(root, NIGHTS_FOLDER), ".json")]


def as_text(summary: Summary) -> str:
    """A few lines, the outcome first."""
    began = datetime.fromisoformat(summary["started_at"])
    lines = [f"night of {began:%Y-%m-%d %H:%M} UTC: {summary['outcome']}: {summary['reason']}"]
    if snapshot := summary.get("snapshot"):
        counts = ", ".join(f"{count:,} {name}" for name, count in snapshot["counts"].items())
        lines.append(f"  embeddings   {snapshot['id']}: {counts}")
    if summary.get("training"):
        lines.append(f"  training     {summary['training']}")
    if summary.get("candidate"):
        lines.append(f"  candidate    {summary['candidate']}")
    for row in summary.get("comparison", []):
        live = "" if row["live"] is None else f", live {row['live']:.4f}, at least {row['required']:.4f} expected"
        verdict = "" if row["is_enough"] else "  <- worse"
        lines.append(f"  {row['slice']:<12} {row['metric']} {row['candidate']:.4f}{live}{verdict}")
    lines.append(f"  live         {summary.get('live') or 'none'}")
    if deleted := summary.get("deleted"):
        lines.append(f"  deleted      {len(deleted):,} old folders")
    if seconds := summary.get("seconds"):
        lines.append("  seconds      " + ", ".join(f"{step} {value:,.0f}" for step, value in seconds.items()))
    return "\n".join(lines)


def webhook_url(variable: str | None) -> str | None:
    """The URL that an environment variable holds; never part of a message.

    Raises:
        InputError: the variable is not set, or is no URL.
    """
    if variable is None:
        return None
    url = os.environ.get(variable, "")
    if not _WEBHOOK.fullmatch(url):
        raise InputError(
            f"webhook_variable: expected {variable} in the environment to hold an http(s) URL without user:password"
        )
    return url


def post(url: str, summary: Summary) -> str | None:
    """Posts the summary as JSON; returns what went wrong, without the URL, or None."""
    body = json.dumps(summary).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"answered {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:  # their messages may hold the URL
        return f"not reached: {type(getattr(error, 'reason', error)).__name__}"
