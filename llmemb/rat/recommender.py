"""The recommender artifact: ``model.safetensors``, ``item_embeddings/``, ``metrics.json``, ``recommender.json``.

With the content term of scores there is ``item_content/`` too, and where text alone tells of an item
``new_items.safetensors``.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from llmemb import storage, vectors
from llmemb.data.dataset import ITEM_ID
from llmemb.data.sequences import Sequences
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.neighbours import IndexKind, index_of, stored_rows
from llmemb.rat.config import ModelConfig
from llmemb.rat.new_items import NEW_ITEMS_FILE, NewItems, unknown_vectors
from llmemb.srs.backbone import make_backbone
from llmemb.srs.content import ContentMap
from llmemb.srs.encoder import HistoryEncoder
from llmemb.srs.scoring import FinalTable, joined_queries, score
from llmemb.srs.search import search
from llmemb.srs.tail_users import TailUsers
from llmemb.vectors import MANIFEST_FILE

RECOMMENDER_FILE, WEIGHTS_FILE, METRICS_FILE = "recommender.json", "model.safetensors", "metrics.json"
ITEM_EMBEDDINGS_FOLDER, ITEM_CONTENT_FOLDER = "item_embeddings", "item_content"
NEW_ITEMS_KEY = "new_items"
FORMAT = 3
PER_SEED = frozenset({"seed", "dataset", "embeddings", "collaborative", "item_vectors", "output"})
ROWS_PER_FILE = 2**18
INDEX_ROWS_COMPARED = 16
INDEX_TOLERANCE = 1e-3
"""Of the largest value: the rows of new items may have been made on another device."""
ENCODER_PREFIX = "encoder."
CONTENT_MAP = "content_map.weight"
CONTENT_KEYS = ("content_decay", "content_temperature")


class Recommender:
    """A finished recommender: scores come from the cached item embeddings, no LLM and no adapter runs."""

    def __init__(
        self,
        info: dict[str, Any],
        encoder: HistoryEncoder,
        item_ids: list[str],
        table: FinalTable,
        *,
        uri: str | None = None,
    ) -> None:
        self.info, self.item_ids, self.uri = info, item_ids, uri
        self._encoder = encoder.eval()
        self._table = table

    @classmethod
    def load(cls, uri: str, *, device: str = "cpu") -> Self:
        """Opens a finished recommender.

        Raises:
            InputError: there is none, its files do not belong together, or its backbone cannot be imported here.
        """
        info = read_info(uri)
        model = ModelConfig.model_validate(info["model"])
        try:
            encoder = make_encoder(info["backbone"], model, **{key: info[key] for key in CONTENT_KEYS})
        except ValueError as error:
            raise InputError(f"recommender: {uri}: {error}") from error
        weights = read_weights(uri)
        of_encoder = {
            name.removeprefix(ENCODER_PREFIX): w for name, w in weights.items() if name.startswith(ENCODER_PREFIX)
        }
        if info["tail_users"] is not None:
            encoder.tail_users = TailUsers(model.hidden_dim, longest=info["tail_users"])
        if CONTENT_MAP in of_encoder:
            encoder.content_map = ContentMap(len(of_encoder[CONTENT_MAP]))
        try:
            encoder.load_state_dict(of_encoder)
        except RuntimeError as error:
            raise InputError(f"recommender: {uri}: {' '.join(str(error).split())[:200]}") from error
        item_ids, embeddings = _read_table(uri, info, ITEM_EMBEDDINGS_FOLDER)
        if embeddings.shape[1] != model.hidden_dim:
            raise InputError(
                f"recommender: {uri}/{ITEM_EMBEDDINGS_FOLDER} has vectors of {embeddings.shape[1]} values; expected "
                f"{RECOMMENDER_FILE}'s hidden_dim, {model.hidden_dim}"
            )
        content = None
        if info[ITEM_CONTENT_FOLDER] is not None:  # null where there is none, whatever another run left there
            of_content, vectors = _read_table(uri, info, ITEM_CONTENT_FOLDER)
            if of_content != item_ids:
                raise InputError(
                    f"recommender: {uri}: {ITEM_EMBEDDINGS_FOLDER} and {ITEM_CONTENT_FOLDER} hold different items"
                )
            content = torch.from_numpy(vectors).to(device)
        table = FinalTable(torch.from_numpy(embeddings).to(device), content)
        return cls(info, encoder.to(device), item_ids, table, uri=uri)

    def with_new_items(self, embeddings: str) -> Self:
        """This recommender and the items of a snapshot that it does not know: they can be recommended, and histories
        may hold them, before the next training.

        Each has the row of an item that was there in the training and had no interactions.

        Args:
            embeddings: A snapshot or a root's newest, of the encoder that the recommender was trained with.

        Raises:
            InputError: a snapshot of other vectors, or a recommender that knows items by more than their text.
        """
        snapshot, new_items = Snapshot.open(embeddings), self._new_items()
        new_items.check_vectors(snapshot)
        item_ids, vectors = unknown_vectors(snapshot, self.item_ids)
        added = new_items.rows(vectors, self._encoder)
        of_content = self._table.content
        if of_content is not None and added.content is not None:
            of_content = torch.cat([of_content, added.content.to(of_content)])
        table = FinalTable(torch.cat([self.item_embeddings, added.embeddings.to(self.item_embeddings)]), of_content)
        return type(self)(self.info, self._encoder, [*self.item_ids, *item_ids], table, uri=self.uri)

    @property
    def label(self) -> str:
        return self.info["label"]

    @property
    def item_embeddings(self) -> Float[Tensor, "item dim"]:
        """``hidden_dim`` wide, row j for item index j + 1; they can initialise any recommender's embedding layer."""
        return self._table.embeddings

    @property
    def content(self) -> Float[Tensor, "item content"] | None:
        """What the scores' content term compares; None without it."""
        return self._table.content

    def score(self, histories: Sequences) -> Iterator[Float[Tensor, "user item"]]:
        """Scores of all items, some users at a time, in their order; column j is item index j + 1."""
        return score(self._encoder, self._table, histories)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        *,
        k: int,
        filter_seen: bool = True,
        skip_unknown: bool = False,
        index: Any = None,
    ) -> list[list[tuple[str, float]]]:
        """The ``k`` best items after each history and their scores, the best first.

        Args:
            histories: Item ids, at least one each, the newest last; a backbone reads the newest ``max_seq_len``.
            filter_seen: Leaves out the items of the history, all of them.
            skip_unknown: Passes over items that the recommender does not know, such as those that came later; after a
                history without any other nothing is recommended.
            index: From :meth:`build_index`: not every item is scored then, and an approximate one may miss some.

        Raises:
            InputError: a history is empty, the recommender does not know an item, or the index is of other items or
                another training: by its size, and where it holds vectors as they are (those of :meth:`build_index` do)
                also by a few of them.
        """
        if k < 1:
            raise InputError(f"k: expected 1 or more, got {k}")
        known = self._item_indices(histories, skip_unknown=skip_unknown)
        answered = [row for row, items in enumerate(known) if items]
        ranked: list[list[tuple[str, float]]] = [[] for _ in known]
        found = self._rank(Sequences.from_lists([known[row] for row in answered]), k, filter_seen, index)
        for row, items in zip(answered, found, strict=True):
            ranked[row] = items
        return ranked

    def _rank(self, rows: Sequences, k: int, filter_seen: bool, index: Any) -> list[list[tuple[str, float]]]:
        if index is not None:
            self._check_index(index)
            return self._search(index, rows, k=k, filter_seen=filter_seen)
        ranked: list[list[tuple[str, float]]] = []
        for chunk in self.score(rows):
            scores = chunk.clone()
            if filter_seen:
                had = rows.take(np.arange(len(ranked), len(ranked) + len(scores)))
                users = np.repeat(np.arange(len(scores)), had.lengths)
                scores[torch.from_numpy(users), torch.from_numpy(had.items.astype(np.int64)) - 1] = float("-inf")
            best = scores.topk(min(k, scores.shape[1]), dim=1)
            for values, items in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                pairs = zip(items, values, strict=True)
                ranked.append([(self.item_ids[item], value) for item, value in pairs if value > float("-inf")])
        return ranked

    def _check_index(self, index: Any) -> None:
        num_items = len(self.item_ids)
        if index.ntotal != num_items:
            raise InputError(
                f"index: it holds {index.ntotal:,} items; expected the recommender's {num_items:,}: build it anew "
                "where items were added"
            )
        rows = np.unique(np.linspace(0, num_items - 1, INDEX_ROWS_COMPARED, dtype=np.int64))
        expected = self._table.take(rows).joined().cpu().numpy()
        if index.d != expected.shape[1]:
            raise InputError(
                f"index: its vectors have {index.d} values; expected the recommender's {expected.shape[1]}: build it "
                "anew after a training"
            )
        found = stored_rows(index, rows)
        if found is not None and not np.allclose(
            found, expected, rtol=0, atol=INDEX_TOLERANCE * np.abs(expected).max()
        ):
            raise InputError("index: it holds the vectors of another recommender: build it anew after a training")

    def build_index(self, kind: IndexKind = "hnsw") -> Any:
        """A faiss index for :meth:`recommend`, over each item's embedding and content side by side.

        ``flat`` searches exactly, ``hnsw`` a graph, ``ivf`` inverted lists. Its rows are ``item_ids``';
        ``faiss.write_index`` stores it. Where content has a share of the score each user is two searches, and an item
        that is among the first of neither is not found.

        Raises:
            ImportError: faiss is not installed.
        """
        return index_of(self._table.joined().cpu().numpy(), kind)

    def _search(self, index: Any, histories: Sequences, *, k: int, filter_seen: bool) -> list[list[tuple[str, float]]]:
        ranked: list[list[tuple[str, float]]] = []
        # The history's items can only sink or go: below them are enough others.
        depth = min(len(self.item_ids), k + int(histories.lengths.max(initial=0)))
        for queries in joined_queries(self._encoder, self._table, histories):
            for rows, scores in search(index, self._table, queries, self._encoder.weights, depth=depth):
                if filter_seen:
                    kept = ~np.isin(rows, histories[len(ranked)].astype(np.int64) - 1)
                    rows, scores = rows[kept], scores[kept]
                best = np.argsort(-scores, kind="stable")[:k]
                ranked.append([(self.item_ids[rows[place]], float(scores[place])) for place in best])
        return ranked

    def _new_items(self) -> NewItems:
        expected = self.info.get(NEW_ITEMS_KEY)
        if self.uri is None or expected is None:
            raise InputError(
                f"recommender: {self.uri} ({self.label}) has no {NEW_ITEMS_FILE}: it knows items by more than their "
                "text; expected one of method llmemb with a trained adapter on frozen embeddings, as rat writes it now"
            )
        content = storage.read_bytes(storage.join(self.uri, NEW_ITEMS_FILE))
        if storage.checksum(content) != expected:
            raise InputError(_of_another_run(self.uri, NEW_ITEMS_FILE))
        return NewItems.from_bytes(content, hidden_dim=self.item_embeddings.shape[1])

    @cached_property
    def _item_index(self) -> dict[str, int]:
        return {item_id: number for number, item_id in enumerate(self.item_ids, start=1)}

    def _item_indices(self, histories: Sequence[Sequence[str]], *, skip_unknown: bool) -> list[list[int]]:
        """The item indices of each history."""
        index = self._item_index
        for row, history in enumerate(histories):
            if isinstance(history, str):
                raise InputError(f"history: histories[{row}] is {history!r}: expected a list of item ids for each")
            if len(history) == 0:
                raise InputError(f"history: histories[{row}] has no item: expected at least one to recommend from")
            unknown = [item_id for item_id in history if item_id not in index]
            if unknown and not skip_unknown:
                raise InputError(f"history: {unknown[0]!r} is none of the recommender's {len(index):,} items")
        return [[index[item_id] for item_id in history if item_id in index] for history in histories]


