"""Where an item stands in its sequence, whatever padding is around it."""

from jaxtyping import Bool, Int
from torch import Tensor


def age(mask: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """How many items came after each: 0 for the newest, which answers in serving and must not depend on length."""
    return mask.flip(1).cumsum(1).flip(1).sub(1).clamp(min=0)


def rank(mask: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """How many items came before each: 0 for the oldest."""
    return mask.cumsum(1).sub(1).clamp(min=0)
