"""Which trials can begin."""

from pathlib import Path

import pytest

from llmemb.rat.config import RatConfig
from llmemb.study import queue as queues
from llmemb.study.queue import TrialQueue


def trial(name: str, **values: object) -> RatConfig:
    return RatConfig.model_validate({"dataset": "/data", "output": f"/trials/{name}", "method": "none"} | values)


def taken(queue: TrialQueue) -> list[str]:
    """The names of all that can begin now."""
    found = []
    while (config := queue.take()) is not None:
        found.append(config.output.removeprefix("/trials/"))
    return found


@pytest.mark.parametrize("failed", [False, True])
def test_a_trial_waits_for_what_it_starts_from_and_is_left_where_that_fails(failed):
    names = ["needs 0", "needs 1", "ids 0", "ids 1", "other"]
    starts_from = {f"/trials/needs {seed}": f"/trials/ids {seed}" for seed in (0, 1)}
    queue = TrialQueue([trial(name) for name in names], starts_from)
    assert taken(queue) == ["ids 0", "ids 1", "other"]
    queue.end("/trials/other", failed=True)
    queue.end("/trials/ids 1", failed=failed)
    assert taken(queue) == ([] if failed else ["needs 1"])
    assert not queue.is_empty()
    queue.end("/trials/ids 0", failed=False)
    assert not queue.is_empty()
    assert taken(queue) == ["needs 0"]
    assert queue.is_empty()


def test_what_starts_from_one_of_an_earlier_run_waits_for_nothing():
    queue = TrialQueue([trial("one")])
    assert taken(queue) == ["one"]
    assert queue.is_empty()


@pytest.mark.parametrize("failed", [False, True])
def test_one_learns_what_several_have_in_common_and_the_others_wait(tmp_path, monkeypatch, failed):
    monkeypatch.setattr(queues, "LOOK_SECONDS", 0.0)
    maps = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    queue = TrialQueue([trial(f"{name} {number}", content_maps=maps[number]) for name in "xyz" for number in (0, 1)])
    assert taken(queue) == ["x 0", "x 1"]
    if failed:
        queue.end("/trials/x 0", failed=True)
        assert taken(queue) == ["y 0"]
    else:
        Path(maps[0]).touch()  # while it still trains
        assert taken(queue) == ["y 0", "z 0"]
    queue.end("/trials/x 1", failed=False)  # which had them already, in a file that is not there any more
    assert taken(queue) == ["y 1"]


def test_item_vectors_are_there_when_their_manifest_is(tmp_path, monkeypatch):
    monkeypatch.setattr(queues, "LOOK_SECONDS", 0.0)
    queue = TrialQueue([trial(name, item_vectors=str(tmp_path)) for name in ("first", "second")])
    assert taken(queue) == ["first"]
    (tmp_path / "vectors.safetensors").touch()
    assert taken(queue) == []
    (tmp_path / "manifest.json").touch()
    assert taken(queue) == ["second"]


def test_the_store_is_not_asked_all_the_time(tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(queues.storage, "exists", lambda uri: asked.append(uri) is not None)
    queue = TrialQueue([trial(name, content_maps=str(tmp_path / "maps")) for name in ("first", "second")])
    for _ in range(100):
        taken(queue)
    assert len(asked) == 1
