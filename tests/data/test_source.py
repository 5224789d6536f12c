"""Small tables that must be whole."""

from pathlib import Path

import polars as pl
import pytest

from llmemb.data.source import read_source
from llmemb.errors import InputError


def test_formats_give_the_same_table(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["007", "7"], "rank": [1, 2], "unused": ["x", None]})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    frame.write_ndjson(tmp_path / "t.jsonl")
    read = [read_source(str(tmp_path / f"t.{kind}"), ids=["user_id"], columns=["user_id", "rank"]) for kind in
            ("parquet", "csv", "jsonl")]  # fmt: skip
    assert all(source.frame.equals(frame.select("user_id", "rank")) for source in read)
    assert len({source.fingerprint for source in read}) == 3
    assert read_source(str(tmp_path / "t.*"), ids=["user_id"]).frame.shape == (6, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,rank\nu,1\nv\n", "1 rows cannot be used, the first is row 3: not a record: too few fields"),
        ("user_id,rank\nu,1\n,2\n", "1 rows cannot be used, the first is row 2: no user_id"),
        ("user,rank\nu,1\n", "no column 'user_id'; it has user, rank"),
    ],
)
def test_table_with_a_bad_row_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_source(str(tmp_path / "t.csv"), ids=["user_id"], columns=["user_id", "rank"])
