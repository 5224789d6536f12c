"""From encoder, item table and histories to the scores of all items: what a score is made of, and how it is weighed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmemb.data.sequences import Sequences
from llmemb.metrics.ranking import users_per_chunk
from llmemb.srs.encoder import HistoryEncoder, TermWeights
from llmemb.srs.repeats import seen_rows

QUERIES_PER_CHUNK = 512


@dataclass(frozen=True)
class FinalTable:
    """All of the items that scores are made of, row j for item index j + 1: no LLM and no adapter runs any more.

    Attributes:
        embeddings: ``[item, dim]``, what is cached and looked up.
        content: ``[item, content]``, unit rows; None without the content term.
    """

    embeddings: Float[Tensor, "item dim"]
    content: Float[Tensor, "item content"] | None = None

    def take(self, rows: Int[np.ndarray, " row"]) -> "FinalTable":
        """Some of its rows."""
        at = torch.from_numpy(rows).to(self.embeddings.device)
        return FinalTable(self.embeddings[at], None if self.content is None else self.content[at])

    def joined(self) -> Float[Tensor, "item width"]:
        """Both side by side: what :func:`joined_queries` are multiplied with."""
        return self.embeddings if self.content is None else torch.cat([self.embeddings, self.content], dim=1)


@dataclass(frozen=True)
class Queries:
    """Vectors whose products with the table's joined rows are logits, for some users.

    Attributes:
        own: ``[user, width]``, for the trained logits and the weighed content.
        of_content: ``[user, width]``, for content by itself; None where it has no share.
        seen: Pairs of a user and a row of the table: these logits have ``seen_logit`` in addition.
    """

    own: Float[Tensor, "user width"]
    of_content: Float[Tensor, "user width"] | None
    seen: tuple[Tensor, Tensor]


def joined_queries(encoder: HistoryEncoder, table: FinalTable, histories: Sequences) -> Iterator[Queries]:
    """What an index over the joined rows is searched with, some users at a time."""
    weights = encoder.weights
    for start in range(0, len(histories), QUERIES_PER_CHUNK):
        with torch.inference_mode():
            item_index = encoder.questions(histories, start, start + QUERIES_PER_CHUNK).to(table.embeddings.device)
            own, of_content = encoder(item_index, table.embeddings)[:, -1], None
            if table.content is not None:
                content = encoder.content_queries(item_index, table.content)
                if weights.content_share:
                    of_content = torch.cat([torch.zeros_like(own), content / encoder.content_temperature], dim=1)
                own = torch.cat([own, weights.content_weight * content], dim=1)
        yield Queries(own, of_content, seen_rows(histories, start, start + QUERIES_PER_CHUNK))


def score(encoder: HistoryEncoder, table: FinalTable, histories: Sequences) -> Iterator[Float[Tensor, "user item"]]:
    """Scores of all items after each history, some users at a time, in their order; column j is item index j + 1.

    They are logits, or probabilities where content has a share.
    """
    weights = encoder.weights
    for parts in score_parts(encoder, table, histories):
        with torch.inference_mode():
            scores = parts.scores_(weights)
        yield scores


@dataclass(frozen=True)
class ScoreParts:
    """What some users' scores are made of.

    Attributes:
        logits: ``[user, item]``, what the backbone says.
        cosines: ``[user, item]``, of the history's content and each item's; None without content.
        seen: Pairs of a user and a row of the table, as an index into the scores.
    """

    logits: Float[Tensor, "user item"]
    cosines: Float[Tensor, "user item"] | None
    seen: tuple[Tensor, Tensor]
    content_temperature: float

    def take(self, users: Int[np.ndarray, " user"]) -> "ScoreParts":
        """Those of some users, rising."""
        at = torch.from_numpy(users).to(self.logits.device)
        place = torch.full((len(self.logits),), -1, device=at.device).index_copy_(0, at, torch.arange(len(at)).to(at))
        taken = place[self.seen[0]]
        seen = taken[taken >= 0], self.seen[1][taken >= 0]
        cosines = None if self.cosines is None else self.cosines[at]
        return ScoreParts(self.logits[at], cosines, seen, self.content_temperature)

    def scores_(self, weights: TermWeights) -> Float[Tensor, "user item"]:
        """The logits, or the probabilities where content has a share; in place of the terms, which are gone then.

        A fresh matrix of such a size takes longer to get than to fill.
        """
        own = self.own_logits(weights, out=self.logits)
        if not weights.content_share:
            return own
        content = self.content_logits(weights, out=self.cosines)
        return probabilities_(own).lerp_(probabilities_(content), weights.content_share)

    def own_logits(self, weights: TermWeights, *, out: Tensor) -> Float[Tensor, "user item"]:
        """What the backbone says and the weighed content, in ``out``."""
        if self.cosines is None:
            out.copy_(self.logits)
        else:
            torch.add(self.logits, self.cosines, alpha=weights.content_weight, out=out)
        return self._with_seen(out, weights)

    def content_logits(self, weights: TermWeights, *, out: Tensor | None) -> Float[Tensor, "user item"]:
        """What content says by itself, in ``out``."""
        assert self.cosines is not None, "content without a table of it has no share"
        return self._with_seen(torch.div(self.cosines, self.content_temperature, out=out), weights)

    def _with_seen(self, logits: Tensor, weights: TermWeights) -> Float[Tensor, "user item"]:
        logits[self.seen] += weights.seen_logit
        return logits


def probabilities_(logits: Float[Tensor, "user item"]) -> Float[Tensor, "user item"]:
    """Their softmax, in place."""
    logits.sub_(logits.amax(1, keepdim=True)).exp_()
    return logits.div_(logits.sum(1, keepdim=True))


def score_parts(encoder: HistoryEncoder, table: FinalTable, histories: Sequences) -> Iterator[ScoreParts]:
    """The terms of :func:`score`, each without its weight."""
    embeddings, content = table.embeddings, table.content
    chunk_users = users_per_chunk(len(embeddings))
    for start in range(0, len(histories), chunk_users):
        with torch.inference_mode():
            item_index = encoder.questions(histories, start, start + chunk_users).to(embeddings.device)
            logits = encoder(item_index, embeddings)[:, -1] @ embeddings.T
            cosines = None
            if content is not None:
                cosines = encoder.content_queries(item_index, content) @ content.T
        users, rows = seen_rows(histories, start, start + chunk_users)
        seen = users.to(embeddings.device), rows.to(embeddings.device)
        yield ScoreParts(logits, cosines, seen, encoder.content_temperature)
