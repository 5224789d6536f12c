"""What the guides say can be done."""

import re
from pathlib import Path

import pytest
import yaml

from llmemb.config import JobConfig
from llmemb.data.config import PrepareConfig
from llmemb.embed.config import EmbedConfig
from llmemb.evaluation.config import EvaluateConfig
from llmemb.nightly.config import NightlyConfig
from llmemb.rat.config import RatConfig
from llmemb.scft.config import ScftConfig
from llmemb.study.config import StudyConfig

REPOSITORY = Path(__file__).parents[1]
CONFIGS: dict[str, list[type[JobConfig]]] = {
    "README.md": [PrepareConfig, EmbedConfig, RatConfig, EvaluateConfig],
    "docs/data.md": [PrepareConfig],
    "docs/scft.md": [ScftConfig],
    "docs/embedding.md": [EmbedConfig, EmbedConfig],
    "docs/recommender.md": [RatConfig],
    "docs/evaluation.md": [EvaluateConfig],
    "docs/study.md": [StudyConfig],
    "docs/cluster.md": [NightlyConfig],
}


@pytest.mark.parametrize("page", CONFIGS)
def test_the_configs_of_a_page_are_what_its_jobs_take(page, tmp_path):
    blocks = re.findall(r"^```yaml\n(.*?)^```", (REPOSITORY / page).read_text(), re.DOTALL | re.MULTILINE)
    whole = [block for block in blocks if "output" in (yaml.safe_load(block) or {})]
    assert len(whole) >= len(CONFIGS[page])
    for block, config_class in zip(whole, CONFIGS[page], strict=False):
        (tmp_path / "config.yaml").write_text(block)
        assert config_class.load(str(tmp_path / "config.yaml"), []).output


def test_links_between_pages_lead_somewhere():
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]
    wrong = []
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            found = page.parent / name if name else page
            if not found.exists() or (anchor and anchor not in anchors(found)):
                wrong.append(f"{page.name}: {target}")
    assert wrong == []


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
