"""A backbone of one's own is tried before anything is trained: what it does wrong is told in one line."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llmemb.errors import InputError
from llmemb.srs.backbone import make_backbone

NUM_USERS, MAX_LENGTH = 2, 8
NOISE_STD = 0.5
"""Added to all parameters: what a layer that starts at zero does would be hidden."""
TOLERANCE = 1e-3
"""Of the largest state: kernels may round differently from call to call."""


def try_backbone(
    name: str, *, hidden_dim: int, num_blocks: int, num_heads: int, max_seq_len: int, dropout: float
) -> None:
    """Makes a backbone and asks it for some states, on the CPU; torch's generator is left as it was.

    Raises:
        InputError: it cannot be made or called as :class:`llmemb.srs.backbone.Backbone` says, its states have another
            shape or are not finite, or it passes for causal and a state changes with a later item.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            backbone = make_backbone(
                name,
                hidden_dim=hidden_dim,
                num_blocks=num_blocks,
                num_heads=num_heads,
                max_seq_len=max_seq_len,
                dropout=dropout,
            ).eval()
        except Exception as error:
            raise InputError(f"backbone: {name} cannot be made: {_told(error)}") from error
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=NOISE_STD)
        vectors = torch.randn(NUM_USERS, min(max_seq_len, MAX_LENGTH), hidden_dim)
        mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
        mask[1, 1:-1] = False
        mask = mask.sort(dim=1).values  # the second user has fewer items, behind padding
        states = _states(name, backbone, vectors, mask)
        if getattr(backbone, "causal", True):
            other = vectors.clone()
            other[:, -1] = torch.randn(hidden_dim)
            earlier = mask.clone()
            earlier[:, -1] = False
            moved = (_states(name, backbone, other, mask) - states).abs()[earlier]
            if moved.numel() and moved.max() > TOLERANCE * states[mask].abs().max():
                raise InputError(
                    f"backbone: {name}: the state at an item changes with what comes after it, which it is trained to "
                    "tell; expected a mask against that, or causal = False, which trains it by masking items"
                )


def _states(
    name: str, backbone: nn.Module, vectors: Float[Tensor, "user seq dim"], mask: Bool[Tensor, "user seq"]
) -> Float[Tensor, "user seq dim"]:
    try:
        states = backbone(vectors, mask)
    except Exception as error:
        raise InputError(f"backbone: {name} cannot be called with item vectors and a mask: {_told(error)}") from error
    shape = list(states.shape) if isinstance(states, Tensor) else type(states).__name__
    if shape != list(vectors.shape):
        raise InputError(f"backbone: {name} gives {shape}; expected states of its input's shape, {list(vectors.shape)}")
    if not states[mask].isfinite().all():
        raise InputError(f"backbone: {name} gives states that are NaN or infinite")
    return states


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
