from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmemb import storage
from llmemb.errors import InputError


def test_list_files_is_sorted_and_not_recursive(root: str) -> None:
    for file in ("b.parquet", "a.parquet", "c.json", "deeper/d.parquet"):
        storage.write_bytes(storage.join(root, file), b"x")
    assert [storage.name(uri) for uri in storage.list_files(root, ".parquet")] == ["a.parquet", "b.parquet"]
    assert storage.list_files(storage.join(root, "absent")) == []


def test_list_tree_tells_size_and_age_at_any_depth(root: str) -> None:
    for file in ("b.json", "a/b/c.parquet"):
        storage.write_bytes(storage.join(root, file), b"four")
    tree = storage.list_tree(root)
    assert [(entry.uri, entry.bytes) for entry in tree] == [
        (storage.join(root, "a/b/c.parquet"), 4),
        (storage.join(root, "b.json"), 4),
    ]
    assert all(abs(datetime.now(UTC) - entry.modified) < timedelta(minutes=1) for entry in tree)
    assert storage.list_folders(root) == [storage.join(root, "a")]
    assert storage.list_tree(storage.join(root, "absent")) == storage.list_folders(storage.join(root, "absent")) == []


def test_what_cannot_be_looked_at_is_not_taken_for_absent(tmp_path: Path) -> None:
    assert not storage.exists(str(tmp_path / "absent" / "x"))
    (tmp_path / "file").write_bytes(b"")
    assert not storage.exists(str(tmp_path / "file" / "x"))
    with pytest.raises(InputError, match="File name too long"):
        storage.exists(str(tmp_path / ("x" * 300)))
