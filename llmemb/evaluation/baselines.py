"""Rankings that take no training, and that many published models fail to beat."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from llmemb.data.sequences import Sequences

USERS_PER_CHUNK = 1024


class Popularity:
    """The same list for everybody: items by their training interactions."""

    label = "popularity"
    item_embeddings = None

    def __init__(self, popularity: NDArray[np.int64]) -> None:
        """``popularity`` is int64 ``[num_items + 1]``; the entry of padding is left out."""
        self._scores = torch.from_numpy(popularity[1:].astype(np.float32))

    def score(self, histories: Sequences) -> Iterator[torch.Tensor]:
        for start in range(0, len(histories), USERS_PER_CHUNK):
            users = min(USERS_PER_CHUNK, len(histories) - start)
            yield self._scores.expand(users, -1)
