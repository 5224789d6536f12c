"""Rankings that take no training."""

import pytest
import torch

from llmemb.data.sequences import Sequences
from llmemb.evaluation import baselines
from llmemb.evaluation.baselines import ContentAlone, TextSimilarity
from llmemb.metrics import ranking

CONTENT = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0], [0, 0]])  # the last item has no embedding


def scores(*, repeats: float | None) -> torch.Tensor:
    histories = Sequences.from_lists([[1], [4, 3], [5]])
    return torch.cat(list(ContentAlone(CONTENT, decay=0.5, repeats=repeats).score(histories)))


def test_content_alone_is_the_cosine_with_a_history_whose_older_items_count_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "CHUNK_USERS", 2)
    one, two, none = scores(repeats=0.5)
    torch.testing.assert_close(one, torch.tensor([1, 0.8, 0, -1, 0]))
    query = torch.tensor([-0.5, 1]) / 1.25**0.5  # item 3, and half of item 4
    torch.testing.assert_close(two, CONTENT @ query)
    assert (none == 0).all()


def test_text_similarity_is_the_cosine_with_the_mean_of_the_newest_items() -> None:
    model = TextSimilarity(CONTENT.numpy(), last_items=2)
    (scores,) = model.score(Sequences.from_lists([[1], [4, 1, 3], [5]]))
    torch.testing.assert_close(scores[0], torch.tensor([1, 0.8, 0, -1, 0]))
    torch.testing.assert_close(scores[1], CONTENT @ torch.tensor([1.0, 1.0]) / 2**0.5)  # items 1 and 3
    assert (scores[2] == 0).all()


@pytest.mark.parametrize("items_read", [1, 50])
def test_what_the_user_had_comes_last_where_people_seldom_come_back(
    items_read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "CHUNK_USERS", 1)
    monkeypatch.setattr(baselines, "MAX_ITEMS_READ", items_read)
    ranked = scores(repeats=0.001).argsort(dim=1, descending=True)
    assert ranked[0, -1] == 0
    assert set(ranked[1, -2:].tolist()) == {2, 3}


def test_nothing_falls_where_it_is_not_asked_for() -> None:
    torch.testing.assert_close(scores(repeats=None), scores(repeats=0.5))
