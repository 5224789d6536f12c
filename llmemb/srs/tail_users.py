"""Tail users: what a short history's state lacks of a long one's, as MELT's user branch tells it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class TailUsers(nn.Module):
    """A linear map, zero at first, whose output is added to the states of users with short histories.

    Args:
        longest: The number of items up to which a history is short.
    """

    def __init__(self, hidden_dim: int, *, longest: int) -> None:
        super().__init__()
        self.longest = longest
        self.branch = nn.Linear(hidden_dim, hidden_dim)
        nn.init.zeros_(self.branch.weight)
        nn.init.zeros_(self.branch.bias)

    def enhance(self, states: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return states + self.branch(states)

    def forward(
        self, states: Float[Tensor, "batch seq dim"], num_items: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch seq dim"]:
        """The states, enhanced where the history has at most ``longest`` items."""
        return torch.where((num_items <= self.longest)[:, None, None], self.enhance(states), states)
