import os
import socket
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import torch

from llmemb import cluster
from llmemb.cluster import Request
from llmemb.errors import InputError

ALARM = b"E core_worker.cc: Actor 'x' has constructor arguments in the object store and max_restarts > 0. If the\n"


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A head that computes nothing, a node of 4 CPUs, a spot one of 6 CPUs and 2 GPUs, and a dead one."""
    found = [({}, True), ({"CPU": 4.0}, True), ({"CPU": 6.0, "GPU": 2.0}, True), ({"CPU": 64.0}, False)]
    nodes = [{"Resources": resources, "Alive": alive, "Labels": {}} for resources, alive in found]
    nodes[2]["Labels"] = {"market": "spot"}
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 10.0, "GPU": 2.0})
    return nodes


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Request(cpus=2), 3),
        (Request(gpus=1), 2),
        (Request(cpus=4, gpus=1), 1),
        (Request(memory=2**30), 5),
        (Request(cpus=1, memory=2**31), 2),
        (Request(cpus=8), 0),
        (Request(cpus=1, memory=2**40), 0),
    ],
)
def test_a_request_fits_as_often_as_what_there_is_least_of_allows(asked, expected):
    assert asked.fits({"CPU": 6.0, "GPU": 2.0, "memory": 5.5 * 2**30}) == expected
    assert asked.fits({}) == 0


def test_of_what_a_request_does_not_ask_for_ray_hears_nothing():
    assert Request(cpus=2).options == {"num_cpus": 2, "num_gpus": 0}
    assert Request(cpus=2).resources == {"CPU": 2}
    labels = {"market": "!spot"}
    full = Request(cpus=1, gpus=2, memory=3 * 2**30, labels=labels)
    assert full.options == {"num_cpus": 1, "num_gpus": 2, "memory": 3 * 2**30, "label_selector": labels}
    assert full.parts == ["3 GiB of memory", "1 CPU", "2 GPU"]


@pytest.mark.parametrize(("num_workers", "threads"), [(1, 6), (2, 4), (3, 3), (4, 2), (5, 2), (6, 1), (100, 1)])
def test_workers_get_the_threads_that_let_all_find_room_on_single_nodes(nodes, num_workers, threads):
    assert cluster.cpu_threads(num_workers) == threads


def test_threads_are_those_of_the_nodes_that_work_may_run_on(nodes):
    assert cluster.cpu_threads(1, {"market": "!spot"}) == 4


def test_a_cluster_without_a_node_that_computes_yet_has_one_thread_for_each(nodes):
    del nodes[1:3]
    assert cluster.cpu_threads(2) == 1


@pytest.fixture
def own_gpus(nodes, monkeypatch) -> list[str]:
    """Those of the worker that asks, on the third node."""
    gpus: list[str] = []

    class Context:
        def get_accelerator_ids(self) -> dict[str, list[str]]:
            return {"GPU": gpus}

        def get_node_id(self) -> str:
            return "2"

    for number, node in enumerate(nodes):
        node["NodeID"] = str(number)
    monkeypatch.setattr(ray, "get_runtime_context", Context)
    return gpus


def test_a_worker_with_a_gpu_has_that_gpus_share_of_its_nodes_cpus(own_gpus):
    assert cluster.worker_threads(1) == 1
    own_gpus.append("0")
    assert cluster.worker_threads(1) == 6 // 2


def test_beside_a_gpu_one_cpu_is_asked_for_whatever_the_largest_node_has(nodes, monkeypatch, capsys):
    monkeypatch.delenv("LLMEMB_DEVICE", raising=False)
    nodes[1]["Resources"]["CPU"] = 96.0
    request = cluster.worker_request(cluster.cpu_threads(1))
    assert request == Request(cpus=1, gpus=1)
    cluster.say_if_waiting("rat", 2, request)
    assert capsys.readouterr().out == ""
    assert cluster.worker_request(96, beside_gpu=4) == Request(cpus=4, gpus=1)
    monkeypatch.setenv("LLMEMB_DEVICE", "cpu")
    assert cluster.worker_request(96, {"market": "spot"}) == Request(cpus=96, labels={"market": "spot"})


def test_a_gpu_that_pytorch_does_not_see_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cluster.check_gpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"Ray counts a GPU that PyTorch does not see; expected NVIDIA's driver .*$"):
        cluster.check_gpu()


@pytest.mark.parametrize(
    ("num_workers", "request_", "said"),
    [
        (5, Request(cpus=2), ""),
        (3, Request(cpus=4), "there is room for 2 of 3 workers (4 CPU each)"),
        (3, Request(cpus=1, gpus=1), "there is room for 2 of 3 workers (1 CPU, 1 GPU each)"),
        (1, Request(gpus=4), "there is room for 0 of 1 workers (4 GPU each)"),
        (6, Request(cpus=1, labels={"market": "spot"}), ""),
        (4, Request(cpus=1, labels={"market": "!spot"}), ""),
        (
            5,
            Request(cpus=1, labels={"market": "!spot"}),
            "there is room for 4 of 5 workers (1 CPU each, market=!spot)",
        ),
        (
            1,
            Request(cpus=1, labels={"market": "spot", "zone": "a"}),
            "there is room for 0 of 1 workers (1 CPU each, market=spot, zone=a)",
        ),
    ],
)
def test_it_is_said_when_workers_have_no_room(nodes, capsys, num_workers, request_, said):
    cluster.say_if_waiting("embed", num_workers, request_)
    assert capsys.readouterr().out == (f"embed: waits for nodes: {said}\n" if said else "")


@pytest.mark.parametrize("labels", [None, {"market": "!spot"}])
def test_this_machine_alone_gets_no_other_node_to_train_on(nodes, monkeypatch, capsys, labels):
    monkeypatch.setenv("LLMEMB_DEVICE", "cpu")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        InputError, match=r"^num_workers: this machine has room for \d+ of 99 workers; expected no more"
    ):
        cluster.training_workers(99, threads=1, labels=labels)
    assert cluster.training_workers(4, threads=1, labels=labels).num_workers == 4
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RAY_ADDRESS", "a cluster, which may start more")
    assert cluster.training_workers(99, threads=1, labels=labels).num_workers == 99
    assert "training: waits for nodes: there is room for" in capsys.readouterr().out


@pytest.mark.parametrize(("device", "gpus", "expected"), [("auto", 0, False), ("auto", 1, True), ("gpu", 0, True)])
def test_a_cluster_that_has_no_gpu_yet_can_say_that_it_will(monkeypatch, device, gpus, expected):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": gpus} if gpus else {})
    monkeypatch.setenv("LLMEMB_DEVICE", device)
    assert cluster.has_gpus() is expected


@pytest.mark.parametrize(
    ("wanted", "seen", "expected"), [("auto", True, "cuda"), ("cpu", True, "cpu"), ("gpu", False, "cpu")]
)
def test_a_process_leaves_its_gpu_alone_where_that_is_asked_for(monkeypatch, wanted, seen, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    monkeypatch.setenv("LLMEMB_DEVICE", wanted)
    assert cluster.own_device() == expected


def test_another_device_is_a_mistake(monkeypatch):
    monkeypatch.setenv("LLMEMB_DEVICE", "tpu")
    with pytest.raises(InputError, match="LLMEMB_DEVICE: expected one of auto, cpu, gpu, got 'tpu'"):
        cluster.has_gpus()
    with pytest.raises(InputError, match="LLMEMB_DEVICE: expected one of auto, cpu, gpu, got 'tpu'"):
        cluster.own_device()


def test_of_what_native_code_says_one_false_alarm_alone_is_kept_back(capfd):
    with cluster.quiet_actor_pools():
        os.write(2, b"before\n" + ALARM + b"E core_worker.cc: a real error\n" + b"cut off")
    os.write(2, b"\nafter\n")
    assert capfd.readouterr().err == "before\nE core_worker.cc: a real error\ncut off\nafter\n"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_one_line_at_once(monkeypatch, scheme):
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray would try for minutes"))
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InputError, match=f"RAY_ADDRESS: no Ray cluster answers at {address}$"):
            cluster.connect()


def test_no_cluster_to_be_found_is_one_line(monkeypatch):
    def unreachable(**_: object) -> None:
        raise ConnectionError("ray's own words")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", unreachable)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(InputError, match="RAY_ADDRESS: no Ray cluster answers at auto"):
        cluster.connect()


def waits_for_the_second_worker(arguments: dict[str, Any]) -> None:
    import ray.train
    import torch.distributed as dist

    if ray.train.get_context().get_world_rank() == 1:
        with (arguments["folder"] / "starts").open("a") as starts:
            starts.write("start\n")
        raise arguments["error"]
    if arguments["waits_in"] == "barrier":
        dist.barrier()
    else:
        ray.train.report({})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "waits_in", "max_failures", "message"),
    [
        (InputError("items: what is wrong"), "barrier", 2, "items: what is wrong"),
        (FloatingPointError("step 3: loss nan"), "report", 0, "training: step 3: loss nan"),
    ],
)
def test_bad_input_on_one_worker_ends_those_that_wait_for_it(
    ray_local, tmp_path, error, waits_in, max_failures, message
):
    with pytest.raises(InputError) as raised:
        train(waits_for_the_second_worker, tmp_path, max_failures, error=error, waits_in=waits_in)
    assert str(raised.value) == message
    assert (tmp_path / "starts").read_text().count("start") == 1


def fails_once(arguments: dict[str, Any]) -> None:
    marker = arguments["folder"] / "failed"
    if not marker.exists():
        marker.touch()
        raise OSError("the store is busy")


@pytest.mark.slow
def test_what_may_pass_is_tried_again(ray_local, tmp_path):
    train(fails_once, tmp_path, max_failures=2)
    assert (tmp_path / "failed").exists()


def notes_its_timeout(arguments: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    backend: Any = dist.group.WORLD._get_backend(torch.device("cpu"))
    (arguments["folder"] / "timeout").write_text(str(backend.options._timeout.total_seconds()))


@pytest.mark.slow
def test_workers_wait_for_hours_of_serial_work(ray_local, tmp_path):
    train(notes_its_timeout, tmp_path, max_failures=0)
    assert float((tmp_path / "timeout").read_text()) == cluster.COLLECTIVE_TIMEOUT_SECONDS


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
    assert cluster.run_task("export", lose_worker, tmp_path / "once", 1, request=Request(cpus=1)) == 1
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        cluster.run_task("export", lose_worker, tmp_path / "always", 100, request=Request(cpus=1))
    assert len(list((tmp_path / "always").iterdir())) == cluster.TASK_ATTEMPTS


def test_a_task_that_runs_out_of_memory_is_not_tried_again(ray_local, tmp_path, monkeypatch):
    tries = []

    def out_of_memory(_: object) -> None:
        tries.append(1)
        raise ray.exceptions.OutOfMemoryError("ray's own words")

    monkeypatch.setattr(ray, "get", out_of_memory)
    with pytest.raises(InputError, match="export: a node ran out of memory"):
        cluster.run_task("export", lose_worker, tmp_path, 0, request=Request(cpus=1))
    assert len(tries) == 1


def test_a_task_that_no_node_has_memory_for_is_found_out(ray_local, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "NODE_WAIT_SECONDS", 0.1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster.check_memory("export", Request(cpus=1))
    cluster.check_memory("export", Request(cpus=1, memory=2**20))
    with pytest.raises(InputError, match="export: no node of the cluster has 32768 GiB of memory and 1 CPU"):
        cluster.check_memory("export", Request(cpus=1, memory=2**45))
    with pytest.raises(InputError, match="no node of the cluster has 0 GiB of memory and 1 CPU and 9 GPU"):
        cluster.check_memory("parity", Request(cpus=1, gpus=9, memory=2**20))
    assert capsys.readouterr().out == ""  # nobody waits for a second laptop
    monkeypatch.setenv("RAY_ADDRESS", "a cluster, which may start another")
    with pytest.raises(InputError, match="export: no node of the cluster has 32768 GiB of memory and 1 CPU"):
        cluster.check_memory("export", Request(cpus=1, memory=2**45))
    assert capsys.readouterr().out == "export: waits for a node with 32768 GiB of memory and 1 CPU\n"


def train(worker: Any, folder: Path, max_failures: int, **arguments: Any) -> None:
    cluster.train_on_ray(
        worker,
        {"folder": folder, **arguments},
        storage_uri=str(folder),
        name="record",
        scaling=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        max_failures=max_failures,
    )
