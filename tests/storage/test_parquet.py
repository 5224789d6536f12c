import pyarrow as pa

from llmemb import storage


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
