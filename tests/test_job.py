import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llmemb.compute.training import train_on_ray
from llmemb.config import JobConfig
from llmemb.errors import InputError, TemporaryError
from llmemb.job import find_told_error, lost_by_cluster, main

JOBS = sorted((Path(__file__).resolve().parents[1] / "jobs").glob("*.py"))
NEVER_ENDING = {
    "model": {"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 4},
    "training": {"max_epochs": 10**6, "patience": 10**6},
}


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


@pytest.mark.parametrize("kind", [InputError, TemporaryError])
def test_an_error_told_in_a_ray_task_is_the_users_line_not_a_traceback(ray_local, kind):
    import ray

    @ray.remote
    def fails() -> None:
        raise kind("items: what is wrong")

    with pytest.raises(kind) as raised:
        ray.get(fails.remote())
    found = find_told_error(raised.value)
    assert (type(found), str(found)) == (kind, "items: what is wrong")


class FailsToLoad:
    """An actor of Ray Data that never starts."""

    def __init__(self) -> None:
        raise InputError("encoder: what is wrong")

    def __call__(self, batch: dict) -> dict:
        return batch


def fails_on_a_batch(batch: dict) -> dict:
    raise InputError("encoder: what is wrong")


def finds_no_store(batch: dict) -> dict:
    raise TemporaryError("encoder: what is wrong")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "kind"), [(FailsToLoad, InputError), (fails_on_a_batch, InputError), (finds_no_store, TemporaryError)]
)
def test_an_error_told_in_a_stage_of_ray_data_is_the_users_line(ray_local, stage, kind):
    import ray.data

    options = {"concurrency": 1} if isinstance(stage, type) else {}
    with pytest.raises(Exception, match="what is wrong") as raised:
        ray.data.range(2).map_batches(stage, **options).take_all()
    found = find_told_error(raised.value)
    assert (type(found), str(found)) == (kind, "encoder: what is wrong")


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
    assert str(find_told_error(raised.value)) == "items: what is wrong"


def test_a_fault_of_the_software_is_not_taken_for_bad_input():
    assert find_told_error(RuntimeError("a bug")) is None
    error = RuntimeError("while reading")
    error.__cause__ = InputError("items: what is wrong")
    assert find_told_error(error) is error.__cause__


def died_in_its_constructor() -> Exception:
    from ray import exceptions

    error = exceptions.ActorDiedError()
    error.args = ("The actor died because of an error raised in its creation task, ValueError",)
    error.error_msg = error.args[0]
    return error


def lost() -> list[Exception]:
    from ray import exceptions

    wrapped = RuntimeError("while training")
    wrapped.__cause__ = exceptions.NodeDiedError("gone")
    return [exceptions.NodeDiedError("gone"), exceptions.WorkerCrashedError(), exceptions.ActorDiedError(), wrapped]


def test_what_the_cluster_lost_is_told_from_the_softwares_own_faults():
    assert all(map(lost_by_cluster, lost()))
    assert not any(map(lost_by_cluster, [RuntimeError("a bug"), died_in_its_constructor()]))


def exit_code(error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """Of a job that raises the error."""
    (tmp_path / "c.yaml").write_text("output: x\n")
    monkeypatch.setattr(sys, "argv", ["job", "--config", str(tmp_path / "c.yaml")])

    class Config(JobConfig):
        output: str

    def run(_: Config) -> None:
        raise error

    with pytest.raises(SystemExit) as exit_:
        main(Config, run)
    return exit_.value.code


@pytest.mark.parametrize(("kind", "code"), [(InputError, 2), (TemporaryError, 75)])
def test_what_may_be_gone_by_itself_has_another_exit_code_than_bad_input(monkeypatch, tmp_path, capsys, kind, code):
    assert exit_code(kind("s3://b/x:\n what is wrong"), monkeypatch, tmp_path) == code
    assert capsys.readouterr().err == "error: s3://b/x: what is wrong\n"


def test_a_job_whose_cluster_lost_a_part_exits_with_75(monkeypatch, tmp_path, capsys):
    assert exit_code(lost()[0], monkeypatch, tmp_path) == 75
    assert capsys.readouterr().err.endswith("error: the cluster lost a part of the job: run it again to go on\n")


def test_a_job_that_a_signal_ended_says_so_and_exits_as_shells_have_it(monkeypatch, tmp_path, capsys):
    assert exit_code(SystemExit(signal.SIGTERM), monkeypatch, tmp_path) == 143  # what Ray's handler raises
    assert capsys.readouterr().err == "terminated: what is finished is kept; run it again to go on\n"


def run_until_interrupted(job: str, config: dict, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a job, and presses Ctrl-C when it tells of its first epochs."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, str(JOBS[0].parent / f"{job}.py"), "--config", str(folder / "config.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "epochs" in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            break
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, "".join(lines) + out, err)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["rat", "study"])
def test_ctrl_c_ends_a_job_with_one_line_and_what_is_done_is_kept(job, tiny_dataset, tmp_path):
    rat = {"dataset": tiny_dataset, "output": str(tmp_path / "out"), "method": "none", **NEVER_ENDING}
    study = {"dataset": tiny_dataset, "output": str(tmp_path / "out"), "methods": ["none", "melt"]}
    study |= {"seeds": [0], "backbones": ["sasrec"], "scft": {}, "rat": NEVER_ENDING, "sampled": None}
    ended = run_until_interrupted(job, {"rat": rat, "study": study}[job], tmp_path)
    assert ended.stderr.splitlines()[-1:] == ["interrupted: what is finished is kept; run it again to go on"]
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 130
    assert list(tmp_path.rglob("checkpoint.safetensors"))
    assert not list(tmp_path.glob("out/trials/melt-*"))  # the study's next trial


@pytest.mark.slow
def test_ctrl_c_is_what_it_was_before_once_a_training_is_over(ray_local, tmp_path):
    import ray.train

    before = signal.getsignal(signal.SIGINT)
    scaling = ray.train.ScalingConfig(num_workers=1)
    train_on_ray(lambda _: None, {}, storage_uri=str(tmp_path), name="run", scaling=scaling, max_failures=0)
    assert signal.getsignal(signal.SIGINT) is before
