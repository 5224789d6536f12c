import sys
from pathlib import Path

import pytest

from cluster.local import chaos
from cluster.local.nodes import LocalCluster


class StartedError(Exception):
    """In place of a cluster."""


@pytest.fixture
def soak(monkeypatch):
    def start(*_: object, **__: object) -> None:
        raise StartedError

    def run(folder: Path) -> int:
        monkeypatch.setattr(sys, "argv", ["chaos", "--folder", str(folder)])
        return chaos.main()

    monkeypatch.setattr(LocalCluster, "start", start)
    monkeypatch.setattr(chaos.signal, "signal", lambda *_: None)
    return run


def test_a_folder_that_holds_something_is_refused_and_kept(soak, tmp_path, capsys):
    (tmp_path / "mine").write_text("x")
    for folder in (tmp_path, tmp_path / "mine"):
        assert soak(folder) == 2
        assert capsys.readouterr().err == f"error: --folder: {folder} is there already: expected a new or empty one\n"
    assert (tmp_path / "mine").read_text() == "x"


def test_a_new_or_an_empty_folder_is_taken(soak, tmp_path):
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(StartedError):
            soak(folder)
