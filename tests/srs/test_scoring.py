import math

import pytest
import torch

from llmemb.data.sequences import Sequences
from llmemb.metrics import ranking
from llmemb.srs.encoder import HistoryEncoder, TermWeights
from llmemb.srs.sasrec import SASRec
from llmemb.srs.scoring import FinalTable, joined_queries, score, score_parts
from tests.srs.conftest import DIM, NUM_ITEMS, make_encoder


def all_scores(encoder: HistoryEncoder, table: torch.Tensor, lists: list[list[int]], chunk: int) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranking, "CHUNK_USERS", chunk)
        return torch.cat(list(score(encoder, FinalTable(table), Sequences.from_lists(lists))))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_scores_do_not_depend_on_the_chunk_and_have_one_column_per_item(similarity):
    encoder = make_encoder(similarity)
    table = encoder.embeddings(torch.randn(NUM_ITEMS, DIM))
    lists = [[1, 2], [6], [3, 4, 5, 1, 2], [], [2, 2, 2]]
    expected = all_scores(encoder, table, lists, chunk=100)
    assert expected.shape == (5, NUM_ITEMS)  # padding has no column, so it cannot be recommended
    assert torch.isfinite(expected).all()
    for chunk in (1, 2):
        torch.testing.assert_close(all_scores(encoder, table, lists, chunk), expected)


def test_only_the_newest_items_are_read():
    encoder, table = make_encoder(), torch.nn.functional.normalize(torch.randn(NUM_ITEMS, DIM), dim=1)
    scores = all_scores(encoder, table, [[6, 5, 1, 2, 3], [4, 1, 2, 3]], chunk=2)
    torch.testing.assert_close(scores[0], scores[1])


def test_repeats_are_those_of_the_whole_history():
    encoder, table = make_encoder(), torch.nn.functional.normalize(torch.randn(NUM_ITEMS, DIM), dim=1)
    lists = [[4], [6, 5, 1, 2, 3], [5, 6, 1, 5, 3, 2]]
    expected = all_scores(encoder, table, lists, chunk=3)
    for user, history in enumerate(lists):
        expected[user, [item - 1 for item in set(history)]] -= 7.0
    encoder.seen_logit.fill_(-7.0)
    for chunk in (1, 3):
        torch.testing.assert_close(all_scores(encoder, table, lists, chunk), expected)
    [queries] = joined_queries(encoder, FinalTable(table), Sequences.from_lists(lists))
    scores = queries.own @ table.T
    scores[queries.seen] += encoder.seen_logit
    torch.testing.assert_close(scores, expected)


def test_content_by_itself_has_its_share_of_the_probability():
    encoder, table = make_encoder(), torch.nn.functional.normalize(torch.randn(NUM_ITEMS, DIM), dim=1)
    content = torch.nn.functional.normalize(torch.randn(NUM_ITEMS, 5), dim=1)
    encoder.content_decay, encoder.content_temperature = 0.5, 0.2
    encoder.weights = TermWeights(seen_logit=-2.0, content_weight=3.0, content_share=0.25)
    [parts] = score_parts(encoder, FinalTable(table, content), Sequences.from_lists([[1, 2]]))
    history = (content[1] + 0.5 * content[0]).double()
    cosines = content.double() @ history / history.norm()
    seen = torch.tensor([-2.0, -2.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    own = (parts.logits[0].double() + 3 * cosines + seen).softmax(0)
    expected = 0.75 * own + 0.25 * (cosines / 0.2 + seen).softmax(0)
    [scores] = score(encoder, FinalTable(table, content), Sequences.from_lists([[1, 2]]))
    torch.testing.assert_close(scores[0].double(), expected, atol=1e-6, rtol=1e-5)


def test_the_last_item_reads_its_own_row():
    encoder, table = make_encoder(), torch.randn(NUM_ITEMS, DIM)
    before = all_scores(encoder, table, [[NUM_ITEMS], [1]], chunk=2)
    table[-1] += torch.tensor([1.0, -1.0, 0.5, 0.0])
    after = all_scores(encoder, table, [[NUM_ITEMS], [1]], chunk=2)
    assert not torch.allclose(after[0, :-1], before[0, :-1])  # its history reads the row
    torch.testing.assert_close(after[1, :-1], before[1, :-1])  # others do not
    assert after[1, -1] != before[1, -1]  # and its column is scored by it


def test_an_untrained_cosine_encoder_ranks_by_similarity_to_the_last_item():
    backbone = SASRec(hidden_dim=2, num_blocks=2, num_heads=1, max_seq_len=3, dropout=0.5)
    encoder = HistoryEncoder(backbone, hidden_dim=2, max_seq_len=3, similarity="cosine", temperature=0.5).eval()
    table = encoder.embeddings(torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]))
    scores = all_scores(encoder, table, [[1, 2]], chunk=1)
    torch.testing.assert_close(scores, torch.tensor([[0.0, 2.0, 2 * math.sqrt(0.5)]]))
