"""What a job says of its settings."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from llmemb.config import Config, JobConfig
from llmemb.errors import InputError
from llmemb.settings import as_text, settings_of

REPOSITORY = Path(__file__).resolve().parent.parent


class Optimiser(Config):
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    """At first;
    falls after that."""
    decay: Literal["linear", "none"] = "linear"


class ToyConfig(JobConfig):
    """A job of this test."""

    output: str
    steps: int = Field(default=1, ge=1)
    models: tuple[str, ...] = ("a", "b")
    separator: str = "; "
    patience: int | None = None
    optimiser: Optimiser = Optimiser()


def test_every_setting_has_a_line_with_its_type_and_default_and_what_it_does():
    assert as_text(ToyConfig).splitlines() == [
        "output: str = needed",
        "steps: int (≥ 1) = 1",
        "models: list of str = [a, b]",
        "separator: str = '; '",
        "patience: int | null = null",
        "optimiser.learning_rate: float (> 0, ≤ 1) = 0.1",
        "    At first; falls after that.",
        "optimiser.decay: linear | none = linear",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 1}, "config: learning_rate: unknown key; expected optimiser.learning_rate?"),
        ({"optimiser": {"decy": 1}}, "config: optimiser.decy: unknown key; expected optimiser.decay?"),
        ({"colour": 1}, "config: colour: unknown key"),
        ({"models": "a"}, "config: models: expected a list, such as [a, b], got 'a'"),
    ],
)
def test_a_wrong_key_is_told_with_what_was_meant(values, message):
    with pytest.raises(InputError) as raised:
        ToyConfig.parse({"output": "x"} | values)
    assert str(raised.value) == message


@pytest.mark.parametrize("job", sorted((REPOSITORY / "jobs").glob("*.py")), ids=lambda job: job.stem)
def test_every_job_lists_its_settings_in_words_of_yaml(job):
    shown = subprocess.run([sys.executable, str(job), "--settings"], capture_output=True, text=True, check=True).stdout
    assert "\noutput: str = needed\n" in f"\n{shown}"
    assert not [word for word in ("Annotated", "<function", "Undefined", "typing.") if word in shown]


def test_settings_of_a_group_that_may_be_left_out_follow_it():
    from llmemb.evaluation.config import EvaluateConfig

    paths = [setting.path for setting in settings_of(EvaluateConfig)]
    assert paths[paths.index("sampled") + 1] == "sampled.num_negatives"


def test_a_pager_that_is_closed_early_is_no_fault() -> None:
    command = f"{sys.executable} {REPOSITORY / 'jobs' / 'prepare.py'} --settings | true"
    assert subprocess.run(command, shell=True, capture_output=True, check=True).stderr == b""
