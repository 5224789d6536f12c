import sys

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from llmemb import neighbours, storage
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.neighbours import build_index, exact_search, nearest, recall, search_index
from tests.snapshots import write_snapshot

DIM = 8


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    prompts = {f"i{number}": f"thing {number}" for number in range(500)}
    return write_snapshot(str(tmp_path_factory.mktemp("root")), prompts, num_files=4, dim=DIM)


def all_rows(snapshot: Snapshot) -> tuple[list[str], np.ndarray]:
    item_ids = [item for table in snapshot.tables() for item in table.column("item_id").to_pylist()]
    return item_ids, snapshot.vectors(item_ids)[0]


@pytest.mark.parametrize("rows_per_chunk", [7, 16_384])
def test_exact_search_agrees_with_scikit_learn(snapshot, monkeypatch, rows_per_chunk):
    monkeypatch.setattr(neighbours, "ROWS_PER_CHUNK", rows_per_chunk)
    item_ids, rows = all_rows(snapshot)
    queries = np.random.default_rng(0).standard_normal((5, DIM))
    found = exact_search(snapshot, queries, 10)
    distances, expected = NearestNeighbors(metric="cosine").fit(rows).kneighbors(queries, 10)
    assert [[item.item_id for item in items] for items in found] == [[item_ids[row] for row in r] for r in expected]
    np.testing.assert_allclose([[item.cosine for item in items] for items in found], 1 - distances, atol=1e-6)


def test_nearest_leaves_the_item_itself_out(snapshot):
    item_ids, rows = all_rows(snapshot)
    cosines = cosine_similarity(rows[item_ids.index("i7")][None], rows)[0]
    expected = [item_ids[row] for row in np.argsort(-cosines)[1:4]]
    assert [item.item_id for item in nearest(snapshot, "i7", 3)] == expected


def test_more_neighbours_than_items_are_all_of_them(tmp_path):
    few = write_snapshot(str(tmp_path), {"a": "1", "b": "2", "c": "3"}, num_files=4)
    assert {item.item_id for item in nearest(few, "a", 10)} == {"b", "c"}


def test_an_item_without_a_vector_is_bad_input_with_the_reason_if_known(tmp_path):
    refused = pa.table({"item_id": ["r"], "reason": ["no usable attribute"]})
    entry = storage.write_table(str(tmp_path / f"{0:016x}" / "refused.parquet"), refused)
    few = write_snapshot(str(tmp_path), {"a": "1"}, refused_file=entry)
    with pytest.raises(InputError, match=r"no vector of item 'x'$"):
        nearest(few, "x", 1)
    with pytest.raises(InputError, match="no vector of item 'r': refused, no usable attribute"):
        nearest(few, "r", 1)


def test_a_flat_index_is_exact_and_recall_says_so(snapshot):
    index, item_ids = build_index(snapshot, "flat")
    assert recall(snapshot, index, item_ids, k=10, sample_items=50) == 1.0
    _, rows = all_rows(snapshot)
    [found], [expected] = search_index(index, item_ids, rows[:1], 5), exact_search(snapshot, rows[:1], 5)
    assert [item.item_id for item in found] == [item.item_id for item in expected]


def test_recall_is_the_share_of_exact_neighbours_found(snapshot):
    index, item_ids = build_index(snapshot, "flat")
    # Half of the rows now answer to another id, so what is found there is wrong.
    wrong = [item if row % 2 else f"wrong {item}" for row, item in enumerate(item_ids)]
    odd_share = recall(snapshot, index, wrong, k=10, sample_items=500)
    assert 0.45 < odd_share < 0.55


@pytest.mark.parametrize("k", [1, 10, 70])
def test_of_equal_neighbours_any_is_right(tmp_path, k):
    copies = write_snapshot(str(tmp_path), {f"i{number}": f"thing {number % 60}" for number in range(60 * 50)}, dim=DIM)
    index, item_ids = build_index(copies, "flat")
    assert recall(copies, index, item_ids, k=k, sample_items=200) == 1.0


def test_an_item_alone_has_all_of_its_neighbours(tmp_path):
    alone = write_snapshot(str(tmp_path), {"a": "1"}, num_files=1)
    assert recall(alone, *build_index(alone, "flat"), k=3) == 1.0


@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.99), ("ivf", 0.2)])
def test_approximate_indexes_find_most_neighbours(snapshot, kind, least):
    index, item_ids = build_index(snapshot, kind)
    assert index.ntotal == 500
    assert recall(snapshot, index, item_ids, k=10) >= least


def test_without_faiss_the_install_line_is_named(snapshot, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[faiss\]' in the checkout"):
        build_index(snapshot, "flat")
