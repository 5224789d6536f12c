from pathlib import Path

import pyarrow as pa

from llmemb import storage
from llmemb.errors import InputError


def test_table_reads_back_and_its_entry_describes_the_file(root: str) -> None:
    table = pa.table({"item_id": ["a", "b"], "price": [1.5, None]})
    uri = storage.join(root, "part-0.parquet")
    entry = storage.write_table(uri, table)
    content = storage.read_bytes(uri)
    assert entry == {
        "file": "part-0.parquet",
        "rows": 2,
        "bytes": len(content),
        "sha256": storage.checksum(content),
    }
    assert storage.read_table(uri) == table
    assert storage.read_table(uri, ["price"]).column_names == ["price"]
    assert storage.read_schema(uri).equals(table.schema)


def test_a_file_with_bytes_turned_over_is_one_clear_line_and_never_another_table(tmp_path: Path) -> None:
    table = pa.table({"item_id": [f"item-{number * 7919 % 1000:04}" for number in range(1000)]})
    content, file = storage.table_bytes(table), tmp_path / "items.parquet"
    told: list[str] = []
    pages = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # where the footer begins
    for place in range(4, pages, pages // 160):
        file.write_bytes(content[:place] + bytes([255 - content[place]]) + content[place + 1 :])
        for read in (storage.read_table, read_in_batches):
            try:
                assert read(str(file)) == table
            except InputError as error:
                told.append(str(error))
    assert len(told) > 200
    assert all(message.startswith(f"{file}: ") for message in told)


def read_in_batches(uri: str) -> pa.Table:
    return pa.Table.from_batches(storage.read_batches(uri, ["item_id"], 300)).combine_chunks()
