"""Which trials can begin."""

from pathlib import Path

import pytest

from llmemb.errors import InputError, TemporaryError
from llmemb.rat.config import RatConfig
from llmemb.rat.recommender import RECOMMENDER_FILE
from llmemb.study import queue as queues
from llmemb.study.queue import TrialQueue


def trial(name: str, root: str = "/trials", **values: object) -> RatConfig:
    return RatConfig.model_validate({"dataset": "/data", "output": f"{root}/{name}", "method": "none"} | values)


def taken(queue: TrialQueue) -> list[str]:
    """The names of all that can begin now."""
    found = []
    while (config := queue.take()) is not None:
        found.append(config.output.rpartition("/")[2])
    return found


@pytest.mark.parametrize("told", ["finished", "failed"])
@pytest.mark.parametrize("there", [True, False])
def test_a_trial_waits_for_what_it_starts_from_and_is_left_where_that_is_not_there(tmp_path, there, told):
    names = ["needs 0", "needs 1", "ids 0", "ids 1", "other"]
    starts_from = {f"{tmp_path}/needs {seed}": f"{tmp_path}/ids {seed}" for seed in (0, 1)}
    queue = TrialQueue([trial(name, str(tmp_path)) for name in names], starts_from)
    assert taken(queue) == ["ids 0", "ids 1", "other"]
    queue.end(f"{tmp_path}/other", failed=True)
    for name in ["ids 0"] + ["ids 1"] * there:
        (tmp_path / name).mkdir()
        (tmp_path / name / RECOMMENDER_FILE).touch()
    queue.end(f"{tmp_path}/ids 1", failed=told == "failed")  # which its process may not have lived to say
    assert taken(queue) == ["needs 1"] * there
    assert not queue.is_empty()
    queue.end(f"{tmp_path}/ids 0", failed=False)
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


@pytest.mark.parametrize("error", [TemporaryError("no answer"), InputError("not permitted")])
def test_a_store_that_does_not_answer_is_asked_again_and_ends_nothing(tmp_path, monkeypatch, error):
    answers: list[Exception | bool] = [error, error, True]

    def exists(uri: str) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(queues, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(queues.storage, "exists", exists)
    queue = TrialQueue([trial(name, content_maps=str(tmp_path / "maps")) for name in ("first", "second")])
    assert taken(queue) == ["first"]
    assert taken(queue) == ["second"]
