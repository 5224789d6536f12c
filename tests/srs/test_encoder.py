import pytest
import torch

from llmemb.data.sequences import Sequences
from llmemb.srs.backbone import BACKBONES, make_backbone
from llmemb.srs.encoder import HistoryEncoder, newest_items
from tests.srs.conftest import DIM, NUM_ITEMS, make_encoder


def test_an_item_that_starts_at_zero_can_be_learnt():
    """Its slope is finite: made a unit vector as it is, it would be thrown about by the first steps."""
    table = torch.zeros(NUM_ITEMS, DIM, requires_grad=True)
    make_encoder().embeddings(table).sum().backward()
    assert table.grad is not None
    assert 0 < table.grad.abs().max() <= 100


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_history_that_ends_with_an_item_at_zero_throws_no_weight_about(backbone):
    """An untrained backbone says nothing of it; made a unit vector as it is, that had a gradient of 1e12."""
    torch.manual_seed(0)
    layers = make_backbone(backbone, hidden_dim=DIM, num_blocks=1, num_heads=1, max_seq_len=3, dropout=0.0)
    encoder = HistoryEncoder(layers, hidden_dim=DIM, max_seq_len=3, similarity="cosine", temperature=0.07)
    table = torch.nn.functional.normalize(torch.randn(NUM_ITEMS, DIM), dim=1)
    table[0] = 0
    table.requires_grad_()
    encoder(torch.tensor([[0, 2, 1], [0, 0, 1]]), table)[:, -1].sum().backward()
    slopes = [parameter.grad for parameter in (table, *encoder.parameters()) if parameter.grad is not None]
    assert max(float(slope.abs().max()) for slope in slopes) < 1e5


def test_newest_items_are_padded_on_the_left():
    histories = Sequences.from_lists([[1, 2, 3, 4], [5], []])
    rows = newest_items(histories, 0, 3, max_seq_len=3)
    assert rows.tolist() == [[2, 3, 4], [0, 0, 5], [0, 0, 0]]
    nothing = Sequences.from_lists([[]])
    assert newest_items(nothing, 0, 1, max_seq_len=3).tolist() == [[0]]
