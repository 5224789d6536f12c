"""Parts of a source, and their rows."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmemb.data.files import find_files
from llmemb.data.parts import Part, parts_of, read_parquet


@pytest.mark.parametrize("row_group_size", [100, 1000])
def test_parquet_is_read_in_chunks_by_the_weight_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_group_size: int
) -> None:
    monkeypatch.setattr("llmemb.data.parts.BYTES_PER_CHUNK", 2**16)
    texts = [random.Random(row).randbytes(1000).hex() for row in range(300)] + [""] * 300
    table = pa.table({"item_id": [f"i{row}" for row in range(600)], "text": texts})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=row_group_size)
    (file,) = find_files(str(tmp_path / "t.parquet"), [])
    for parts in ([Part(file, 0)], parts_of([file], bytes_per_part=2**16)):
        batches = [batch for part in parts for batch in read_parquet(part, None)]
        assert pa.Table.from_batches(batches).equals(table)
        assert max(batch.nbytes for batch in batches) < 2.5 * 2**16  # the mean row weighs half of the heavy ones
    assert len(batches) < 40
