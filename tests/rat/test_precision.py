import pytest
import torch

from llmemb.rat.config import RatConfig
from llmemb.rat.precision import precision_of
from llmemb.workers import Worker


class OneOfThree(Worker):
    """The others say what they are made to say."""

    def __init__(self, others: float) -> None:
        super().__init__(1, 3)
        object.__setattr__(self, "others", others)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.others


@pytest.mark.parametrize(
    ("precision", "capabilities", "expected"),
    [
        ("auto", {"avx2": True, "avx512_bf16": True}, torch.bfloat16),
        ("auto", {"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ("auto", {"avx2": True, "avx512_bf16": False}, torch.float32),
        ("auto", {"architecture": "aarch64"}, torch.float32),
        ("fp32", {"avx512_bf16": True}, torch.float32),
        ("bf16", {}, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("worker", [Worker(), OneOfThree(2.0)])
def test_products_are_bfloat16_where_the_hardware_has_it(precision, capabilities, expected, worker, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision_of(config(precision), worker) == expected


def test_one_worker_without_it_is_enough_for_float32_on_all(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert precision_of(config("auto"), OneOfThree(1.0)) == torch.float32


def config(precision: str) -> RatConfig:
    values = {"dataset": "data", "output": "out", "method": "none", "engine": {"precision": precision}}
    return RatConfig.model_validate(values)
