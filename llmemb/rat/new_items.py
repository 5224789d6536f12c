"""New items: from the LLM embedding of an item that came after the training to its row of the final table.

An item without interactions is known by its text alone, through the adapter, the whitening and what was learnt of
content (:mod:`llmemb.rat.content`). All three are kept, so an item of tomorrow gets the row that it would have had in
the training.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmemb import vectors
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.rat import tensors
from llmemb.rat.adapter import AdapterKind, untrained_adapter
from llmemb.rat.scaling import Scaler
from llmemb.rat.training import TrainableRecommender
from llmemb.srs.content import ContentMap, unit
from llmemb.srs.encoder import HistoryEncoder
from llmemb.srs.item_table import AdaptedTable, FrozenTable
from llmemb.srs.scoring import FinalTable
from llmemb.vectors import ITEM_ID

NEW_ITEMS_FILE = "new_items.safetensors"
SPACE_KEYS = ("encoder", "dimension", "normalize", "max_seq_len", "prompt_template", "prompt_tokenizer")
"""Of a snapshot's manifest: with these the same, its vectors may stand beside those trained on: precision and dtype
only round them."""


@dataclass(frozen=True)
class NewItems:
    """What the rows of new items are made with.

    Attributes:
        scaler, adapter: From an LLM embedding to the item's vector.
        whitening, candidate_map: From an LLM embedding to the item's content; None without content.
        of_vectors: The snapshot's :data:`SPACE_KEYS`.
    """

    adapter_kind: AdapterKind
    scaler: Scaler
    adapter: nn.Module
    whitening: Scaler | None
    candidate_map: ContentMap | None
    of_vectors: dict[str, Any]

    @classmethod
    def of(
        cls,
        model: TrainableRecommender,
        adapter_kind: AdapterKind | Literal["pca"],
        *,
        candidate_map: ContentMap | None,
        snapshot: Snapshot,
    ) -> Self | None:
        """Those of a trained model; None where items are known by something else than their LLM embeddings."""
        tables = [module for module in model.table.modules() if isinstance(module, AdaptedTable)]
        if adapter_kind == "pca" or not tables or not isinstance(tables[0].scaler, Scaler):
            return None
        if not isinstance(tables[0].embeddings, FrozenTable):  # training has moved items that nobody has had, too
            return None
        whitening = model.whitening if model.encoder.weights.reads_content else None
        return cls(
            adapter_kind,
            tables[0].scaler,
            tables[0].adapter,
            whitening,
            candidate_map if whitening is not None else None,
            {key: snapshot.manifest.get(key) for key in SPACE_KEYS},
        )

    def rows(self, embeddings: Float[Tensor, "item embedding"], encoder: HistoryEncoder) -> FinalTable:
        """The final table's rows of items without interactions."""
        with torch.inference_mode():
            content = None if self.whitening is None else unit(self.whitening(embeddings))
            if content is not None and self.candidate_map is not None:
                content = self.candidate_map(content)
            return FinalTable(encoder.embeddings(self.adapter(self.scaler(embeddings))), content)

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        parts = {"scaler": self.scaler, "adapter": self.adapter, "whitening": self.whitening, "map": self.candidate_map}
        contents = {
            f"{part}.{name}": values
            for part, module in parts.items()
            if module is not None
            for name, values in (*module.named_parameters(), *module.named_buffers())
        }
        return tensors.to_bytes(contents, {"adapter": self.adapter_kind, "of_vectors": self.of_vectors})

    @classmethod
    def from_bytes(cls, content: bytes, *, hidden_dim: int) -> Self:
        """What :meth:`to_bytes` made."""
        values, notes = tensors.from_bytes(content)
        parts: dict[str, dict[str, Tensor]] = {"scaler": {}, "adapter": {}, "whitening": {}, "map": {}}
        for name, value in values.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        scaler = Scaler(**parts["scaler"])
        adapter = untrained_adapter(notes["adapter"], len(scaler.mean), hidden_dim)
        adapter.load_state_dict(parts["adapter"])
        whitening = Scaler(**parts["whitening"]) if parts["whitening"] else None
        candidate_map = ContentMap(len(scaler.mean)) if parts["map"] else None
        if candidate_map is not None:
            candidate_map.load_state_dict(parts["map"])
        return cls(notes["adapter"], scaler, adapter, whitening, candidate_map, notes["of_vectors"])

    def check_vectors(self, snapshot: Snapshot) -> None:
        """Raises InputError where a snapshot's vectors are not of the kind that was trained on."""
        for key, expected in self.of_vectors.items():
            found = snapshot.manifest.get(key)
            if found != expected:
                told = f"another {key} than"
                if not isinstance(expected, dict):  # a template is too long to show
                    told = f"{key} {found}; expected {expected}, which"
                raise InputError(f"embeddings: {snapshot.uri} has {told} the recommender was trained on")


def unknown_vectors(snapshot: Snapshot, known: list[str]) -> tuple[list[str], Float[Tensor, "item embedding"]]:
    """A snapshot's items that are not among those known, by id, and their vectors; only files that have any are read.

    Raises:
        InputError: a value is not finite.
    """
    known_ids = set(known)  # one for all files, where pyarrow would make one for each
    found: list[pa.Table] = []
    for entry in snapshot.manifest["files"]:
        is_new = [item_id not in known_ids for item_id in vectors.read_ids(snapshot.uri, entry).to_pylist()]
        if any(is_new):
            found.append(snapshot.part(entry).filter(pa.array(is_new)))
    if not found:
        return [], torch.zeros(0, snapshot.embedding_dim)
    table = pa.concat_tables(found).sort_by(ITEM_ID)
    item_ids, rows = table.column(ITEM_ID).to_pylist(), vectors.from_table(table).astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise InputError(
            f"embeddings: {snapshot.uri}: {len(broken):,} items have values that are NaN or infinite, such as "
            f"{item_ids[broken[0]]!r}"
        )
    return item_ids, torch.from_numpy(rows)
