"""An output folder belongs to one job, one config, one set of inputs."""

from pathlib import Path
from typing import ClassVar

import pytest

from llmemb import artifact, storage
from llmemb.config import Config, JobConfig
from llmemb.errors import InputError


class Loss(Config):
    temperature: float = 0.05


class ToyConfig(JobConfig):
    execution_keys: ClassVar[frozenset[str]] = frozenset({"num_workers"})

    output: str
    seed: int = 0
    num_workers: int = 1
    loss: Loss = Loss()


def _claim(
    output: str,
    *,
    job: str = "toy",
    inputs: dict[str, str] | None = None,
    renew_inputs: bool = False,
    **settings: object,
) -> bool:
    config, inputs = ToyConfig.model_validate({"output": output, **settings}), inputs or {"dataset": "1"}
    return artifact.claim(config, output, job=job, inputs=inputs, finished_by="done.json", renew_inputs=renew_inputs)


def test_unfinished_output_is_taken_up_and_a_finished_one_is_kept(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    assert _claim(output) is True
    assert _claim(output) is True
    storage.write_json(storage.join(output, "done.json"), {})
    assert _claim(output) is False


def test_resolved_config_lies_beside_the_output(tmp_path: Path) -> None:
    _claim(str(tmp_path), seed=3)
    assert ToyConfig.load(str(tmp_path / "config.yaml")) == ToyConfig(output=str(tmp_path), seed=3)


def test_another_number_of_workers_may_go_on(tmp_path: Path) -> None:
    _claim(str(tmp_path), num_workers=1)
    assert _claim(str(tmp_path), num_workers=2) is True


def test_another_config_is_refused_naming_the_difference(tmp_path: Path) -> None:
    _claim(str(tmp_path))
    with pytest.raises(InputError, match=r"config\.loss\.temperature: 0\.05 there, 0\.1 here"):
        _claim(str(tmp_path), loss={"temperature": 0.1})


def test_another_job_is_refused(tmp_path: Path) -> None:
    _claim(str(tmp_path))
    with pytest.raises(InputError, match="job: toy there, other here"):
        _claim(str(tmp_path), job="other")


def test_another_input_is_refused(tmp_path: Path) -> None:
    _claim(str(tmp_path))
    with pytest.raises(InputError, match=r"inputs\.dataset: 1 there, 2 here"):
        _claim(str(tmp_path), inputs={"dataset": "2"})


def test_the_inputs_of_what_is_not_finished_can_be_renewed(tmp_path: Path) -> None:
    output, grown = str(tmp_path), {"dataset": "2"}
    _claim(output)
    assert _claim(output, inputs=grown, renew_inputs=True) is True
    assert artifact.recorded_inputs(output) == grown
    with pytest.raises(InputError, match=r"config\.seed: 0 there, 1 here"):
        _claim(output, inputs={"dataset": "3"}, renew_inputs=True, seed=1)
    storage.write_json(storage.join(output, "done.json"), {})
    assert _claim(output, inputs={"dataset": "3"}, renew_inputs=True) is False
    assert artifact.recorded_inputs(output) == grown


def test_of_two_runs_that_renew_the_inputs_at_once_one_has_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, swap = str(tmp_path), storage.swap
    _claim(output)

    def another_was_faster(uri: str, content: bytes, expected: bytes | None) -> bool:
        monkeypatch.setattr(storage, "swap", swap)
        assert _claim(output, inputs={"dataset": "2"}, renew_inputs=True)
        return swap(uri, content, expected)

    monkeypatch.setattr(storage, "swap", another_was_faster)
    with pytest.raises(InputError, match=r"inputs\.dataset: 2 there, 3 here"):
        _claim(output, inputs={"dataset": "3"}, renew_inputs=True)


def test_the_same_input_may_lie_elsewhere(tmp_path: Path) -> None:
    for place in ("/first", "/second"):  # also by a record that names the place
        assert _claim(str(tmp_path), inputs={"seed": "its fingerprint"}, seed=len(place)) is True
    with pytest.raises(InputError, match=r"inputs\.seed: its fingerprint there, another here"):
        _claim(str(tmp_path), inputs={"seed": "another"}, seed=6)


def test_of_another_kind_of_job_only_that_is_told(tmp_path: Path) -> None:
    _claim(str(tmp_path), job="rat", seed=6)
    with pytest.raises(InputError, match=r"belongs to another run \(job: rat there, scft here\)"):
        _claim(str(tmp_path), job="scft", seed=5)


def test_a_folder_in_which_nothing_was_made_may_be_deleted(tmp_path: Path) -> None:
    _claim(str(tmp_path), seed=5)
    (tmp_path / ".lock").touch()  # of what was swapped there
    with pytest.raises(InputError, match=r"choose another, or delete it if it is not running: it has made nothing yet"):
        _claim(str(tmp_path), seed=6)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match=r"choose another$"):
        _claim(str(tmp_path), seed=6)


def test_result_that_no_job_claimed_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "done.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds a done\.json that no toy job wrote"):
        _claim(str(tmp_path))


def test_unwritable_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        _claim(str(tmp_path / "file" / "out"))


def test_a_config_that_a_killed_run_did_not_write_is_written_by_the_next(tmp_path: Path) -> None:
    _claim(str(tmp_path), seed=3)
    (tmp_path / "config.yaml").unlink()
    assert _claim(str(tmp_path), seed=3)
    assert "seed: 3" in (tmp_path / "config.yaml").read_text()


def test_of_two_runs_that_begin_at_once_one_has_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = str(tmp_path / "out")
    swap = storage.swap

    def another_was_faster(uri: str, content: bytes, expected: bytes | None) -> bool:
        monkeypatch.setattr(storage, "swap", swap)
        assert _claim(output, seed=7)
        return swap(uri, content, expected)

    monkeypatch.setattr(storage, "swap", another_was_faster)
    with pytest.raises(InputError, match=r"belongs to another run \(config.seed: 7 there, 3 here\)"):
        _claim(output, seed=3)
    assert "seed: 7" in storage.read_bytes(f"{output}/config.yaml").decode()
    assert _claim(output, seed=7)
