"""A recommender of one dataset asked about the items and users of another: last night's model on today's."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor

from llmemb.data.sequences import Sequences
from llmemb.rat.recommender import Recommender

UNKNOWN = torch.finfo(torch.float32).min
"""The score of an item that the recommender has never heard of: below all others, and finite."""


class Translated:
    """Reads the part of each history that the recommender knows, and puts the items that it does not know last."""

    def __init__(self, recommender: Recommender, item_ids: list[str]) -> None:
        """``item_ids`` are the other dataset's, in index order."""
        self._recommender = recommender
        theirs = pc.index_in(pa.array(item_ids, pa.string()), value_set=pa.array(recommender.item_ids, pa.string()))
        known = theirs.is_valid().to_numpy(zero_copy_only=False)
        self._known = torch.from_numpy(np.flatnonzero(known))
        self._columns = torch.from_numpy(theirs.drop_null().to_numpy().astype(np.int64))
        self._index = np.zeros(len(item_ids) + 1, dtype=np.int32)  # of their items; 0 for padding and the unknown
        self._index[1:][known] = self._columns.numpy() + 1

    @property
    def label(self) -> str:
        return self._recommender.label

    @property
    def item_embeddings(self) -> Float[Tensor, "item dim"]:
        """Zero for the items that the recommender does not know."""
        theirs = self._recommender.item_embeddings.cpu()
        table = torch.zeros(len(self._index) - 1, theirs.shape[1])
        table[self._known] = theirs[self._columns]
        return table

    def score(self, histories: Sequences) -> Iterator[Float[Tensor, "user item"]]:
        """Scores of all items; all the same after a history of which the recommender knows nothing."""
        translated = self._histories(histories)
        start = 0
        for theirs in self._recommender.score(translated):
            scores = torch.full((len(theirs), len(self._index) - 1), UNKNOWN, device=theirs.device)
            scores[:, self._known.to(theirs.device)] = theirs[:, self._columns.to(theirs.device)]
            empty = np.flatnonzero(translated.lengths[start : start + len(theirs)] == 0)
            scores[torch.from_numpy(empty).to(theirs.device)] = 0.0
            start += len(theirs)
            yield scores

    def _histories(self, histories: Sequences) -> Sequences:
        items = self._index[histories.items]
        num_known = np.concatenate([[0], np.cumsum(items > 0)]).astype(np.int64)
        return Sequences.of_all(items[items > 0], np.diff(num_known[histories.offsets]))
