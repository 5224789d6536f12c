"""From the last layer's token states to one vector per text."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmemb.encoder.folder import PoolingMode


def pool(
    states: Float[Tensor, "batch seq dim"], mask: Int[Tensor, "batch seq"], mode: PoolingMode
) -> Float[Tensor, "batch dim"]:
    """Pools right-padded token states, in float32 whatever their dtype.

    ``mean`` is over the real tokens, the prompt's instruction included (the paper); ``lasttoken`` is the last real
    one; ``cls`` the first.
    """
    states = states.float()
    if mode == "cls":
        return states[:, 0]
    if mode == "lasttoken":
        return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
    weights = mask.unsqueeze(-1).float()  # [batch, seq, 1]
    return (states * weights).sum(dim=1) / weights.sum(dim=1)
