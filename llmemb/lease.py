"""One run at a time: a lease in the store, renewed by whoever holds it, and free once it is not."""

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from llmemb import storage
from llmemb.errors import InputError, TemporaryError

LEASE_FILE = "LEASE"
RENEWALS = 4
"""While a lease lasts."""
POLL_SECONDS = 1.0


class Lease:
    """Held by this process until it is released, or lost to another one."""

    def __init__(self, uri: str, owner: str, seconds: float) -> None:
        self._uri, self._seconds = uri, seconds
        self._facts = {"owner": owner, "id": uuid.uuid4().hex, "since": datetime.now(UTC).isoformat()}
        self._content = b""
        self._lost = False

    @classmethod
    def acquire(cls, uri: str, *, owner: str, seconds: float) -> Self:
        """Takes a lease that nobody holds, or whose holder was killed.

        A lease that has not run out yet is watched until it does: a holder that lives renews it before. So a run that
        was killed can be run again at once, and waits for ``seconds`` at most. Clocks should agree to a part of that.

        Raises:
            InputError: its holder lives, and is named.
        """
        found = _read(uri)
        if found is not None and not _is_free(found):
            print(f"lease: held by {_holder(found)}; waiting to see whether that one is still alive", flush=True)
        while found is not None and not _is_free(found):
            time.sleep(POLL_SECONDS)
            now = _read(uri)
            if now != found and now is not None and not _is_free(now):
                raise InputError(f"lease: {uri}: held by {_holder(now)}, which is running: expected one run at a time")
            found = now
        lease = cls(uri, owner, seconds)
        if not lease._swap(found, seconds):
            raise InputError(f"lease: {uri}: another run has just begun: expected one at a time")
        return lease

    def check(self) -> None:
        """Before anything that two runs at once would spoil.

        Raises:
            TemporaryError: the lease ran out before it could be renewed, and may be another's.
        """
        if self._lost or _is_free(self._content):
            raise TemporaryError(f"lease: {self._uri}: lost to another run, or not renewed in time; run again to go on")

    def renew(self) -> None:
        """Prolongs the lease; a store that does not answer is asked again next time, until the lease has run out."""
        try:
            self._lost = self._lost or not self._swap(self._content, self._seconds)
        except (InputError, TemporaryError):
            self._lost = _is_free(self._content)

    def release(self) -> None:
        """Lets others have it; nothing happens where it is lost."""
        self._swap(self._content, 0)

    def _swap(self, expected: bytes | None, seconds: float) -> bool:
        until = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        content = (json.dumps(self._facts | {"until": until}) + "\n").encode()
        if not storage.swap(self._uri, content, expected):
            # A renewal of ours may stand whose answer was lost.
            found = _read(self._uri)
            if found is None or _facts(found).get("id") != self._facts["id"]:
                return False
            if not storage.swap(self._uri, content, found):
                return False
        self._content = content
        return True


@contextmanager
def held(uri: str, *, owner: str, seconds: float) -> Iterator[Lease]:
    """A lease that is renewed in the background.

    Raises:
        InputError: another run holds it.
    """
    lease = Lease.acquire(uri, owner=owner, seconds=seconds)
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(seconds / RENEWALS):
            lease.renew()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        with suppress(InputError, TemporaryError):  # it runs out by itself
            lease.release()


def this_process() -> str:
    """What an owner is called."""
    return f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"


def _read(uri: str) -> bytes | None:
    return storage.read_bytes(uri) if storage.exists(uri) else None


def _facts(content: bytes) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(content)
        datetime.fromisoformat(facts["until"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"lease: not one that a run has written: {content[:60]!r}; delete it") from error
    return facts


def _is_free(content: bytes) -> bool:
    return datetime.fromisoformat(_facts(content)["until"]) <= datetime.now(UTC)


def _holder(content: bytes) -> str:
    facts = _facts(content)
    return f"{facts['owner']} since {facts['since'][:16]} UTC, until {facts['until'][11:19]}"