def make_encoder(backbone: str, model: ModelConfig, **content: float) -> HistoryEncoder:
    """An untrained encoder with that backbone.

    Args:
        content: :data:`CONTENT_KEYS`, as :class:`HistoryEncoder` takes them.

    Raises:
        ValueError: there is no such backbone.
    """
    return HistoryEncoder(
        make_backbone(backbone, **backbone_sizes(model)),
        hidden_dim=model.hidden_dim,
        max_seq_len=model.max_seq_len,
        similarity=model.similarity,
        temperature=model.temperature,
        **content,
    )


def backbone_sizes(model: ModelConfig) -> dict[str, Any]:
    """What a backbone is made with."""
    return model.model_dump(include={"hidden_dim", "num_blocks", "num_heads", "max_seq_len", "dropout"})


def write_recommender(
    uri: str,
    model: nn.Module,
    *,
    item_ids: list[str],
    table: FinalTable,
    new_items: NewItems | None = None,
    info: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """Writes the artifact, ``recommender.json`` last; one that is finished stays as it is.

    Of two runs of the same job at once, on unlike machines, the later would else leave weights that nothing names.

    Args:
        model: Its parameters are stored; those of its ``encoder`` are what scoring needs besides the table.
        new_items: What the rows of items that come later are made with, if that can be.
        info: The content of ``recommender.json``. The checksums of the weights and of that, and the fingerprints of
            the tables' manifests are added: what is of another run does not pass as this one's.
    """
    if is_recommender(uri):
        return
    # Cloned: the format refuses tensors that share memory, as those of a block that occurs twice do.
    weights = {name: weight.detach().cpu().contiguous().clone() for name, weight in model.state_dict().items()}
    content = safetensors.torch.save(weights)
    storage.write_bytes(storage.join(uri, WEIGHTS_FILE), content)
    parts: dict[str, str | None] = {"weights": storage.checksum(content), ITEM_CONTENT_FOLDER: None}
    parts[NEW_ITEMS_KEY] = None
    if new_items is not None:
        of_new_items = new_items.to_bytes()
        storage.write_bytes(storage.join(uri, NEW_ITEMS_FILE), of_new_items)
        parts[NEW_ITEMS_KEY] = storage.checksum(of_new_items)
    source = {key: info[key] for key in ("dataset", "embeddings")}
    for folder, rows in ((ITEM_EMBEDDINGS_FOLDER, table.embeddings), (ITEM_CONTENT_FOLDER, table.content)):
        if rows is not None:
            values = rows.detach().float().cpu().numpy()
            parts[folder] = storage.fingerprint(write_vectors(storage.join(uri, folder), item_ids, values, source))
    storage.write_json(storage.join(uri, METRICS_FILE), metrics)
    storage.write_json(storage.join(uri, RECOMMENDER_FILE), info | parts)


def is_recommender(uri: str) -> bool:
    """Whether a finished recommender is there."""
    return storage.exists(storage.join(uri, RECOMMENDER_FILE))


def read_info(uri: str) -> dict[str, Any]:
    """The content of ``recommender.json``.

    Raises:
        InputError: there is no finished recommender.
    """
    file = storage.join(uri, RECOMMENDER_FILE)
    if not is_recommender(uri):
        raise InputError(f"recommender: {uri} has no {RECOMMENDER_FILE}: expected the output of a finished rat job")
    info: dict[str, Any] = storage.read_json(file)
    if info["format"] != FORMAT:
        raise InputError(f"recommender: {uri} has format {info['format']}; expected {FORMAT}: train it again")
    return info


def recipe(info: Mapping[str, Any]) -> str:
    """The fingerprint of what the seeds of one recommender have in common, from its ``recommender.json``.

    Where what they were made from lies may be seeded too; an ID-only recommender counts by its own recipe.
    """
    settings = {key: value for key, value in info.get("training", {}).items() if key not in PER_SEED}
    return storage.fingerprint([info["label"], info.get("embeddings"), info.get("collaborative_recipe"), settings])


def read_weights(uri: str) -> dict[str, Tensor]:
    """All that was trained, by name.

    Raises:
        InputError: they are not those that ``recommender.json`` names.
    """
    content = storage.read_bytes(storage.join(uri, WEIGHTS_FILE))
    if storage.checksum(content) != read_info(uri)["weights"]:
        raise InputError(_of_another_run(uri, WEIGHTS_FILE))
    return safetensors.torch.load(content)


def read_item_embeddings(uri: str) -> NDArray[np.float32]:
    """The item embeddings, ``[num_items, hidden_dim]``, in index order.

    Raises:
        InputError: a file is not the one that the manifest names, or the manifest not the one of this run.
    """
    return _read_table(uri, read_info(uri), ITEM_EMBEDDINGS_FOLDER)[1]


def _read_table(uri: str, info: dict[str, Any], folder: str) -> tuple[list[str], NDArray[np.float32]]:
    manifest = storage.read_json(storage.join(uri, folder, MANIFEST_FILE))
    if info[folder] != storage.fingerprint(manifest):
        raise InputError(_of_another_run(uri, folder))
    return read_vectors(storage.join(uri, folder))


def _of_another_run(uri: str, part: str) -> str:
    return f"recommender: {uri}/{part} is not what {RECOMMENDER_FILE} names: it was changed, or another run wrote it"


def read_vectors(folder: str) -> tuple[list[str], NDArray[np.float32]]:
    """Item ids and their vectors, in index order."""
    manifest = storage.read_json(storage.join(folder, MANIFEST_FILE))
    values = np.empty((sum(entry["rows"] for entry in manifest["files"]), manifest["dimension"]), dtype=np.float32)
    item_ids: list[str] = []
    for entry in manifest["files"]:  # one at a time: tables of large catalogues are gigabytes
        table = vectors.read(folder, entry)
        values[len(item_ids) : len(item_ids) + len(table)] = vectors.from_table(table)
        item_ids += table[ITEM_ID].to_pylist()
    return item_ids, values


def write_vectors(
    folder: str, item_ids: list[str], values: NDArray[np.float32], info: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes item vectors in index order and, last, the manifest, which it returns, with what ``info`` adds to it."""
    files = []
    for number, start in enumerate(range(0, len(item_ids), ROWS_PER_FILE)):
        rows = slice(start, start + ROWS_PER_FILE)
        table: pa.Table = vectors.to_table(item_ids[rows], values[rows], "float32")
        files.append(vectors.write(storage.join(folder, f"part-{number:05}.parquet"), table))
    manifest = {
        "format": 1,
        "files": files,
        "dimension": values.shape[1],
        "dtype": "float32",
        "counts": {"total": len(item_ids)},
        **info,
    }
    storage.write_json(storage.join(folder, MANIFEST_FILE), manifest)
    return manifest
