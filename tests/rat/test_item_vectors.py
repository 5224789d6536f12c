"""The task on the cluster that learns item vectors; what it learns is tested in ``tests/rat/methods``."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmemb import storage
from llmemb.compute.request import Request
from llmemb.data.dataset import Dataset
from llmemb.encoder.folder import EncoderFolder
from llmemb.errors import InputError
from llmemb.rat import item_vectors
from llmemb.rat.config import EngineConfig, RatConfig, TrainingConfig
from llmemb.rat.item_vectors import ensure_item_vectors
from llmemb.rat.methods import METHODS
from llmemb.rat.recommender import read_vectors
from llmemb.rat.run import run_rat


@pytest.fixture
def config(tiny_dataset: str, tiny_encoder: Path) -> RatConfig:
    settings = {
        "dataset": tiny_dataset,
        "output": "o",
        "base_model": str(tiny_encoder),
        "prompt": {"attributes": ["title", "brand"]},
        "method": "said",
        "said": {"epochs": 2},
        "model": {"hidden_dim": 8},
        "engine": {"threads_per_worker": 1},
        "node_labels": {"market": "!spot"},
    }
    return RatConfig.model_validate(settings)


@pytest.mark.slow
def test_vectors_are_learnt_by_a_task_with_memory_for_the_model(ray_local, config, tmp_path, monkeypatch, capsys):
    asked: list[Request] = []
    run_task = item_vectors.run_task

    def watched(work: str, function: Any, *arguments: Any, request: Request) -> Any:
        asked.append(request)
        return run_task(work, function, *arguments, request=request)

    monkeypatch.setattr(item_vectors, "run_task", watched)
    monkeypatch.setattr(item_vectors, "float32_memory", lambda num_parameters: 4 * num_parameters)
    assert ensure_item_vectors(config, Dataset.open(config.dataset), None, str(tmp_path), base_model="model") > 0
    num_parameters = EncoderFolder.read(Path(config.base_model or "")).num_parameters
    assert asked == [Request(cpus=1, memory=4 * num_parameters, labels={"market": "!spot"})]
    assert "rat: SAID's item vectors: 2/2 epochs" in capsys.readouterr().out
    assert read_vectors(str(tmp_path))[1].shape == (40, 8)


def test_in_a_trial_its_epochs_and_its_time_count(config, tmp_path, monkeypatch):
    def slowly(*arguments: Any) -> None:
        time.sleep(2.0)
        write_vectors(*arguments)

    write_vectors = item_vectors.write_vectors
    monkeypatch.setattr(item_vectors, "write_vectors", slowly)
    training = TrainingConfig(max_epochs=2, batch_positions=64)
    vectors = f"{tmp_path}/vectors"
    told: dict[str, list[tuple[int, int]]] = {}
    seconds = []
    for name in ("first", "second"):
        trial = config.model_copy(
            update={"output": f"{tmp_path}/{name}", "item_vectors": vectors, "training": training}
        )
        run_rat(trial, here=True, tell=lambda done, total, _: told.setdefault(name, []).append((done, total)))  # noqa: B023
        seconds.append(storage.read_json(f"{trial.output}/metrics.json")["seconds"])
    assert told == {"first": [(1, 4), (2, 4), (3, 4), (4, 4)], "second": [(3, 4), (4, 4)]}
    assert seconds[0] > seconds[1] + 1.0


def test_vectors_that_are_no_numbers_are_told_and_not_kept(config, tmp_path, monkeypatch):
    broken = torch.zeros(40, 8)
    broken[[3, 7], 2] = torch.tensor([torch.nan, torch.inf])
    monkeypatch.setitem(METHODS, "said", replace(METHODS["said"], learn_vectors=lambda *_: broken))
    with pytest.raises(FloatingPointError, match=r"SAID: 2 of 40 item vectors are NaN .* lower said.learning_rate"):
        ensure_item_vectors(config, Dataset.open(config.dataset), None, str(tmp_path), base_model="model", here=True)
    assert not list(tmp_path.iterdir())


def test_a_model_that_no_node_has_memory_for_is_found_out(ray_local, config, tmp_path, monkeypatch):
    monkeypatch.setattr(item_vectors, "float32_memory", lambda _: 2**45)
    with pytest.raises(InputError, match="rat: SAID's item vectors: no node of the cluster has 32768 GiB of memory"):
        ensure_item_vectors(config, Dataset.open(config.dataset), None, str(tmp_path), base_model="model")
    assert not list(tmp_path.iterdir())


def test_more_threads_than_this_machine_alone_has_are_refused(ray_local, config, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = config.model_copy(update={"engine": EngineConfig(threads_per_worker=64)})
    with pytest.raises(InputError, match=r"^engine\.threads_per_worker: a worker asks for 64 CPU, market=!spot"):
        ensure_item_vectors(config, Dataset.open(config.dataset), None, str(tmp_path), base_model="model")
    assert not list(tmp_path.iterdir())
