import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from llmemb import storage
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.export import export_faiss, export_lance, export_npy
from tests.snapshots import write_snapshot

PROMPTS = {f"i{number}": f"thing {number}" for number in range(50)}


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return write_snapshot(str(tmp_path / "root"), PROMPTS, dtype="float16")


def test_npy_has_a_row_per_item_in_the_snapshots_dtype(snapshot, tmp_path):
    export_npy(snapshot, str(tmp_path / "out"))
    array = np.load(tmp_path / "out" / "embeddings.npy", allow_pickle=False)
    item_ids = pq.read_table(tmp_path / "out" / "item_ids.parquet").column("item_id").to_pylist()
    assert array.dtype == np.float16
    assert sorted(item_ids) == sorted(PROMPTS)
    np.testing.assert_array_equal(array.astype(np.float32), snapshot.vectors(item_ids)[0])


def test_faiss_index_answers_with_rows_of_the_item_ids(snapshot, tmp_path):
    import faiss

    assert export_faiss(snapshot, str(tmp_path / "out"), kind="flat", k=5) == 1.0
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    item_ids = pq.read_table(tmp_path / "out" / "item_ids.parquet").column("item_id").to_pylist()
    query = snapshot.vectors(["i7"])[0]
    cosines, rows = index.search(query / np.linalg.norm(query), 1)
    assert item_ids[rows[0, 0]] == "i7"
    assert cosines[0, 0] == pytest.approx(1, abs=1e-6)


def test_lance_has_the_snapshots_columns(snapshot, tmp_path):
    import lance

    export_lance(snapshot, str(tmp_path / "out"))
    table = lance.dataset(tmp_path / "out" / "embeddings.lance").to_table()
    assert table.schema.names == ["item_id", "embedding", "prompt_hash"]
    vectors = np.stack([np.asarray(row) for row in table.column("embedding").to_pylist()])
    np.testing.assert_array_equal(vectors, snapshot.vectors(table.column("item_id").to_pylist())[0])


def test_an_export_may_go_to_a_store(snapshot, object_stores, tmp_path):
    output = f"s3://plain/{tmp_path.name}/npy"
    export_npy(snapshot, output)
    assert [storage.name(uri) for uri in storage.list_files(output)] == ["embeddings.npy", "item_ids.parquet"]


def test_what_lies_there_is_not_overwritten(snapshot, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(InputError, match="is not empty; choose another"):
        export_npy(snapshot, str(tmp_path))


@pytest.mark.parametrize(
    ("module", "export"),
    [("faiss", lambda *args: export_faiss(*args, kind="flat", k=1)), ("lance", export_lance)],
)
def test_without_the_extra_the_install_line_is_named(snapshot, tmp_path, monkeypatch, module, export):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install -e '\.\[{module}\]' in the checkout"):
        export(snapshot, str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*"))
