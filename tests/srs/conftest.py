"""A small encoder with weights that say something, and threads enough to disagree."""

from collections.abc import Iterator

import pytest
import torch

from llmemb.srs.encoder import HistoryEncoder
from llmemb.srs.sasrec import SASRec

DIM, NUM_ITEMS = 4, 6


def make_encoder(similarity: str = "cosine") -> HistoryEncoder:
    torch.manual_seed(0)
    backbone = SASRec(hidden_dim=DIM, num_blocks=1, num_heads=1, max_seq_len=3, dropout=0.0)
    encoder = HistoryEncoder(
        backbone,
        hidden_dim=DIM,
        max_seq_len=3,
        similarity=similarity,
        temperature=0.1,  # type: ignore[arg-type]
    )
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch's number of threads is two, where other tests have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
