"""Items with similar embeddings: exact search in bounded memory, or a faiss index and how much of it is right."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from llmemb import storage, vectors
from llmemb.buckets import buckets
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.vectors import ITEM_ID

IndexKind = Literal["flat", "hnsw", "ivf"]
ROWS_PER_CHUNK = 16_384
_HNSW_LINKS, _HNSW_BUILD_DEPTH, _HNSW_SEARCH_DEPTH = 32, 200, 128
_IVF_PROBED_SHARE = 1 / 16
_TIE = 1e-6  # what float32 sums of other orders differ by
_IVF_ROWS_PER_LIST = 39  # below it faiss warns that k-means has too few points


@dataclass(frozen=True)
class Neighbour:
    item_id: str
    cosine: float


def nearest(snapshot: Snapshot, item_id: str, k: int) -> list[Neighbour]:
    """The ``k`` other items of highest cosine with an item; exact.

    Raises:
        InputError: the snapshot has no vector of the item.
    """
    query = item_vector(snapshot, item_id)
    [found] = exact_search(snapshot, query[np.newaxis], k + 1)
    return [neighbour for neighbour in found if neighbour.item_id != item_id][:k]


def item_vector(snapshot: Snapshot, item_id: str) -> NDArray[np.float32]:
    """The vector ``[dim]`` of one item; only its own file is read.

    Raises:
        InputError: the snapshot has none, and why where it is known.
    """
    files = snapshot.manifest["files"]
    part = snapshot.part(files[buckets([item_id], len(files))[0]])
    item_ids = part.column(ITEM_ID).to_pylist()
    if item_id not in item_ids:
        raise InputError(f"{snapshot.uri} has no vector of item {item_id!r}{_refusal(snapshot, item_id)}")
    return vectors.from_table(part)[item_ids.index(item_id)].astype(np.float32)


def exact_search(snapshot: Snapshot, queries: Float[np.ndarray, "query dim"], k: int) -> list[list[Neighbour]]:
    """For each query the ``k`` items of highest cosine, best first; the snapshot is read chunk after chunk."""
    queries = normalized(queries)
    best, best_ids = np.empty((len(queries), 0), dtype=np.float32), np.empty((len(queries), 0), dtype=object)
    for item_ids, chunk in chunks(snapshot):
        cosines = queries @ normalized(chunk).T  # [query, chunk]
        top = np.argpartition(-cosines, min(k, len(item_ids)) - 1, axis=1)[:, :k]
        best = np.hstack([best, np.take_along_axis(cosines, top, axis=1)])
        best_ids = np.hstack([best_ids, item_ids[top]])
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, best_ids = np.take_along_axis(best, order, axis=1), np.take_along_axis(best_ids, order, axis=1)
    return [
        [Neighbour(item_id, float(cosine)) for item_id, cosine in zip(ids, cosines, strict=True)]
        for ids, cosines in zip(best_ids, best, strict=True)
    ]


def chunks(snapshot: Snapshot) -> Iterator[tuple[NDArray[Any], NDArray[np.floating]]]:
    """Item ids ``[rows]`` and their vectors ``[rows, dim]`` in the snapshot's order and dtype."""
    for entry in snapshot.manifest["files"]:
        part = snapshot.part(entry)
        for start in range(0, part.num_rows, ROWS_PER_CHUNK):
            rows = part.slice(start, ROWS_PER_CHUNK)
            yield np.array(rows.column(ITEM_ID).to_pylist(), dtype=object), vectors.from_table(rows)


