"""The recommenders of a nightly root: which is live, which were made, which may go."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from llmemb import storage
from llmemb.artifact import RECORD
from llmemb.errors import InputError
from llmemb.rat.recommender import RECOMMENDER_FILE

LIVE_FILE = "LIVE"
# What a night names its folders: nothing else is looked at, let alone deleted.
_ID = re.compile(r"[0-9a-f]{16}")


def live_id(root: str) -> str | None:
    """The folder in ``recommenders/`` that LIVE names; None before the first is published.

    Raises:
        InputError: LIVE holds something else than a folder's name.
    """
    uri = storage.join(root, LIVE_FILE)
    return storage.pointed_at(uri, _ID, expected="the name of a folder in recommenders/, 16 hex digits")


def publish(root: str, candidate: str, previous: str | None) -> None:
    """Points LIVE at a recommender, if it still names the previous one: by compare-and-swap where the store can.

    Raises:
        InputError: somebody else has moved LIVE meanwhile.
    """
    uri = storage.join(root, LIVE_FILE)
    if not storage.point(uri, candidate, previous=previous):
        raise InputError(f"{uri}: moved to {live_id(root)} while this night compared with {previous}; run again")


@dataclass(frozen=True)
class Made:
    """A folder that a night has made, and when something was last written into it."""

    uri: str
    modified: datetime
    is_finished: bool

    @property
    def name(self) -> str:
        return storage.name(self.uri)


def made(folder: str, *, finished_by: str) -> list[Made]:
    """What nights have made in a folder, newest first; ``finished_by`` is the file that says that one is complete."""
    found = []
    for uri in storage.list_folders(folder):
        if _ID.fullmatch(storage.name(uri)):
            tree = storage.list_tree(uri)
            newest = max((entry.modified for entry in tree), default=datetime.now(UTC))
            found.append(Made(uri, newest, any(entry.uri == storage.join(uri, finished_by) for entry in tree)))
    return sorted(found, key=lambda one: one.modified, reverse=True)


def outdated(found: list[Made], *, keep: int, pinned: Collection[str], unfinished_age: timedelta) -> list[Made]:
    """Which of them may go: all but the newest ``keep``, the pinned ones, and what may still be being made."""
    finished = [one for one in found if one.is_finished]
    dead = [one for one in found if not one.is_finished and datetime.now(UTC) - one.modified >= unfinished_age]
    return [one for one in finished[keep:] + dead if one.name not in pinned]


def sweep(found: list[Made], *, finished_by: str) -> Iterator[str]:
    """Deletes folders, what makes them complete first, and yields each one's URI."""
    for one in found:
        storage.remove(storage.join(one.uri, finished_by))
        storage.remove(one.uri)
        yield one.uri


def snapshots_of(found: list[Made]) -> dict[str, str]:
    """The snapshots that recommenders were trained on, or are being, each with the reason to keep it."""
    pinned = {}
    for one in found:
        snapshot = _snapshot(one)
        if snapshot:
            pinned[snapshot] = f"recommender {one.name} was trained on it"
    return pinned


def _snapshot(one: Made) -> str | None:
    if one.is_finished:
        info: dict[str, Any] = storage.read_json(storage.join(one.uri, RECOMMENDER_FILE))
        return info["embeddings"]
    record = storage.join(one.uri, RECORD)
    return storage.read_json(record)["inputs"].get("embeddings") if storage.exists(record) else None
