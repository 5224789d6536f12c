"""What a recommender is made from, found and loaded: dataset, snapshot, an ID-only recommender, item vectors."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from llmemb import storage
from llmemb.data.dataset import Dataset
from llmemb.embed.snapshot import Snapshot
from llmemb.encoder.folder import EncoderFolder, local_folder
from llmemb.errors import InputError
from llmemb.rat.config import RatConfig
from llmemb.rat.methods.method import Collaborative, Inputs
from llmemb.rat.recommender import read_item_embeddings, read_vectors, read_weights
from llmemb.rat.scaling import ROWS_PER_CHUNK
from llmemb.vectors import ITEM_ID, from_table


@dataclass(frozen=True)
class Sources:
    """Where what a method starts from is.

    Attributes:
        collaborative: An ID-only recommender.
        item_vectors: What a language model has learnt of the items, if the method has it do so.
    """

    collaborative: str | None
    item_vectors: str


def base_model_fingerprint(uri: str) -> str:
    """That of a language model's files, wherever they are.

    Raises:
        InputError: no such folder, or not one of a language model.
    """
    with local_folder(uri) as path:
        return EncoderFolder.read(path).fingerprint()


def load_inputs(config: RatConfig, dataset: Dataset, sources: Sources) -> Inputs:
    """All that a method's model is made from."""
    inputs = Inputs(
        config,
        dataset,
        collaborative=load_collaborative(sources.collaborative),
        item_vectors=torch.from_numpy(read_vectors(sources.item_vectors)[1])
        if "item_vectors" in config.reads
        else None,
    )
    if "embeddings" not in config.reads:
        return inputs
    assert config.embeddings is not None
    embeddings, missing = load_embeddings(Snapshot.open(config.embeddings), dataset)
    return replace(inputs, embeddings=embeddings, missing=missing)


def load_collaborative(uri: str | None) -> Collaborative | None:
    """The finished ID-only recommender at a URI."""
    return None if uri is None else Collaborative(torch.from_numpy(read_item_embeddings(uri)), read_weights(uri))


def count_missing(config: RatConfig, snapshot: Snapshot, dataset: Dataset) -> int:
    """How many of the dataset's items a snapshot lacks; of the snapshot only ids are read.

    Raises:
        InputError: more than the configured share.
    """
    missing = np.flatnonzero(~snapshot.has(dataset.item_ids))
    if len(missing) > config.max_missing_share * dataset.num_items:
        raise InputError(
            f"embeddings: {snapshot.uri} lacks {len(missing):,} of the dataset's {dataset.num_items:,} items, such as "
            f"{dataset.item_ids[missing[0]]!r}; expected at most {config.max_missing_share:.1%} (max_missing_share)"
        )
    return len(missing)


def check_values(snapshot: Snapshot, dataset: Dataset) -> None:
    """Reads a snapshot's vectors of the dataset's items, a file at a time.

    Raises:
        InputError: a value is not finite, all vectors are the same, or a file is not the one that the manifest names.
    """
    wanted = pa.array(dataset.item_ids, pa.string())
    broken: list[str] = []
    lowest, highest = np.full(snapshot.embedding_dim, np.inf), np.full(snapshot.embedding_dim, -np.inf)
    for entry in snapshot.manifest["files"]:
        table = snapshot.part(entry)
        # Looked up among the file's few items: among the catalogue's, each file would cost a hash table of them all.
        table = table.take(pc.index_in(wanted, value_set=table.column(ITEM_ID)).drop_null())
        values = from_table(table)
        broken += table.column(ITEM_ID).filter(pa.array(~np.isfinite(values).all(axis=1))).to_pylist()
        lowest = np.minimum(lowest, values.min(axis=0, initial=np.inf))
        highest = np.maximum(highest, values.max(axis=0, initial=-np.inf))
    if broken:
        raise InputError(
            f"embeddings: {snapshot.uri}: {len(broken):,} items have values that are NaN or infinite, such as "
            f"{broken[0]!r}"
        )
    if dataset.num_items > 1 and (lowest == highest).all():
        raise InputError(f"embeddings: {snapshot.uri}: every item has the same vector, which tells none from another")


def load_embeddings(snapshot: Snapshot, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The frozen LLM table ``[num_items, embedding_dim]``, unscaled, and the rows that the snapshot lacks.

    It is in the snapshot's precision and on a local disk, mapped. Rows that the snapshot lacks get the mean of the
    others, which tells nothing of them.

    Raises:
        InputError: a value is not finite.
    """
    on_disk = storage.zeros_on_disk((dataset.num_items, snapshot.embedding_dim), snapshot.dtype)
    table, found = snapshot.vectors(dataset.item_ids, into=on_disk)
    missing = np.flatnonzero(~found)
    total = np.zeros(snapshot.embedding_dim)
    for start in range(0, len(table), ROWS_PER_CHUNK):
        total += table[start : start + ROWS_PER_CHUNK].sum(axis=0, dtype=np.float64)  # zero where missing
    if not np.isfinite(total).all():
        check_values(snapshot, dataset)
    table[missing] = total / max(1, found.sum())
    return torch.from_numpy(table), torch.from_numpy(missing)
