"""The recommender artifact: ``model.safetensors``, ``item_embeddings/``, ``metrics.json``, ``recommender.json``."""

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from llmemb import storage, vectors
from llmemb.data.sequences import Sequences
from llmemb.errors import InputError
from llmemb.rat.config import ModelConfig
from llmemb.srs.backbone import make_backbone
from llmemb.srs.encoder import HistoryEncoder, score
from llmemb.vectors import MANIFEST_FILE

RECOMMENDER_FILE, WEIGHTS_FILE, METRICS_FILE = "recommender.json", "model.safetensors", "metrics.json"
ITEM_EMBEDDINGS_FOLDER = "item_embeddings"
FORMAT = 2
ROWS_PER_FILE = 2**18
ENCODER_PREFIX = "encoder."


class Recommender:
    """A finished recommender: scores come from the cached item embeddings, no LLM and no adapter runs."""

    def __init__(self, info: dict[str, Any], encoder: HistoryEncoder, table: Float[Tensor, "item final"]) -> None:
        self.info = info
        self._encoder = encoder.eval()
        self._table = table

    @classmethod
    def load(cls, uri: str, *, device: str = "cpu") -> Self:
        """Opens a finished recommender.

        Raises:
            InputError: there is none, or its files do not belong together.
        """
        info = read_info(uri)
        model = ModelConfig.model_validate(info["model"])
        encoder = make_encoder(info["backbone"], model, content_decay=info["content_decay"])
        weights = safetensors.torch.load(storage.read_bytes(storage.join(uri, WEIGHTS_FILE)))
        of_encoder = {
            name.removeprefix(ENCODER_PREFIX): w for name, w in weights.items() if name.startswith(ENCODER_PREFIX)
        }
        encoder.load_state_dict(of_encoder)
        table = torch.from_numpy(read_final_table(uri))
        return cls(info, encoder.to(device), table.to(device))

    @property
    def label(self) -> str:
        return self.info["label"]

    @property
    def item_embeddings(self) -> Float[Tensor, "item dim"]:
        """``hidden_dim`` wide, row j for item index j + 1; they can initialise any recommender's embedding layer."""
        return self._table[:, : self._encoder.hidden_dim]

    @property
    def content(self) -> Float[Tensor, "item content"]:
        """What the scores' content term compares; no columns without it."""
        return self._table[:, self._encoder.hidden_dim :]

    def score(self, histories: Sequences) -> Iterator[Float[Tensor, "user item"]]:
        """Scores of all items, some users at a time, in their order; column j is item index j + 1."""
        return score(self._encoder, self._table, histories)


def make_encoder(backbone: str, model: ModelConfig, *, content_decay: float) -> HistoryEncoder:
    """An untrained encoder with that backbone.

    Raises:
        ValueError: there is no such backbone.
    """
    module = make_backbone(
        backbone,
        hidden_dim=model.hidden_dim,
        num_blocks=model.num_blocks,
        num_heads=model.num_heads,
        max_seq_len=model.max_seq_len,
        dropout=model.dropout,
    )
    return HistoryEncoder(
        module,
        hidden_dim=model.hidden_dim,
        max_seq_len=model.max_seq_len,
        similarity=model.similarity,
        temperature=model.temperature,
        content_decay=content_decay,
    )


def write_recommender(
    uri: str,
    model: nn.Module,
    *,
    item_ids: list[str],
    final_table: Float[Tensor, "item final"],
    info: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """Writes the artifact, ``recommender.json`` last.

    Args:
        model: Its parameters are stored; those of its ``encoder`` are what scoring needs besides the table.
        final_table: The item embeddings and, in further columns, the content.
        info: The content of ``recommender.json``.
    """
    weights = {name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()}
    storage.write_bytes(storage.join(uri, WEIGHTS_FILE), safetensors.torch.save(weights))
    _write_final_table(uri, item_ids, final_table.detach().float().cpu().numpy(), info)
    storage.write_json(storage.join(uri, METRICS_FILE), metrics)
    storage.write_json(storage.join(uri, RECOMMENDER_FILE), info)


def read_info(uri: str) -> dict[str, Any]:
    """The content of ``recommender.json``.

    Raises:
        InputError: there is no finished recommender.
    """
    file = storage.join(uri, RECOMMENDER_FILE)
    if not storage.exists(file):
        raise InputError(f"recommender: {uri} has no {RECOMMENDER_FILE}: expected the output of a finished rat job")
    info: dict[str, Any] = storage.read_json(file)
    if info["format"] != FORMAT:
        raise InputError(f"recommender: {uri} has format {info['format']}; expected {FORMAT}: train it again")
    return info


def read_final_table(uri: str) -> NDArray[np.float32]:
    """The item embeddings and, in further columns, the content, ``[num_items, final]``, in index order.

    Raises:
        InputError: a file is not the one that the manifest names.
    """
    folder = storage.join(uri, ITEM_EMBEDDINGS_FOLDER)
    files = storage.read_json(storage.join(folder, MANIFEST_FILE))["files"]
    return np.concatenate([vectors.from_table(vectors.read(folder, entry)) for entry in files]).astype(np.float32)


def _write_final_table(uri: str, item_ids: list[str], embeddings: NDArray[np.float32], info: dict[str, Any]) -> None:
    folder = storage.join(uri, ITEM_EMBEDDINGS_FOLDER)
    files = []
    for number, start in enumerate(range(0, len(item_ids), ROWS_PER_FILE)):
        rows = slice(start, start + ROWS_PER_FILE)
        table: pa.Table = vectors.to_table(item_ids[rows], embeddings[rows], "float32")
        files.append(vectors.write(storage.join(folder, f"part-{number:05}.parquet"), table))
    manifest = {
        "format": 1,
        "files": files,
        "dimension": embeddings.shape[1],
        "dtype": "float32",
        "counts": {"total": len(item_ids)},
        "dataset": info["dataset"],
        "embeddings": info["embeddings"],
    }
    storage.write_json(storage.join(folder, MANIFEST_FILE), manifest)
