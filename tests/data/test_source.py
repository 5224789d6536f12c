"""Small tables that must be whole."""

from pathlib import Path

import polars as pl
import pytest

from llmemb.data.source import read_source, source_fingerprint
from llmemb.errors import InputError


def test_formats_give_the_same_table(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["007", "7"], "rank": [1, 2], "unused": ["x", None]})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    frame.write_ndjson(tmp_path / "t.jsonl")
    wanted: dict[str, list[str]] = {"ids": ["user_id"], "columns": ["user_id", "rank"]}
    uris = [str(tmp_path / f"t.{kind}") for kind in ("parquet", "csv", "jsonl")]
    assert all(read_source(uri, **wanted).equals(frame.select("user_id", "rank")) for uri in uris)
    assert read_source(str(tmp_path / "t.*"), **wanted).shape == (6, 2)


def test_fingerprint_names_what_the_files_hold(tmp_path: Path) -> None:
    for name, content in (("a.csv", "x\n1\n"), ("b.csv", "x\n1\n"), ("c.csv", "x\n2\n")):
        (tmp_path / name).write_text(content)
    a, b, c, every = (source_fingerprint(str(tmp_path / name)) for name in ("a.csv", "b.csv", "c.csv", "*.csv"))
    assert a == b
    assert len({a, c, every}) == 3
    with pytest.raises(InputError, match="no such table"):
        source_fingerprint(str(tmp_path / "none"))


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
