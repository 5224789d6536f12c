import pytest
import ray

from llmemb.compute.nodes import check_room, cpu_threads, say_if_waiting, worker_threads
from llmemb.compute.request import Request
from llmemb.errors import InputError


@pytest.mark.parametrize(("num_workers", "threads"), [(1, 6), (2, 4), (3, 3), (4, 2), (5, 2), (6, 1), (100, 1)])
def test_workers_get_the_threads_that_let_all_find_room_on_single_nodes(nodes, num_workers, threads):
    assert cpu_threads(num_workers) == threads


def test_threads_are_those_of_the_nodes_that_work_may_run_on(nodes):
    assert cpu_threads(1, {"market": "!spot"}) == 4


def test_a_cluster_without_a_node_that_computes_yet_has_one_thread_for_each(nodes):
    del nodes[1:3]
    assert cpu_threads(2) == 1


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
    assert worker_threads(1) == 1
    own_gpus.append("0")
    assert worker_threads(1) == 6 // 2


@pytest.mark.parametrize(
    ("num_workers", "asked", "said"),
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
def test_it_is_said_when_workers_have_no_room(nodes, capsys, num_workers, asked, said):
    say_if_waiting("embed", num_workers, asked)
    assert capsys.readouterr().out == (f"embed: waits for nodes: {said}\n" if said else "")


def test_a_worker_that_would_wait_for_ever_on_this_machine_alone_is_refused(nodes, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_room("study", Request(cpus=6), setting="trials.cpus")
    wanted = r"; expected no more, or a cluster to run on \(RAY_ADDRESS\)$"
    with pytest.raises(InputError, match=rf"^trials\.cpus: a worker asks for 8 CPU; this machine has 6 CPU{wanted}"):
        check_room("study", Request(cpus=8), setting="trials.cpus")
    elsewhere = Request(cpus=2, labels={"market": "none"})  # no fault of its CPUs
    with pytest.raises(InputError, match=r"^study: a worker asks for 2 CPU, market=none; this machine has 6 CPU"):
        check_room("study", elsewhere, setting="trials.cpus")
    monkeypatch.setenv("RAY_ADDRESS", "a cluster, which may start more")
    check_room("study", Request(cpus=8), setting="trials.cpus")