def normalized(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 rows of length one; a zero row stays zero."""
    rows = rows.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def build_index(snapshot: Snapshot, kind: IndexKind) -> tuple[Any, list[str]]:
    """A faiss index over the normalised vectors, whose inner product is the cosine, and the item id of each row.

    ``flat`` is exact, ``hnsw`` a graph, ``ivf`` inverted lists. All vectors are in memory, as float32.

    Raises:
        ImportError: faiss is not installed.
    """
    _faiss()  # before the vectors are read
    num_items, dim = snapshot.manifest["counts"]["total"], snapshot.embedding_dim
    item_ids: list[str] = []
    rows = np.empty((num_items, dim), dtype=np.float32)
    for ids, chunk in chunks(snapshot):
        rows[len(item_ids) : len(item_ids) + len(ids)] = normalized(chunk)
        item_ids += ids.tolist()
    return index_of(rows, kind), item_ids


def index_of(rows: Float[np.ndarray, "row dim"], kind: IndexKind) -> Any:
    """A faiss index over float32 rows, by inner product.

    Raises:
        InputError: there is no such kind.
        ImportError: faiss is not installed.
    """
    if kind not in get_args(IndexKind):
        raise InputError(f"index: no kind {kind!r}: expected one of {', '.join(get_args(IndexKind))}")
    index = _empty_index(_faiss(), kind, rows.shape[1], len(rows))
    index.train(rows)
    index.add(rows)
    return index


def stored_rows(index: Any, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row dim"] | None:
    """Some rows of what a faiss index was built over; None where it keeps no exact ones, or cannot look them up."""
    faiss = _faiss()
    if not isinstance(index, faiss.IndexFlat | faiss.IndexHNSWFlat | faiss.IndexIVFFlat):
        return None
    try:
        return np.stack([index.reconstruct(row) for row in rows.tolist()])
    except RuntimeError:  # inverted lists without a direct map
        return None


def recall(
    snapshot: Snapshot, index: Any, item_ids: list[str], *, k: int, sample_items: int = 1000, seed: int = 0
) -> float:
    """The share of exact nearest neighbours that the index finds, over a sample of items; an item is not its own.

    Of several that are as near as the last one each is right.
    """
    sampled = np.random.default_rng(seed).permutation(len(item_ids))[:sample_items].tolist()
    queries = normalized(np.stack([index.reconstruct(row) for row in sampled]))
    own = [item_ids[row] for row in sampled]
    exact = _others(exact_search(snapshot, queries, k + 1), own, k)
    found = _others(search_index(index, item_ids, queries, k + 1), own, k)
    place = {item_id: row for row, item_id in enumerate({near.item_id for items in found for near in items})}
    rows = normalized(snapshot.vectors(list(place))[0])
    hits = 0
    for query, right, items in zip(queries, exact, found, strict=True):
        cosines = rows[[place[near.item_id] for near in items]] @ query
        hits += int(np.count_nonzero(cosines >= right[-1].cosine - _TIE)) if right else 0
    wanted = sum(map(len, exact))
    return hits / wanted if wanted else 1.0


def _others(found: list[list[Neighbour]], own: list[str], k: int) -> list[list[Neighbour]]:
    """The ``k`` nearest of each item without itself, which need not be the first of several that are equal."""
    return [[near for near in items if near.item_id != item][:k] for item, items in zip(own, found, strict=True)]


def search_index(
    index: Any, item_ids: list[str], queries: Float[np.ndarray, "query dim"], k: int
) -> list[list[Neighbour]]:
    """For each query what a faiss index takes for its ``k`` nearest."""
    cosines, rows = index.search(normalized(queries), k)
    return [
        [Neighbour(item_ids[row], float(cosine)) for row, cosine in zip(*found, strict=True) if row >= 0]
        for found in zip(rows, cosines, strict=True)
    ]


def _empty_index(faiss: Any, kind: IndexKind, dim: int, num_items: int) -> Any:
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = _HNSW_BUILD_DEPTH, _HNSW_SEARCH_DEPTH
        return index
    lists = max(1, min(int(4 * num_items**0.5), num_items // _IVF_ROWS_PER_LIST))
    index = faiss.index_factory(dim, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.make_direct_map()
    index.nprobe = max(1, round(lists * _IVF_PROBED_SHARE))
    return index


def _refusal(snapshot: Snapshot, item_id: str) -> str:
    entry = snapshot.manifest["refused_file"]
    if entry is None:
        return ""
    refused = storage.read_table(storage.entry_uri(snapshot.uri, entry)).to_pylist()
    reasons = [row["reason"] for row in refused if row[ITEM_ID] == item_id]
    return f": refused, {reasons[0]}" if reasons else ""


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("an index needs faiss: pip install -e '.[faiss]' in the checkout") from error
    return faiss
