import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmemb import storage, vectors
from llmemb.embed.snapshot import Snapshot
from llmemb.embed.verification import verify
from tests.snapshots import write_snapshot

PROMPTS = {f"i{number}": f"thing {number}" for number in range(20)}


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return write_snapshot(str(tmp_path), PROMPTS)


def problems(snapshot: Snapshot) -> dict[str, list[str]]:
    return {file: found for file, found in verify(Snapshot.open(snapshot.uri)) if found}


def rewrite(snapshot: Snapshot, index: int, table: pa.Table) -> None:
    """Another content for a part, with a manifest that agrees about its bytes."""
    entry = snapshot.manifest["files"][index]
    snapshot.manifest["files"][index] = vectors.write(storage.join(snapshot.uri, entry["file"]), table)
    storage.write_json(storage.join(snapshot.uri, "manifest.json"), snapshot.manifest)


def test_a_published_snapshot_has_no_problems(snapshot):
    assert problems(snapshot) == {}
    assert [file for file, _ in verify(snapshot)] == ["manifest.json", "part-00000.parquet", "part-00001.parquet"]


def test_changed_cut_and_absent_files_are_named(snapshot):
    first, second = (Path(snapshot.uri) / entry["file"] for entry in snapshot.manifest["files"])
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    assert problems(snapshot) == {
        first.name: ["its checksum is not the manifest's: the file was changed or cut"],
        second.name: ["no such file"],
    }


def test_what_checksums_do_not_tell_is_found_too(snapshot):
    part = snapshot.part(snapshot.manifest["files"][0])
    values = vectors.from_table(part).copy()
    values[0, 1] = np.nan
    item_ids, hashes = part.column("item_id").to_pylist(), part.column("prompt_hash").to_pylist()
    elsewhere = snapshot.part(snapshot.manifest["files"][1]).column("item_id")[0].as_py()
    item_ids[1], item_ids[2] = item_ids[0], elsewhere
    rewrite(snapshot, 0, vectors.to_table(item_ids, values, "float32", {"prompt_hash": hashes}))
    assert problems(snapshot) == {
        "part-00000.parquet": [
            "1 ids are not unique",
            "1 items do not belong into this file",
            "1 vectors are not finite",
        ]
    }


def test_another_dtype_or_dimension_is_found(snapshot):
    part = snapshot.part(snapshot.manifest["files"][0])
    item_ids = part.column("item_id").to_pylist()
    rewrite(snapshot, 0, vectors.to_table(item_ids, vectors.from_table(part)[:, :3], "float16"))
    [found] = problems(snapshot)["part-00000.parquet"]
    assert found.startswith("embedding is fixed_size_list")
    assert "halffloat" in found


def test_counts_and_stray_files_are_checked(snapshot):
    snapshot.manifest["counts"] |= {"total": 21}
    storage.write_json(storage.join(snapshot.uri, "manifest.json"), snapshot.manifest)
    storage.write_bytes(storage.join(snapshot.uri, "part-00002.parquet"), b"x")
    found = problems(snapshot)["manifest.json"]
    assert json.dumps(found) == json.dumps(
        [
            "its files have 20 rows, its total is 21",
            "new + changed + kept is not its total, 21",
            "part-00002.parquet lies in the folder and is not named: readers of part-*.parquet would take it",
        ]
    )


def test_a_manifest_without_its_keys_is_named(snapshot):
    del snapshot.manifest["dtype"], snapshot.manifest["counts"]
    storage.write_json(storage.join(snapshot.uri, "manifest.json"), snapshot.manifest)
    assert problems(snapshot) == {"manifest.json": ["has no counts, dtype"]}


def test_a_manifest_that_leads_outside_is_told_and_not_followed(snapshot, tmp_path):
    entry = storage.write_table(str(tmp_path / "outside.parquet"), pa.table({"item_id": ["i0"]}))
    snapshot.manifest["refused_file"] = entry | {"file": "../outside.parquet"}
    storage.write_json(storage.join(snapshot.uri, "manifest.json"), snapshot.manifest)
    [problem] = problems(snapshot)["../outside.parquet"]
    assert "expected a file of the folder itself" in problem
