import pytest

from llmemb.compute.nodes import cpu_threads, say_if_waiting
from llmemb.compute.request import Request, worker_request


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
    assert asked.room_in({"CPU": 6.0, "GPU": 2.0, "memory": 5.5 * 2**30}) == expected
    assert asked.room_in({}) == 0


def test_of_what_a_request_does_not_ask_for_ray_hears_nothing():
    assert Request(cpus=2).options == {"num_cpus": 2, "num_gpus": 0}
    assert Request(cpus=2).resources == {"CPU": 2}
    labels = {"market": "!spot"}
    full = Request(cpus=1, gpus=2, memory=3 * 2**30, labels=labels)
    assert full.options == {"num_cpus": 1, "num_gpus": 2, "memory": 3 * 2**30, "label_selector": labels}
    assert full.parts == ["3 GiB of memory", "1 CPU", "2 GPU"]


def test_beside_a_gpu_one_cpu_is_asked_for_whatever_the_largest_node_has(nodes, monkeypatch, capsys):
    monkeypatch.delenv("LLMEMB_DEVICE", raising=False)
    nodes[1]["Resources"]["CPU"] = 96.0
    request = worker_request(cpu_threads(1))
    assert request == Request(cpus=1, gpus=1)
    say_if_waiting("rat", 2, request)
    assert capsys.readouterr().out == ""
    assert worker_request(96, beside_gpu=4) == Request(cpus=4, gpus=1)
    monkeypatch.setenv("LLMEMB_DEVICE", "cpu")
    assert worker_request(96, {"market": "spot"}) == Request(cpus=96, labels={"market": "spot"})
