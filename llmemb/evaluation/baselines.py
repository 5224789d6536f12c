"""Rankings that take no training, and that many published models fail to beat."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from llmemb.data.sequences import Sequences


class Popularity:
    """The same list for everybody: items by their training interactions."""

    label = "popularity"
    item_embeddings = None

    def __init__(self, popularity: NDArray[np.int64]) -> None:
        """``popularity`` is int64 ``[num_items + 1]``; the entry of padding is left out."""
        self._scores = torch.from_numpy(popularity[1:].astype(np.float32))

    def score(self, histories: Sequences) -> Iterator[torch.Tensor]:
        yield self._scores.expand(len(histories), -1)


class TextSimilarity:
    """Items whose LLM embeddings are nearest, by cosine, to the mean of the history's newest items.

    No parameter is fitted: what it finds, the text alone knew.
    """

    label = "text similarity"

    def __init__(self, vectors: NDArray[np.float32], *, last_items: int) -> None:
        """``vectors`` is float32 ``[num_items, dim]``, row j for item index j + 1; zero where an item has none."""
        self.item_embeddings = F.normalize(torch.from_numpy(vectors), dim=1)
        self._last_items = last_items

    def score(self, histories: Sequences) -> Iterator[torch.Tensor]:
        taken = np.minimum(histories.lengths, self._last_items)
        newest = histories.newest(taken)
        rows = torch.from_numpy(newest.items.astype(np.int64) - 1)
        sums = F.embedding_bag(rows, self.item_embeddings, torch.from_numpy(newest.offsets[:-1]), mode="sum")
        yield F.normalize(sums, dim=1) @ self.item_embeddings.T
