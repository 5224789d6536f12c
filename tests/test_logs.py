import json
import logging
import sys

import pytest

from llmemb import logs, progress
from llmemb.errors import InputError
from llmemb.progress import Figure


def test_log_lines_are_json_objects_if_wanted():
    record = logging.LogRecord("llmemb.embed", logging.WARNING, "", 0, 'a "%s"\nb', ("x",), None)
    found = json.loads(logs.JsonLines().format(record))
    assert found.pop("time").endswith("+00:00")
    assert found == {"level": "WARNING", "logger": "llmemb.embed", "message": 'a "x"\nb'}


def test_an_exception_stays_on_its_line():
    try:
        raise RuntimeError("why")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    line = logs.JsonLines().format(record)
    assert "\n" not in line
    assert "RuntimeError: why" in json.loads(line)["exception"]


def test_progress_lines_are_json_objects_if_wanted(monkeypatch, capsys):
    monkeypatch.setenv("LLMEMB_LOG_FORMAT", "json")
    with progress.bar("embed", 2_000, "items") as bar:
        bar.update(2_000, **{"tokens/s": Figure(1234.25, ",.0f"), "loss": 0.5, "best": "loss 0.5 at step 3"})
    found = json.loads(capsys.readouterr().out)
    assert found["figures"] == {"tokens/s": 1234.25, "loss": 0.5, "best": None}
    assert {key: found[key] for key in ("work", "done", "total", "unit")} == {
        "work": "embed",
        "done": 2_000,
        "total": 2_000,
        "unit": "items",
    }


def test_they_are_for_people_by_default(capsys):
    with progress.bar("embed", 2_000, "items") as bar:
        bar.update(2_000, **{"tokens/s": Figure(1234.25, ",.0f"), "loss": 0.123456, "best": "loss 0.5 at step 3"})
    shown = "tokens/s 1,234  loss 0.1235  best loss 0.5 at step 3"
    assert capsys.readouterr().out == f"embed: 2,000/2,000 items, 0 s  {shown}\n"


def test_another_format_is_a_mistake(monkeypatch):
    monkeypatch.setenv("LLMEMB_LOG_FORMAT", "xml")
    with pytest.raises(InputError, match="LLMEMB_LOG_FORMAT: expected one of text, json, got 'xml'"):
        logs.set_up(verbose=False)
