"""Rankings on disk: what is read is what was written, in however many blocks of users."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from llmemb.data.sequences import Sequences, Targets
from llmemb.errors import InputError
from llmemb.evaluation import stored
from llmemb.evaluation.stored import read_ranking, read_ranks, write_ranking
from llmemb.metrics.ranking import Ranking

IDS = ["a", "b", "c", "d"]
TARGETS = Targets(
    np.array([2, 0, 1, 3, 4]), Sequences.from_lists([[1], [2], [1], [3], [4]]), np.array([1, 2, 3, 4, 1], np.int32)
)
RANKING = Ranking(
    {"full": np.array([1, 2, 3, 4, 1], np.int32), "sampled": np.array([1, 1, 2, 2, 1], np.int32)},
    {"full": np.array([[1, 2, 3], [4, 3, 2], [1, 2, 4], [2, 1, 0], [1, 0, 0]], np.int32)},
)


def write(folder: Path) -> str:
    uri = f"{folder}/ranking.parquet"
    write_ranking(uri, RANKING, TARGETS, user_ids=["u", "v", "w", "x", "y"], item_ids=IDS)
    return uri


@pytest.mark.parametrize(("ids_at_once", "num_blocks"), [(stored.IDS_AT_ONCE, 1), (6, 3), (1, 5)])
def test_what_is_read_is_what_was_written(
    ids_at_once: int, num_blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "IDS_AT_ONCE", ids_at_once)
    uri = write(tmp_path)
    assert pq.ParquetFile(uri).num_row_groups == num_blocks
    read = read_ranking(uri, item_ids=IDS)
    for mine, theirs in ((RANKING.ranks, read.ranks), (RANKING.top_items, read.top_items)):
        assert mine.keys() == theirs.keys()
        for protocol, values in mine.items():
            assert np.array_equal(theirs[protocol], values)
            assert theirs[protocol].dtype == np.int32
    table = pl.read_parquet(uri)
    assert table["user_id"].to_list() == ["w", "u", "v", "x", "y"]
    assert table["target"].to_list() == ["a", "b", "c", "d", "a"]
    assert table["top_items_full"].to_list()[3] == ["b", "a", None]


def test_ranks_alone_are_read_without_the_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = write(tmp_path)
    monkeypatch.setattr(stored, "_indices", lambda *_: pytest.fail("no list is wanted"))
    read = read_ranks(uri)
    assert {protocol: ranks.tolist() for protocol, ranks in read.ranks.items()} == {
        "full": [1, 2, 3, 4, 1],
        "sampled": [1, 1, 2, 2, 1],
    }
    assert not read.top_items


def test_what_is_no_ranking_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ranking.parquet").write_bytes(b"half of one")
    with pytest.raises(InputError, match="not Parquet"):
        read_ranking(f"{tmp_path}/ranking.parquet", item_ids=IDS)
