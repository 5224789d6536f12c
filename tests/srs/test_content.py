import torch
from torch.nn.functional import normalize

from llmemb.srs.content import content_queries
from llmemb.srs.objective import MASK

CONTENT = normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)


def test_newer_items_weigh_more():
    (query,) = content_queries(torch.tensor([[1, 3, 2]]), CONTENT, decay=0.5)
    expected = 0.25 * CONTENT[0] + 0.5 * CONTENT[2] + CONTENT[1]
    torch.testing.assert_close(query, expected / expected.norm())


def test_padding_and_masks_take_no_turn():
    rows = torch.tensor([[0, 0, 1, 2, 0], [0, 1, 2, MASK, 0], [1, 0, 0, 2, MASK]])
    queries = content_queries(rows, CONTENT, decay=0.5)
    torch.testing.assert_close(queries, queries[:1].expand(3, -1))
    torch.testing.assert_close(queries[0], normalize(torch.tensor([0.5, 1.0]), dim=0))


def test_an_empty_history_has_no_content():
    assert (content_queries(torch.tensor([[0, 0]]), CONTENT, decay=0.5) == 0).all()
