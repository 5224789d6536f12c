import torch

from llmemb.encoder.pooling import pool

STATES = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]], [[5.0, 6.0], [100.0, 100.0], [100.0, 100.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def test_mean_leaves_padding_out():
    assert pool(STATES, MASK, "mean").tolist() == [[(1 + 3) / 2, (2 + 4) / 2], [5.0, 6.0]]


def test_lasttoken_is_the_last_real_one():
    assert pool(STATES, MASK, "lasttoken").tolist() == [[3.0, 4.0], [5.0, 6.0]]


def test_cls_is_the_first():
    assert pool(STATES, MASK, "cls").tolist() == [[1.0, 2.0], [5.0, 6.0]]


def test_bf16_states_are_pooled_in_float32():
    assert pool(STATES.bfloat16(), MASK, "mean").dtype == torch.float32
