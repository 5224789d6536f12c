import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmemb import lease, storage
from llmemb.errors import InputError, TemporaryError
from llmemb.lease import Lease, held


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"{tmp_path}/LEASE"


def write(uri: str, *, seconds: float, owner: str = "ann@there") -> None:
    now = datetime.now(UTC)
    facts = {
        "owner": owner,
        "id": "1",
        "since": now.isoformat(),
        "until": (now + timedelta(seconds=seconds)).isoformat(),
    }
    storage.write_json(uri, facts)


def test_a_released_lease_is_free_at_once(uri):
    for owner in ("ann", "bob"):
        with held(uri, owner=owner, seconds=60) as mine:
            mine.check()
            assert storage.read_json(uri)["owner"] == owner


def test_a_lease_that_has_run_out_is_free(uri):
    write(uri, seconds=-1)
    with held(uri, owner="bob", seconds=60):
        assert storage.read_json(uri)["owner"] == "bob"


def test_the_lease_of_a_run_that_was_killed_is_waited_for(uri, capsys, monkeypatch):
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    write(uri, seconds=0.3)
    with held(uri, owner="bob", seconds=60):
        assert "held by ann@there" in capsys.readouterr().out


def test_the_holder_of_a_lease_that_is_renewed_is_named(uri, monkeypatch):
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    with held(uri, owner="ann@there", seconds=0.8), pytest.raises(InputError, match=r"held by ann@there since .* UTC"):
        Lease.acquire(uri, owner="bob", seconds=60)


def test_of_two_that_find_it_free_one_gets_it(uri, monkeypatch):
    write(uri, seconds=-1)
    found = storage.read_bytes(uri)
    Lease.acquire(uri, owner="ann", seconds=60)
    monkeypatch.setattr(lease, "_read", lambda _: found)
    with pytest.raises(InputError, match="another run has just begun"):
        Lease.acquire(uri, owner="bob", seconds=60)
    assert storage.read_json(uri)["owner"] == "ann"


def test_a_lease_that_another_has_taken_is_lost_and_not_touched_again(uri):
    mine = Lease.acquire(uri, owner="ann", seconds=0)
    Lease.acquire(uri, owner="bob", seconds=60)
    mine.renew()
    with pytest.raises(TemporaryError, match="lost to another run"):
        mine.check()
    mine.release()
    assert storage.read_json(uri)["owner"] == "bob"


@pytest.mark.parametrize(("seconds", "is_lost"), [(60, False), (0, True)])
def test_a_store_that_does_not_answer_costs_the_lease_only_once_it_has_run_out(uri, monkeypatch, seconds, is_lost):
    mine = Lease.acquire(uri, owner="ann", seconds=seconds)

    def fails(*_: Any) -> bool:
        raise TemporaryError("no answer")

    monkeypatch.setattr(storage, "swap", fails)
    mine.renew()
    if is_lost:
        with pytest.raises(TemporaryError, match="not renewed in time"):
            mine.check()
    else:
        mine.check()


@pytest.mark.parametrize("content", ["", "{}", json.dumps({"until": "soon"}), "[]"])
def test_what_is_no_lease_is_one_line(uri, content):
    storage.write_bytes(uri, content.encode())
    with pytest.raises(InputError, match="not one that a run has written"):
        Lease.acquire(uri, owner="ann", seconds=60)


def test_a_renewal_whose_answer_was_lost_is_still_ones_own(uri, monkeypatch):
    mine = Lease.acquire(uri, owner="ann", seconds=60)
    swap = storage.swap

    def written_and_unanswered(*arguments: Any) -> bool:
        assert swap(*arguments)
        raise TemporaryError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "swap", written_and_unanswered)
        mine.renew()
    mine.renew()
    mine.check()
    mine.release()
    with held(uri, owner="bob", seconds=60):
        assert storage.read_json(uri)["owner"] == "bob"


def test_a_lease_that_cannot_be_given_back_runs_out_by_itself(uri, monkeypatch):
    def fails(*_: Any) -> bool:
        raise TemporaryError("no answer")

    with held(uri, owner="ann", seconds=60):
        before = storage.read_bytes(uri)
        monkeypatch.setattr(storage, "swap", fails)
    assert storage.read_bytes(uri) == before
    assert lease._is_free(before) is False


def test_a_lease_that_nobody_renewed_in_time_is_not_held_any_more(uri):
    mine = Lease.acquire(uri, owner="ann", seconds=0)
    with pytest.raises(TemporaryError, match="not renewed in time"):
        mine.check()
