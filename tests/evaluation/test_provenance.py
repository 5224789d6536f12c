"""What a report says of how it was made."""

import sys

import pytest

import llmemb
from llmemb.evaluation.config import EvaluateConfig
from llmemb.evaluation.provenance import provenance


def test_command_config_inputs_and_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "a b"])
    config = EvaluateConfig.model_validate({"dataset": "/d", "models": ["/m"], "output": "/o"})
    told = provenance(config, versions={"other": "1"}, embeddings="s0")
    assert list(told) == ["command", "config", "embeddings", "versions"]
    assert told["command"] == "python evaluate.py 'a b'"
    assert told["config"]["dataset"] == "/d"
    assert told["embeddings"] == "s0"
    assert list(told["versions"]) == ["llmemb", "torch", "other"]
    assert told["versions"]["llmemb"] == llmemb.__version__
