import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray.train

from llmemb import storage
from llmemb.compute import training_record
from llmemb.compute.training import COLLECTIVE_TIMEOUT_SECONDS, train_on_ray, training_workers
from llmemb.errors import InputError, TemporaryError
from llmemb.job import find_told_error


@pytest.mark.parametrize("labels", [None, {"market": "!spot"}])
def test_this_machine_alone_gets_no_other_node_to_train_on(nodes, monkeypatch, capsys, labels):
    monkeypatch.setenv("LLMEMB_DEVICE", "cpu")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        InputError, match=r"^num_workers: this machine has room for \d+ of 99 workers; expected no more"
    ):
        training_workers(99, threads=1, labels=labels)
    with pytest.raises(InputError, match=r"^engine\.threads_per_worker: a worker asks for 64 CPU"):
        training_workers(1, threads=64, labels=labels)
    assert training_workers(4, threads=1, labels=labels).num_workers == 4
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RAY_ADDRESS", "a cluster, which may start more")
    assert training_workers(99, threads=1, labels=labels).num_workers == 99
    assert "training: waits for nodes: there is room for" in capsys.readouterr().out


def test_a_worker_that_trains_has_a_gpu_or_its_threads(nodes, monkeypatch):
    monkeypatch.delenv("LLMEMB_DEVICE", raising=False)
    scaling = training_workers(2, threads=3)
    assert (scaling.use_gpu, scaling.resources_per_worker, scaling.label_selector) == (True, {"GPU": 1}, None)
    monkeypatch.setenv("LLMEMB_DEVICE", "cpu")
    scaling = training_workers(1, threads=3, labels={"market": "spot"})
    found = scaling.use_gpu, scaling.resources_per_worker, scaling.label_selector
    assert found == (False, {"CPU": 3}, {"market": "spot"})


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
        train(waits_for_the_second_worker, tmp_path, max_failures, num_workers=2, error=error, waits_in=waits_in)
    assert str(raised.value) == message
    assert (tmp_path / "starts").read_text().count("start") == 1


def fails_each_time(arguments: dict[str, Any]) -> None:
    with (arguments["folder"] / "starts").open("a") as starts:
        starts.write("start\n")
    number = (arguments["folder"] / "starts").read_text().count("start")
    raise OSError("the disk is busy") if number == 1 else TemporaryError("the store is busy")


@pytest.mark.slow
def test_what_may_pass_is_tried_again_and_what_does_not_in_time_is_no_bad_input(ray_local, tmp_path):
    with pytest.raises(ray.train.TrainingFailedError) as raised:
        train(fails_each_time, tmp_path, max_failures=2)
    assert (tmp_path / "starts").read_text().count("start") == 3
    found = find_told_error(raised.value)
    assert (type(found), str(found)) == (TemporaryError, "the store is busy")


def notes_its_timeout(arguments: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    backend: Any = dist.group.WORLD._get_backend(torch.device("cpu"))
    (arguments["folder"] / "timeout").write_text(str(backend.options._timeout.total_seconds()))


@pytest.mark.slow
def test_workers_wait_for_hours_of_serial_work(ray_local, tmp_path):
    train(notes_its_timeout, tmp_path, max_failures=0)
    assert float((tmp_path / "timeout").read_text()) == COLLECTIVE_TIMEOUT_SECONDS


def counts_on(arguments: dict[str, Any]) -> None:
    import ray.train

    checkpoint, step = ray.train.get_checkpoint(), 1
    if checkpoint is not None:
        with checkpoint.as_directory() as saved:
            step = int(Path(saved, "step").read_text()) + 1
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "step").write_text(str(step))
        ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["s3://conditional/a%20training", "s3a://plain/training"])  # Arrow knows the first
def test_a_record_in_a_store_is_where_the_uri_says(ray_local, tmp_path, object_stores, uri):
    for step in (1, 2):
        result = train(counts_on, tmp_path, 0, storage_uri=uri)
        with result.checkpoint.as_directory() as saved:
            assert Path(saved, "step").read_text() == str(step)
    assert storage.exists(storage.join(uri, "record", training_record.RECORD))
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_record_that_a_kill_cut_off_is_its_copy_again_or_none(ray_local, tmp_path, capsys):
    record = tmp_path / "record" / training_record.RECORD
    assert train(counts_on, tmp_path, 0).metrics["step"] == 1
    assert "cut off" not in capsys.readouterr().out
    record.write_text("")
    assert train(counts_on, tmp_path, 0).metrics["step"] == 2
    assert "was cut off: it goes on from the one before the last" in " ".join(capsys.readouterr().out.split())
    record.write_bytes(record.read_bytes()[:-9])
    (tmp_path / "record" / training_record.COPY).unlink()
    training_record.mend(str(record.parent))
    assert not record.exists()
    assert "was cut off: it begins again" in " ".join(capsys.readouterr().out.split())


def train(
    worker: Any,
    folder: Path,
    max_failures: int,
    storage_uri: str | None = None,
    *,
    num_workers: int = 1,
    **arguments: Any,
) -> Any:
    return train_on_ray(
        worker,
        {"folder": folder, **arguments},
        storage_uri=storage_uri or str(folder),
        name="record",
        scaling=ray.train.ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 1}),
        max_failures=max_failures,
    )
