"""The snapshots of a root: which there are, which cannot be read, which runs were cut off, and which may go."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from llmemb import storage
from llmemb.embed.snapshot import LATEST_FILE, Snapshot, latest_id
from llmemb.errors import InputError
from llmemb.vectors import MANIFEST_FILE

# What embed names its folders: nothing else in a root is looked at, let alone deleted.
_SNAPSHOT_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Unfinished:
    """The folder of a run that has not published yet, or never will."""

    uri: str
    bytes: int
    modified: datetime

    @property
    def age(self) -> timedelta:
        return datetime.now(UTC) - self.modified


@dataclass(frozen=True)
class Unreadable:
    """A published snapshot that this version cannot read, of another format say: left alone."""

    uri: str
    reason: str


@dataclass(frozen=True)
class History:
    """What a root holds; ``published`` is newest first."""

    root: str
    latest_id: str | None
    published: list[Snapshot]
    unfinished: list[Unfinished]
    unreadable: list[Unreadable]

    @classmethod
    def read(cls, root: str) -> "History":
        """Reads the manifests of a root, and no vector.

        Raises:
            InputError: there is no embeddings root, or the snapshot that LATEST names cannot be read.
        """
        folders = [uri for uri in storage.list_folders(root) if _SNAPSHOT_ID.fullmatch(storage.name(uri))]
        latest = latest_id(root)
        if latest is None and not folders:
            raise InputError(f"embeddings: {root} has no {LATEST_FILE} and no snapshots: expected the output of embed")
        published, unfinished, unreadable = [], [], []
        for uri in folders:
            if not storage.exists(storage.join(uri, MANIFEST_FILE)):
                unfinished.append(_unfinished(uri))
                continue
            try:
                published.append(Snapshot.open(uri))
            except InputError as error:
                if storage.name(uri) == latest:
                    raise
                unreadable.append(Unreadable(uri, str(error)))
        published.sort(key=lambda snapshot: snapshot.manifest["created_at"], reverse=True)
        return cls(root, latest, published, unfinished, unreadable)


@dataclass(frozen=True)
class Sweep:
    """What garbage collection takes, and why it leaves the rest."""

    history: History
    snapshots: list[Snapshot]
    unfinished: list[Unfinished]
    kept: dict[str, str]
    """Snapshot id to the reason."""

    @property
    def bytes(self) -> int:
        """An upper bound on what is freed: on a local disk, snapshots share the files that did not change."""
        return sum(map(snapshot_bytes, self.snapshots)) + sum(run.bytes for run in self.unfinished)


def _unfinished(uri: str) -> Unfinished:
    tree = storage.list_tree(uri)
    modified = max((entry.modified for entry in tree), default=datetime.now(UTC))
    return Unfinished(uri, sum(entry.bytes for entry in tree), modified)


def plan_sweep(
    history: History, *, keep: int, unfinished_age: timedelta, pinned: Mapping[str, str] | None = None
) -> Sweep:
    """Keeps the newest snapshots, the one that LATEST names and its parent, and runs that may still be going.

    Those that cannot be read stay too: whether somebody needs them cannot be told.

    Args:
        keep: How many of the newest.
        unfinished_age: A run that has written nothing for so long is taken to be dead.
        pinned: Snapshots that somebody uses, by id, and who.
    """
    kept = {snapshot.snapshot_id: f"one of the newest {keep}" for snapshot in history.published[:keep]}
    for snapshot in history.published:
        if snapshot.snapshot_id == history.latest_id:
            kept[snapshot.snapshot_id] = LATEST_FILE
            parent = snapshot.manifest["parent"]
            if any(other.snapshot_id == parent for other in history.published):
                kept[parent] = f"the parent of {LATEST_FILE}"
    published = {snapshot.snapshot_id for snapshot in history.published}
    kept |= {name: reason for name, reason in (pinned or {}).items() if name in published}
    kept |= {storage.name(one.uri): "cannot be read" for one in history.unreadable}
    running = [run for run in history.unfinished if run.age < unfinished_age]
    kept |= {storage.name(run.uri): f"unfinished, last written {_hours(run.age)} h ago" for run in running}
    return Sweep(
        history,
        [snapshot for snapshot in history.published if snapshot.snapshot_id not in kept],
        [run for run in history.unfinished if run not in running],
        kept,
    )


def sweep(plan: Sweep) -> Iterator[str]:
    """Deletes what was planned, one folder after the other, and yields the URI of each that is gone.

    A snapshot's manifest goes first: it stops to exist before its files do. One that LATEST names by now stays, and so
    does an unfinished run that has published or written since.
    """
    for snapshot in plan.snapshots:
        if latest_id(plan.history.root) != snapshot.snapshot_id:
            storage.remove(storage.join(snapshot.uri, MANIFEST_FILE))
            storage.remove(snapshot.uri)
            yield snapshot.uri
    for run in plan.unfinished:
        if max((entry.modified for entry in storage.list_tree(run.uri)), default=run.modified) == run.modified:
            storage.remove(run.uri)
            yield run.uri


def snapshot_bytes(snapshot: Snapshot) -> int:
    return sum(entry["bytes"] for entry in snapshot.manifest["files"])


def _hours(age: timedelta) -> str:
    return f"{age / timedelta(hours=1):.1f}"
