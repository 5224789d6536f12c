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


def test_a_file_with_bytes_turned_over_is_a_table_or_one_clear_line() -> None:
    content = storage.table_bytes(pa.table({"item_id": [f"item-{number * 7919 % 1000:04}" for number in range(1000)]}))
    told: list[str] = []
    for place in range(4, len(content) - 8, len(content) // 80):
        broken = content[:place] + bytes(255 - byte for byte in content[place : place + 8]) + content[place + 8 :]
        try:
            storage.parse_table(broken, "s3://shop/items.parquet")
        except InputError as error:
            told.append(str(error))
    assert len(told) > 20
    assert all(message.startswith("s3://shop/items.parquet: not Parquet: ") for message in told)
