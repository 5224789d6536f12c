"""Every study that is shipped says something that all its jobs understand."""

from pathlib import Path

import pytest

from llmemb.data.config import PrepareConfig
from llmemb.study.config import StudyConfig
from llmemb.study.grid import Grid
from llmemb.study.run import check_details

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"
PAGE = CONFIGS.parents[1] / "docs" / "study.md"
STUDIES = sorted(f"{path.parent.name}/{path.stem}" for path in CONFIGS.glob("*/study*.yaml"))


def test_all_are_here():
    folders = ["beauty", "demo", "games", "paper-beauty", "paper-fashion", "paper-yelp"]
    assert set(STUDIES) == {"beauty/study-backbones", *(f"{folder}/study" for folder in folders)}


@pytest.mark.parametrize("name", STUDIES)
def test_every_trial_of_a_shipped_study_has_a_config(name):
    path = CONFIGS / f"{name}.yaml"
    config = StudyConfig.load(str(path))
    prepare = PrepareConfig.load(str(path.with_name("prepare.yaml")))
    assert config.dataset == prepare.output
    grid = Grid(config, "fingerprint")
    check_details(grid)
    outputs = {grid.rat_config(trial).output for trial in grid.all_trials()}
    table = len(config.backbones) * len(config.methods) * len(config.seeds)
    assert len(outputs) >= table
    assert (len(outputs) > table) == bool(config.ablations or config.sensitivity)


@pytest.mark.parametrize("name", [name for name in STUDIES if name.startswith("paper-")])
def test_the_papers_llm2x_starts_from_plain_components(name):
    grid = Grid(StudyConfig.load(str(CONFIGS / f"{name}.yaml")), "fingerprint")
    configs = [grid.rat_config(trial) for trial in grid.all_trials()]
    assert {config.llm2x.scaling for config in configs if config.method == "llm2x"} == {"none"}


@pytest.mark.parametrize(
    ("name", "number", "told"),
    [
        ("demo/study", 23, "23"),
        ("beauty/study-backbones", 39, "39"),
        ("beauty/study", 135, "135"),
        ("games/study", 6, "six"),
    ],
)
def test_the_page_says_how_many_recommenders_a_study_makes(name, number, told):
    grid = Grid(StudyConfig.load(str(CONFIGS / f"{name}.yaml")), "fingerprint")
    [row] = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert len(grid.purposes()) == number
    assert f" {told} recommenders" in row
