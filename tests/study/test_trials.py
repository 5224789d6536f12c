"""Trials as Ray Tune runs them."""

import pytest

from llmemb import storage
from llmemb.rat.config import RatConfig
from llmemb.rat.recommender import Recommender
from llmemb.study.config import TrialsConfig
from llmemb.study.trials import run_trials

SMALL = {
    "model": {"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 4, "dropout": 0.0},
    "training": {"max_epochs": 2, "batch_positions": 64},
}


@pytest.mark.slow
def test_one_trial_fails_and_the_other_is_trained_and_kept(tiny_dataset, ray_local, tmp_path, capsys):
    configs = [
        RatConfig.model_validate(
            {"dataset": tiny_dataset, "output": str(tmp_path / "trials" / method), "method": method} | SMALL
        )
        for method in ("melt", "none")
    ]
    failed, good = run_trials(configs, title="test", output=str(tmp_path), settings=TrialsConfig(max_concurrent=2))
    assert failed.reason is not None
    assert "all are as short" in failed.reason
    assert "\n" not in failed.reason
    assert good.reason is None
    assert good.num_epochs == 2
    assert Recommender.load(configs[1].output).label == "SASRec"
    assert not (tmp_path / "ray_tune").exists()
    assert "study: test: 2/2 trials" in capsys.readouterr().out
    before = storage.read_bytes(f"{configs[1].output}/metrics.json")
    assert run_trials(configs[1:], title="test", output=str(tmp_path), settings=TrialsConfig()) == [good]
    assert storage.read_bytes(f"{configs[1].output}/metrics.json") == before
