"""Small tables that must be whole."""

import random
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmemb.data.files import find_files
from llmemb.data.interactions import Part, parts_of, read_parquet
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


@pytest.mark.parametrize("row_group_size", [100, 1000])
def test_parquet_is_read_in_chunks_by_the_weight_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_group_size: int
) -> None:
    monkeypatch.setattr("llmemb.data.interactions.BYTES_PER_CHUNK", 2**16)
    texts = [random.Random(row).randbytes(1000).hex() for row in range(300)] + [""] * 300
    table = pa.table({"item_id": [f"i{row}" for row in range(600)], "text": texts})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=row_group_size)
    (file,) = find_files(str(tmp_path / "t.parquet"), [])
    for parts in ([Part(file, 0)], parts_of([file], bytes_per_part=2**16)):
        batches = [batch for part in parts for batch in read_parquet(part, None)]
        assert pa.Table.from_batches(batches).equals(table)
        assert max(batch.nbytes for batch in batches) < 2.5 * 2**16  # the mean row weighs half of the heavy ones
    assert len(batches) < 40


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
