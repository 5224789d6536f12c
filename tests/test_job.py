import runpy
import sys
from pathlib import Path

import pytest

from llmemb.errors import InputError
from llmemb.job import find_input_error

JOBS = sorted((Path(__file__).resolve().parents[1] / "jobs").glob("*.py"))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_key=1"], "error: config: no_such_key: unknown key\n"),
        (["output"], "error: config: override 'output': expected section.key=value\n"),
    ],
)
def test_bad_config_is_one_line_and_exit_code_2_before_any_work(job, arguments, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LLMEMB_RUNS", str(tmp_path / "runs"))
    config = job.parent / "configs" / "demo" / f"{job.stem}.yaml"
    monkeypatch.setattr(sys, "argv", [str(job), "--config", str(config), *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(job), run_name="__main__")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == message
    assert not (tmp_path / "runs").exists()


def test_bad_input_found_in_a_ray_task_is_the_users_line_not_a_traceback(ray_local):
    import ray

    @ray.remote
    def fails() -> None:
        raise InputError("items: what is wrong")

    with pytest.raises(InputError) as raised:
        ray.get(fails.remote())
    assert str(find_input_error(raised.value)) == "items: what is wrong"


@pytest.mark.slow
def test_bad_input_found_in_a_training_worker_is_the_users_line(ray_local, tmp_path):
    import ray.train
    from ray.train.torch import TorchTrainer

    def fails(_: dict) -> None:
        raise InputError("items: what is wrong")

    trainer = TorchTrainer(
        fails,
        train_loop_config={},
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(name="fails", storage_path=str(tmp_path)),
    )
    with pytest.raises(Exception, match="what is wrong") as raised:
        trainer.fit()
    assert str(find_input_error(raised.value)) == "items: what is wrong"


def test_a_fault_of_the_software_is_not_taken_for_bad_input():
    assert find_input_error(RuntimeError("a bug")) is None
    error = RuntimeError("while reading")
    error.__cause__ = InputError("items: what is wrong")
    assert find_input_error(error) is error.__cause__
