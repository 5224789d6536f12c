"""The last line of a bar."""

import time

from llmemb import progress


def test_the_last_line_says_of_how_many_it_was_in_the_end(ray_local, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_INTERVAL_SECONDS", 0.0)
    printed = ""
    with progress.remote_bar("study", total=4, unit="epochs") as board:
        progress.tell(board, 2, 4, trials="1/2")
        while "2/4 epochs" not in printed:
            time.sleep(0.1)
            printed += capsys.readouterr().out
        progress.tell(board, 2, 2, trials="2/2")  # the other trial failed before its first epoch
    assert "2/2 epochs" in capsys.readouterr().out.splitlines()[-1]
