"""Trials as Ray Tune runs them."""

import json
import os
import shutil
from typing import Any

import pytest

from llmemb import storage
from llmemb.errors import InputError, TemporaryError
from llmemb.progress import Tell
from llmemb.rat.config import EngineConfig, RatConfig
from llmemb.rat.recommender import Recommender
from llmemb.study import trials
from llmemb.study.board import EpochBoard
from llmemb.study.config import TrialsConfig
from llmemb.study.trials import Outcome, run_trials

SMALL = {
    "model": {"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 4, "dropout": 0.0},
    "training": {"max_epochs": 2, "batch_positions": 64},
}


@pytest.mark.slow
def test_one_trial_fails_and_the_others_are_trained_and_kept_in_an_order_in_which_they_can_be(
    tiny_dataset, ray_local, tmp_path, capsys
):
    methods = {"in vain": "none", "later": "none", "melt": "melt", "ids": "none"}
    outputs = {name: str(tmp_path / "trials" / name) for name in methods}
    configs = [
        RatConfig.model_validate({"dataset": tiny_dataset, "output": outputs[name], "method": method} | SMALL)
        for name, method in methods.items()
    ]
    starts_from = {outputs["in vain"]: outputs["melt"], outputs["later"]: outputs["ids"]}
    settings = TrialsConfig(max_concurrent=2)
    ended = run_trials(configs, title="test", output=str(tmp_path), settings=settings, starts_from=starts_from)
    in_vain, later, failed, good = ended
    assert failed.reason is not None
    assert "all are as short" in failed.reason
    assert "\n" not in failed.reason
    assert in_vain.reason == f"the ID-only recommender that it starts from failed: {failed.reason}"
    assert not storage.exists(outputs["in vain"])
    assert good.reason is later.reason is None
    assert good.num_epochs == later.num_epochs == 2
    begun, finished = tmp_path / "trials" / "later" / "config.yaml", tmp_path / "trials" / "ids" / "recommender.json"
    assert begun.stat().st_mtime > finished.stat().st_mtime
    assert Recommender.load(outputs["ids"]).label == "SASRec"
    assert not (tmp_path / "ray_tune").exists()
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("study: test: ")][-1]
    assert last.startswith("study: test: 4/4 epochs")
    assert last.endswith("trials 4/4  failed 2")
    before = storage.read_bytes(f"{outputs['ids']}/metrics.json")
    assert run_trials(configs[3:], title="test", output=str(tmp_path), settings=TrialsConfig()) == [good]
    assert storage.read_bytes(f"{outputs['ids']}/metrics.json") == before


@pytest.mark.slow
def test_a_trial_whose_process_is_lost_goes_on_and_bad_input_is_not_tried_again(
    tiny_dataset, ray_local, tmp_path, monkeypatch, object_stores
):
    begun, really = tmp_path / "begun", trials._run

    def run(settings: dict[str, Any], tell: Tell, *, on_gpu: bool) -> dict[str, str]:
        with begun.open("a") as file:
            file.write(f"{settings['method']}\n")
        if settings["method"] == "none" and begun.read_text().count("none") < 2:
            os._exit(1)
        return really(settings, tell, on_gpu=on_gpu)

    monkeypatch.setattr(trials, "_run", run)
    common = {"dataset": tiny_dataset, **SMALL}
    configs = [
        RatConfig.model_validate(common | {"output": str(tmp_path / "trials" / method), "method": method})
        for method in ("none", "melt")  # the first one is tried again, and ends after the second
    ]
    settings = TrialsConfig(max_concurrent=2)
    good, failed = run_trials(configs, title="test", output=str(tmp_path), settings=settings)
    assert good.reason is None
    assert "all are as short" in str(failed.reason)
    assert sorted(begun.read_text().split()) == ["melt", "none", "none"]
    shutil.rmtree(configs[0].output)
    begun.unlink()
    lost = configs[0].model_copy(update={"engine": EngineConfig(max_failures=0)})
    # In a store that Arrow does not know by this name.
    [outcome] = run_trials([lost], title="test", output="s3a://plain/study", settings=TrialsConfig())
    assert outcome.reason is not None
    assert begun.read_text() == "none\n"


