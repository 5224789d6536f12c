import os
from pathlib import Path

import pytest
import ray

from llmemb.compute import tasks
from llmemb.compute.request import Request
from llmemb.compute.tasks import TASK_ATTEMPTS, check_memory, run_task
from llmemb.errors import InputError


def lose_worker(folder: Path, times: int) -> int:
    starts = len(list(folder.iterdir()))
    (folder / str(starts)).touch()
    if starts < times:
        os._exit(1)
    return starts


@pytest.mark.slow
def test_a_task_whose_worker_is_lost_is_tried_again_but_not_for_ever(ray_local, tmp_path):
    (tmp_path / "once").mkdir()
    (tmp_path / "always").mkdir()
    assert run_task("export", lose_worker, tmp_path / "once", 1, request=Request(cpus=1)) == 1
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        run_task("export", lose_worker, tmp_path / "always", 100, request=Request(cpus=1))
    assert len(list((tmp_path / "always").iterdir())) == TASK_ATTEMPTS


def test_a_task_that_runs_out_of_memory_is_not_tried_again(ray_local, tmp_path, monkeypatch):
    tries = []

    def out_of_memory(_: object) -> None:
        tries.append(1)
        raise ray.exceptions.OutOfMemoryError("ray's own words")

    monkeypatch.setattr(ray, "get", out_of_memory)
    with pytest.raises(InputError, match="export: a node ran out of memory"):
        run_task("export", lose_worker, tmp_path, 0, request=Request(cpus=1))
    assert len(tries) == 1


def diverge() -> None:
    raise FloatingPointError("epoch 1: loss nan")


def test_numbers_that_stop_being_finite_are_one_line(ray_local):
    with pytest.raises(InputError, match=r"^vectors: epoch 1: loss nan$"):
        run_task("vectors", diverge, request=Request(cpus=1))


def test_a_task_that_no_node_has_memory_for_is_found_out(ray_local, monkeypatch, capsys):
    monkeypatch.setattr(tasks, "NODE_WAIT_SECONDS", 0.1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_memory("export", Request(cpus=1))
    check_memory("export", Request(cpus=1, memory=2**20))
    with pytest.raises(InputError, match="export: no node of the cluster has 32768 GiB of memory and 1 CPU"):
        check_memory("export", Request(cpus=1, memory=2**45))
    with pytest.raises(InputError, match="no node of the cluster has 0 GiB of memory and 1 CPU and 9 GPU"):
        check_memory("parity", Request(cpus=1, gpus=9, memory=2**20))
    assert capsys.readouterr().out == ""  # nobody waits for a second laptop
    monkeypatch.setenv("RAY_ADDRESS", "a cluster, which may start another")
    with pytest.raises(InputError, match="export: no node of the cluster has 32768 GiB of memory and 1 CPU"):
        check_memory("export", Request(cpus=1, memory=2**45))
    assert capsys.readouterr().out == "export: waits for a node with 32768 GiB of memory and 1 CPU\n"
