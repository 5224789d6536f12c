import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from llmemb.errors import InputError
from llmemb.tracking import open_trackers


def test_tensorboard_files_are_written_below_the_output(tmp_path):
    (tracker,) = open_trackers(["tensorboard"], output=str(tmp_path), job="scft")
    tracker.log(3, {"loss": 0.5})
    tracker.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in file.read_bytes()


def test_mlflow_goes_on_with_the_run_of_the_same_output(monkeypatch):
    mlflow = MagicMock()
    mlflow.search_runs.return_value = [SimpleNamespace(info=SimpleNamespace(run_id="first"))]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    (tracker,) = open_trackers(["mlflow"], output="s3://bucket/encoder", job="scft")
    tracker.log(3, {"next_item_ndcg@10": 0.5})
    mlflow.start_run.assert_called_once_with(run_id="first")
    mlflow.log_metrics.assert_called_once_with({"next_item_ndcg_at_10": 0.5}, step=3)


def test_weights_and_biases_names_its_run_by_the_output(monkeypatch):
    wandb = MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for output in ("s3://bucket/a", "s3://bucket/b", "s3://bucket/a"):
        open_trackers(["wandb"], output=output, job="scft")[0].log(1, {"loss": 2.0})
    ids = [call.kwargs["id"] for call in wandb.init.call_args_list]
    assert ids[0] == ids[2] != ids[1]
    wandb.init.return_value.log.assert_called_with({"loss": 2.0}, step=1)


def test_one_that_is_not_installed_is_a_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="trackers: wandb is not installed on this worker: pip install wandb"):
        open_trackers(["wandb"], output="x", job="scft")
