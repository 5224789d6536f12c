import faiss
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmemb.data.sequences import Sequences
from llmemb.srs import search as searching
from llmemb.srs.encoder import HistoryEncoder, TermWeights
from llmemb.srs.sasrec import SASRec
from llmemb.srs.scoring import FinalTable, joined_queries, score

NUM_ITEMS, DIM = 2000, 8
WEIGHTS = TermWeights(seen_logit=-3.0, content_weight=2.0, content_share=0.3)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    backbone = SASRec(hidden_dim=DIM, num_blocks=1, num_heads=1, max_seq_len=4, dropout=0.0)
    encoder = HistoryEncoder(backbone, hidden_dim=DIM, max_seq_len=4, similarity="cosine", temperature=0.1).eval()
    encoder.weights = WEIGHTS
    table = FinalTable(*(F.normalize(torch.randn(NUM_ITEMS, width), dim=1) for width in (DIM, 12)))
    return encoder, table, Sequences.from_lists([[1, 2, 3], [NUM_ITEMS], [4, 4, 5, 6, 7, 8]])


@pytest.mark.parametrize(("sampled", "tolerance", "in_common"), [(NUM_ITEMS, 1e-4, 10), (500, 0.1, 9)])
def test_what_is_found_has_the_score_of_scoring_every_item(parts, monkeypatch, sampled, tolerance, in_common):
    monkeypatch.setattr(searching, "SAMPLED_ROWS", sampled)
    encoder, table, histories = parts
    index = faiss.IndexFlatIP(table.joined().shape[1])
    index.add(table.joined().numpy())
    [queries] = joined_queries(encoder, table, histories)
    found = list(searching.search(index, table, queries, WEIGHTS, depth=20))
    expected = torch.cat(list(score(encoder, table, histories))).numpy()
    assert len(found) == len(histories)
    for (rows, scores), all_scores, history in zip(found, expected, [[1, 2, 3], [NUM_ITEMS], range(4, 9)], strict=True):
        assert set(rows) >= {item - 1 for item in history}
        np.testing.assert_allclose(scores, all_scores[rows], rtol=tolerance)
        best = rows[np.argsort(-scores)[:10]]
        assert len(np.intersect1d(best, np.argsort(-all_scores)[:10])) >= in_common
