"""Parts of a source, and their rows."""

import errno
import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmemb import storage
from llmemb.data.files import find_files, read_lines
from llmemb.data.parts import Part, parts_of, read_parquet
from llmemb.errors import InputError, TemporaryError


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


class Unreadable(io.BytesIO):
    """A file that opens, and fails when it is read."""

    def __init__(self, content: bytes, error: Exception) -> None:
        super().__init__(content)
        self._error = error

    def read(self, size: int | None = -1) -> bytes:
        raise self._error

    readline = read  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ConnectionResetError("reset"), TemporaryError), (OSError(errno.EIO, "broken disk"), InputError)],
)
@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz"])
def test_a_connection_lost_while_a_file_is_read_is_no_damaged_file(tmp_path, monkeypatch, name, error, kind):
    file = tmp_path / name
    pq.write_table(pa.table({"item_id": ["i1"]}), file)
    (found,) = find_files(str(file), [])
    monkeypatch.setattr(storage, "open_read", lambda _: Unreadable(file.read_bytes(), error))
    with pytest.raises(kind, match=str(error.strerror or error)):
        list(read_parquet(Part(found, 0), None) if name == "t.parquet" else read_lines(found, 10))
