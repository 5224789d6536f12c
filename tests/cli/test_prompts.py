"""`llmemb prompts preview` on forty items, two of them without any attribute."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from llmemb import storage
from llmemb.cli import app

PROMPT = {"attributes": ["title", "price"], "instruction": "a "}


def _preview(config: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["prompts", "preview", str(config), *arguments])


@pytest.fixture
def config(tmp_path: Path, tiny_dataset: str, tiny_encoder: Path) -> Path:
    file = tmp_path / "scft.yaml"
    file.write_text(yaml.safe_dump({"dataset": tiny_dataset, "base_model": str(tiny_encoder), "prompt": PROMPT}))
    return file


def test_prompts_are_shown_with_their_tokens(config: Path) -> None:
    result = _preview(config, "--item", "i5", "--item", "i0", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    shown, refused = found["items"]
    words = shown["prompt"].replace(";", " ;").split()  # a title is red lamp ; price is 10
    assert words[:3] == ["a", "title", "is"]
    assert shown["tokens"] == len(words) + 2  # the tokenizer adds [CLS] and [SEP]
    assert refused == {"item_id": "i0", "prompt": None, "tokens": 0}
    assert (found["sample_items"], found["without_prompt"]) == (40, 2)
    assert found["clauses"] == {"title": 0.95, "price": 0.95}
    assert found["tokens"] == {"median": len(words) + 2, "p95": len(words) + 2, "max": len(words) + 2}


def test_attribute_that_leaks_is_warned_about(config: Path, tiny_dataset: str, tmp_path: Path) -> None:
    info = storage.read_json(f"{tiny_dataset}/dataset.json")
    info["leaks"]["attributes"] = {"price": {"correlation": -0.8}, "brand": {"correlation": 0.9}}
    folder = tmp_path / "leaking"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(info))
    (folder / "items").symlink_to(f"{tiny_dataset}/items")
    result = _preview(config, "--dataset", str(folder), "-n", "2")
    assert result.exit_code == 0, result.output
    assert "leak? price has rank correlation -0.80" in result.stdout
    assert "brand has" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--item", "who"], "has no item 'who'"), (["--dataset", "/nowhere"], "/nowhere has no dataset.json")],
)
def test_what_is_not_there_is_one_line(config: Path, arguments: list[str], message: str) -> None:
    result = _preview(config, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_config_without_a_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("dataset: x\n")
    assert "expected a prompt section" in _preview(tmp_path / "x.yaml").stderr
    assert "no such file" in _preview(tmp_path / "absent.yaml").stderr
