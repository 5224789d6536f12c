"""What workers tell each other; that of one alone is what it has itself."""

import pytest
import torch

from llmemb.workers import Worker
from tests.scft.process_group import run_workers


def check_collectives(rank: int, num_workers: int) -> None:
    worker = Worker.here()
    assert (worker.rank, worker.num_workers, worker.device) == (rank, num_workers, torch.device("cpu"))
    assert worker.sum(torch.tensor([1, rank])).tolist() == [num_workers, sum(range(num_workers))]
    assert worker.min(torch.tensor([rank, -rank])).tolist() == [0, 1 - num_workers]
    assert worker.max(torch.tensor([rank, -rank])).tolist() == [num_workers - 1, 0]
    assert [part.tolist() for part in worker.gather(torch.tensor([rank, 7]))] == [[r, 7] for r in range(num_workers)]
    assert worker.broadcast(torch.tensor([rank + 5])).tolist() == [5]
    assert worker.from_first(f"of {rank}") == "of 0"
    worker.wait_for_all()


@pytest.mark.slow
def test_all_workers_hear_the_same():
    run_workers(check_collectives, 3)


def test_one_without_a_group_is_alone():
    check_collectives(0, 1)


def share_and_sum(rank: int, num_workers: int) -> None:
    worker, model = Worker.here(), torch.nn.BatchNorm1d(2)
    for values in (model.weight.data, model.bias.data, model.running_mean, model.running_var):
        values.fill_(rank + 3)
    worker.share(model, but={"running_var"})
    assert [values.tolist() for values in (model.weight, model.bias, model.running_mean)] == [[3.0, 3.0]] * 3
    assert model.running_var.tolist() == [rank + 3] * 2
    (model.weight * (rank + 1)).sum().backward()
    worker.sum_gradients(model)
    assert model.weight.grad.tolist() == [sum(range(1, num_workers + 1))] * 2
    assert model.bias.grad.tolist() == [0, 0]


@pytest.mark.slow
def test_workers_start_alike_and_take_the_sum_of_their_gradients():
    run_workers(share_and_sum, 2)


@pytest.mark.parametrize("num_workers", [1, 3, 8])
def test_workers_share_the_rows_out_completely(num_workers):
    parts = [list(range(7))[Worker(rank, num_workers).rows] for rank in range(num_workers)]
    assert sorted(row for part in parts for row in part) == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_a_backbone_leaves_out_stops_no_worker(monkeypatch):
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "left_out": torch.nn.Linear(2, 1)})
    model["used"](torch.ones(1, 2)).sum().backward()
    monkeypatch.setattr(Worker, "sum", lambda self, values: values.mul_(self.num_workers))
    Worker(0, 2).sum_gradients(model)
    assert model["used"].weight.grad.tolist() == [[2, 2]]
    assert not model["left_out"].weight.grad.any()


def test_one_worker_takes_the_step_of_several_where_a_backbone_leaves_something_out():
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "left_out": torch.nn.Linear(2, 1)})
    model["used"](torch.ones(1, 2)).sum().backward()
    Worker().sum_gradients(model)
    assert model["used"].weight.grad.tolist() == [[1, 1]]
    assert model["left_out"].weight.grad.tolist() == [[0, 0]]  # with none at all, its momentum would stand still
