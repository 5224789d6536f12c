from collections.abc import Iterator

import numpy as np
import torch

from llmemb.data.sequences import Sequences, Targets
from llmemb.evaluation.translated import UNKNOWN, Translated
from llmemb.metrics.ranking import rank_targets


class Counts:
    """Knows items b, a and d, and scores each by its index plus ten times how often the history has it."""

    label, item_ids = "counts", ["b", "a", "d"]
    item_embeddings = torch.tensor([[1.0], [2.0], [3.0]])

    def score(self, histories: Sequences) -> Iterator[torch.Tensor]:
        for user in range(len(histories)):  # one user at a time
            counts = np.bincount(histories[user], minlength=4)[1:]
            yield torch.tensor([[1.0, 2.0, 3.0]]) + 10 * torch.tensor(counts)[None]


ITEMS = ["a", "b", "c"]  # c is new; d is gone


def test_each_item_has_the_score_that_its_id_has_there():
    scores = torch.cat(list(Translated(Counts(), ITEMS).score(Sequences.from_lists([[1, 3, 1], [3, 2]]))))
    assert scores.tolist() == [[22.0, 1.0, UNKNOWN], [2.0, 11.0, UNKNOWN]]


def test_a_history_of_new_items_alone_ranks_its_target_last():
    targets = Targets(np.arange(2), Sequences.from_lists([[3], [2]]), np.array([1, 1], dtype=np.int32))
    translated = Translated(Counts(), ITEMS)
    assert rank_targets(translated, targets, num_items=3).ranks["full"].tolist() == [3, 2]


def test_a_new_item_is_ranked_last_and_has_no_embedding():
    translated = Translated(Counts(), ITEMS)
    targets = Targets(np.arange(1), Sequences.from_lists([[1]]), np.array([3], dtype=np.int32))
    assert rank_targets(translated, targets, num_items=3).ranks["full"].tolist() == [3]
    assert translated.item_embeddings.tolist() == [[2.0], [1.0], [0.0]]
