"""Rankings that take no training, and that many published models fail to beat."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from llmemb.data.sequences import Sequences
from llmemb.metrics.ranking import users_per_chunk
from llmemb.srs.content import content_queries
from llmemb.srs.encoder import newest_items
from llmemb.srs.repeats import seen_rows

RARE_REPEATS = 0.1
MAX_ITEMS_READ = 50
BEHIND_ALL = 3.0
"""More than two cosines can differ."""


class Popularity:
    """The same list for everybody: items by their training interactions."""

    label = "popularity"
    item_embeddings = None

    def __init__(self, popularity: NDArray[np.int64]) -> None:
        """``popularity`` is int64 ``[num_items + 1]``; the entry of padding is left out."""
        self._scores = torch.from_numpy(popularity[1:].astype(np.float32))

    def score(self, histories: Sequences) -> Iterator[torch.Tensor]:
        yield self._scores.expand(len(histories), -1)


class ContentAlone:
    """LLMEmb's content term without a recommender: the strongest use of the text that takes no training.

    Embeddings are whitened, older items of the history count less, and what the user has had comes last where people
    seldom come back to an item.
    """

    label = "content alone"
    item_embeddings = None

    def __init__(self, content: Float[Tensor, "item content"], *, decay: float, repeats: float | None) -> None:
        """``content`` has unit rows, zero where there is no embedding; ``repeats`` is the share of training targets
        that their user had before, None where it is not asked for and nothing falls."""
        self._content, self._decay = content, decay
        self._seen_last = repeats is not None and repeats < RARE_REPEATS

    def score(self, histories: Sequences) -> Iterator[torch.Tensor]:
        users = users_per_chunk(len(self._content))
        for start in range(0, len(histories), users):
            items = newest_items(histories, start, start + users, max_seq_len=MAX_ITEMS_READ)
            scores = content_queries(items, self._content, decay=self._decay) @ self._content.T
            if self._seen_last:
                scores[seen_rows(histories, start, start + users)] -= BEHIND_ALL
            yield scores


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