def test_a_backbone_that_a_trials_process_cannot_import_is_told_in_one_line(tiny_dataset, tmp_path):
    settings = {"dataset": tiny_dataset, "output": str(tmp_path), "method": "none", "backbone": "not_here.models:Own"}
    told = trials._run(settings, lambda *_: None, on_gpu=False)
    assert told["failed"].startswith("config: backbone: no backbone 'not_here.models:Own': No module named 'not_here'")


def test_more_cpus_for_a_trial_than_this_machine_alone_has_are_refused(tiny_dataset, ray_local, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = RatConfig.model_validate({"dataset": tiny_dataset, "output": str(tmp_path / "none"), "method": "none"})
    with pytest.raises(InputError, match=r"^trials\.cpus: a worker asks for 64 CPU; this machine has 2 CPU"):
        run_trials([config], title="test", output=str(tmp_path), settings=TrialsConfig(cpus=64))
    assert not list(tmp_path.iterdir())


def test_an_outage_is_raised_for_tune_to_try_the_trial_again_and_bad_input_is_its_reason(monkeypatch):
    failures: list[Exception] = [RuntimeError("a worker failed"), InputError("dataset: what is wrong")]
    failures[0].__cause__ = TemporaryError("s3://bucket: no answer")

    def fails(*_: object, **__: object) -> None:
        raise failures.pop(0)

    monkeypatch.setattr(trials, "run_rat", fails)
    settings = {"dataset": "unused", "output": "unused", "method": "none"}
    with pytest.raises(RuntimeError, match="a worker failed") as raised:
        trials._run(settings, print, on_gpu=False)
    assert trials.reason_of(raised.value) == "s3://bucket: no answer"
    assert trials._run(settings, print, on_gpu=False) == {"failed": "dataset: what is wrong"}


@pytest.mark.parametrize("content", [None, '{"valid', "[]", '{"seconds": 1.0}', '{"validation": {"ndcg@10": null}}'])
def test_a_finished_trial_without_its_figures_is_a_failed_one(tiny_dataset, tmp_path, content):
    whole = {"validation": {"ndcg@10": 0.1}, "seconds": 2.0, "peak_memory_mib": 3.0, "epochs": [{}]}
    configs = []
    for name, text in (("damaged", content), ("whole", json.dumps(whole))):
        output = tmp_path / name
        output.mkdir()
        (output / "recommender.json").write_text("{}")
        if text is not None:
            (output / "metrics.json").write_text(text)
        configs.append(RatConfig.model_validate({"dataset": tiny_dataset, "output": str(output), "method": "none"}))
    damaged, good = run_trials(configs, title="test", output=str(tmp_path), settings=TrialsConfig())
    expected = "its metrics.json is damaged; remove the recommender to have it trained again: "
    assert str(damaged.reason).startswith(expected)
    assert "\n" not in str(damaged.reason)
    assert good == Outcome(None, 0.1, 2.0, 3.0, 1)


def test_the_board_counts_the_epochs_that_are_left():
    board = EpochBoard()
    board.plan({"long": 24, "stops": 24, "untrained": 1, "fails": 24})
    assert board.read() == (0, 73, {"trials": "0/4", "failed": 0})
    board.tell("long", 5)
    board.tell("stops", 7)
    board.tell("fails", 2)
    assert board.read() == (14, 73, {"trials": "0/4", "failed": 0})
    board.end("stops", failed=False)
    board.end("untrained", failed=False)
    board.end("fails", failed=True)
    assert board.read() == (5 + 7 + 1 + 2, 24 + 7 + 1 + 2, {"trials": "3/4", "failed": 1})
    board.tell("long", 24)
    assert board.read()[0] == 33  # its recommender is not written yet
    board.end("long", failed=False)
    assert board.read() == (34, 34, {"trials": "4/4", "failed": 1})
