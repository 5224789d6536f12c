import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("listed", [storage.list_files, storage.list_folders, storage.list_tree])
def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path, listed: Any) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="Too many levels of symbolic links"):
        listed(str(tmp_path / "loop"))
    (tmp_path / "file").write_bytes(b"")
    assert listed(str(tmp_path / "file" / "x")) == []


def test_a_file_that_goes_while_a_tree_is_listed_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    stat = os.stat

    def gone(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if path == str(tmp_path / "a"):
            raise FileNotFoundError(path)
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", gone)
    assert [storage.name(entry.uri) for entry in storage.list_tree(str(tmp_path))] == ["b"]
