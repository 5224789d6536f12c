"""The embeddings artifact: ``<root>/<snapshot id>/part-*.parquet`` and, last, ``manifest.json``; ``<root>/LATEST``.

The manifest's keys:

- ``format``; ``snapshot_id``; ``parent``, what LATEST named when the run began, or null; ``created_at``, ISO 8601, UTC;
- ``files``: ``file, rows, bytes, sha256`` of every part; file ``i`` of ``n`` holds bucket ``i`` of ``n``
  (:mod:`llmemb.buckets`); ``refused_file``: the same for ``refused.parquet``, null where nothing was refused;
- ``counts``: ``total`` = ``new + changed + kept`` vectors, against the parent; ``deleted``, vectors of the parent that
  are no more; ``refused``. With another encoder than the parent's all are new;
- what the vectors are: ``dimension`` (after any cut), ``dtype, normalize, encoder`` (fingerprint), ``encoder_uri,
  prompt_template, max_seq_len, precision``; ``prompt_tokenizer`` (fingerprint) where the template has one;
  ``catalogue`` and ``dataset`` (fingerprints);
- ``encoded``: ``items, tokens`` of this run; ``parity``: ``sample_items, min_cosine`` of those, null where there are
  none; ``llmemb``: the version.

A shard is ``item_id: string``, ``embedding: fixed_size_list<dtype>[dimension]``, ``prompt_hash: string``.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmemb import storage, vectors
from llmemb.errors import InputError, TemporaryError
from llmemb.vectors import EMBEDDING, ITEM_ID, MANIFEST_FILE

FORMAT = 2
LATEST_FILE = "LATEST"
PROMPT_HASH = "prompt_hash"
VECTOR_KEYS = ("encoder", "max_seq_len", "precision", "dtype", "normalize", "dimension")
"""Of a manifest: with these the same, the same prompt has the same vector."""
_FOLDER_NAME = re.compile(r"[\w-]+")


class Snapshot:
    """A published snapshot: immutable, self-contained."""

    def __init__(self, uri: str, manifest: dict[str, Any]) -> None:
        self.uri = uri
        self.manifest = manifest

    @classmethod
    def open(cls, uri: str) -> Self:
        """Opens a snapshot folder, or the newest snapshot of a root.

        Raises:
            InputError: no snapshot has been published there, or one of another format.
        """
        if not storage.exists(storage.join(uri, MANIFEST_FILE)):
            latest = latest_id(uri)
            if latest is None:
                raise InputError(f"embeddings: {uri} has no {MANIFEST_FILE} and no {LATEST_FILE}: nothing published")
            uri = storage.join(uri, latest)
        manifest = storage.read_json(storage.join(uri, MANIFEST_FILE))
        found = manifest.get("format") if isinstance(manifest, dict) else None
        if found != FORMAT:
            raise InputError(
                f"embeddings: {uri}/{MANIFEST_FILE} is of format {found}; expected {FORMAT}, as embed writes it now"
            )
        return cls(uri, manifest)

    @property
    def snapshot_id(self) -> str:
        return self.manifest["snapshot_id"]

    fingerprint = snapshot_id

    @property
    def embedding_dim(self) -> int:
        return self.manifest["dimension"]

    @property
    def dtype(self) -> vectors.VectorDtype:
        return self.manifest["dtype"]

    def tables(self) -> list[pa.Table]:
        """One table per part file, in order."""
        return [self.part(entry) for entry in self.manifest["files"]]

    def vectors(
        self, item_ids: list[str], *, into: NDArray[np.floating] | None = None
    ) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        """The vectors of these items, in this order.

        Args:
            into: Where they are put, ``[len(item_ids), dim]``, all zero; a new float32 array by default.

        Returns:
            That array, zero where an item is not in the snapshot, and bool ``[len(item_ids)]``, False there.
        """
        found = np.zeros(len(item_ids), dtype=bool)
        result = np.zeros((len(item_ids), self.embedding_dim), dtype=np.float32) if into is None else into
        wanted = pa.array(item_ids, pa.string())
        for entry in self.manifest["files"]:
            table = self.part(entry)
            rows = pc.index_in(wanted, value_set=table.column(ITEM_ID))
            here = np.flatnonzero(rows.is_valid().to_numpy(zero_copy_only=False))
            result[here] = vectors.from_table(table)[rows.drop_null().to_numpy()]
            found[here] = True
        return result, found

    def has(self, item_ids: list[str]) -> NDArray[np.bool_]:
        """Whether each item is in it; vectors are not read."""
        wanted, found = pa.array(item_ids, pa.string()), np.zeros(len(item_ids), dtype=bool)
        for entry in self.manifest["files"]:
            value_set = vectors.read_ids(self.uri, entry)
            found |= pc.is_in(wanted, value_set=value_set).to_numpy(zero_copy_only=False)
        return found

    def part(self, entry: dict[str, Any]) -> pa.Table:
        """The file of a manifest entry; InputError where it is not the one that the manifest names, or not as wide."""
        table = vectors.read(self.uri, entry)
        width = table.schema.field(EMBEDDING).type.list_size
        if width != self.embedding_dim:
            raise InputError(
                f"embeddings: {self.uri}/{entry['file']} has vectors of {width} values; expected the manifest's "
                f"{self.embedding_dim}"
            )
        return table


def latest(root: str) -> Snapshot | None:
    """The newest published snapshot of a root; None where there is none.

    Raises:
        InputError: LATEST names a snapshot that is not there.
    """
    snapshot_id = latest_id(root)
    if snapshot_id is None:
        return None
    uri = storage.join(root, snapshot_id)
    if not is_published(uri):
        raise InputError(f"embeddings: {root}/{LATEST_FILE} names {snapshot_id}, which has no {MANIFEST_FILE}")
    return Snapshot.open(uri)


def latest_id(root: str) -> str | None:
    """The id of the newest published snapshot of a root; None where there is none.

    Raises:
        InputError: LATEST holds something else than a folder's name.
    """
    uri = storage.join(root, LATEST_FILE)
    return storage.pointed_at(uri, _FOLDER_NAME, expected="the name of a snapshot's folder")


def is_published(uri: str) -> bool:
    return storage.exists(storage.join(uri, MANIFEST_FILE))


def publish(root: str, manifest: dict[str, Any], parent: Snapshot | None = None) -> bool:
    """Makes a snapshot exist: writes its manifest, then points LATEST at it, if it still names the parent.

    Returns:
        Whether the manifest is this one; of two runs of the same job at once, the second leaves that of the first.

    Raises:
        InputError: another run has moved LATEST since this one began.
        TemporaryError: a file that the manifest names is gone: a run that is silent for long is taken to be dead and
            swept away.
    """
    uri = storage.join(root, manifest["snapshot_id"])
    refused = manifest["refused_file"]
    check_files(uri, [*manifest["files"], *([refused] if refused else [])])
    content = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    is_mine = storage.swap(storage.join(uri, MANIFEST_FILE), content, None)
    point_latest(root, manifest["snapshot_id"], parent)
    return is_mine


def check_files(uri: str, entries: Iterable[dict[str, Any]]) -> None:
    """Raises TemporaryError where a file that entries of a manifest name is gone."""
    there = set(storage.list_files(uri))
    for entry in entries:
        if storage.entry_uri(uri, entry) not in there:
            raise TemporaryError(f"embeddings: {uri}: {entry['file']} is gone; nothing is published: run it again")


def point_latest(root: str, snapshot_id: str, parent: Snapshot | None) -> None:
    """Moves LATEST from the parent to a snapshot: where the store can, in one step that only one run can take.

    Raises:
        InputError: LATEST names neither.
    """
    uri = storage.join(root, LATEST_FILE)
    if not storage.has_conditional_put(root):
        print(f"embeddings: {root} has no conditional put: of two runs at the same moment, the later moves LATEST")
    moved = storage.point(uri, snapshot_id, previous=parent.snapshot_id if parent else None)
    if not moved and latest_id(root) != snapshot_id:
        raise InputError(
            f"embeddings: {root}/{snapshot_id} is published, but another run moved {LATEST_FILE} to {latest_id(root)} "
            "meanwhile, and there it stays; run again to go on from that one"
        )
