"""A backbone of one's own is tried before anything is trained: what it does wrong is told in one line."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llmemb.errors import InputError
from llmemb.srs.backbone import make_backbone

NUM_USERS, MAX_LENGTH = 2, 8
NOISE_STD = 0.5
"""Added to all parameters: what a layer that starts at zero does would be hidden."""
TOLERANCE = 1e-3
"""Of the largest state: kernels may round differently from call to call."""


def try_backbone(name: str, *, elsewhere: bool = False, precision: torch.dtype = torch.float32, **sizes: Any) -> None:
    """Makes a backbone and asks it for some states, on the CPU; torch's generator is left as it was.

    Args:
        elsewhere: It is trained on other machines, whose GPUs its kernels may need: one that cannot be called here is
            told of and not refused.
        precision: What its products are computed in when it is trained.
        sizes: What it is made with, as :func:`make_backbone` takes them.

    Raises:
        InputError: it cannot be made or called as :class:`llmemb.srs.backbone.Backbone` says, its states have another
            shape or are not finite, it passes for causal and a state changes with a later item, or it cannot be called
            with products of that precision.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            backbone = make_backbone(name, **sizes).eval()
        except Exception as error:
            raise InputError(f"backbone: {name} cannot be made: {_told(error)}") from error
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=NOISE_STD)
        vectors = torch.randn(NUM_USERS, min(sizes["max_seq_len"], MAX_LENGTH), sizes["hidden_dim"])
        mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
        mask[1, 1:-1] = False
        mask = mask.sort(dim=1).values  # the second user has fewer items, behind padding
        try:
            states = backbone(vectors, mask)
        except Exception as error:
            told = f"backbone: {name} cannot be called with item vectors and a mask: {_told(error)}"
            if not elsewhere:
                raise InputError(told) from error
            print(f"{told}; not tried here, since the cluster may have what it needs")
            return
        _check(name, states, vectors, mask)
        if getattr(backbone, "causal", True):
            other = vectors.clone()
            other[:, -1] = torch.randn(sizes["hidden_dim"])
            _check_causal(name, states, backbone(other, mask), mask)
        if precision != torch.float32 and not elsewhere:
            try:
                with torch.autocast("cpu", dtype=precision):
                    backbone(vectors, mask)
            except Exception as error:
                raise InputError(
                    f"backbone: {name} cannot be called with bfloat16 products; expected engine.precision=fp32, or one "
                    f"that can: {_told(error)}"
                ) from error


def _check_causal(
    name: str,
    states: Float[Tensor, "user seq dim"],
    after_another: Float[Tensor, "user seq dim"],
    mask: Bool[Tensor, "user seq"],
) -> None:
    """``after_another`` are the states where the last item alone is another."""
    earlier = mask.clone()
    earlier[:, -1] = False
    moved = (after_another - states).abs()[earlier]
    if moved.numel() and moved.max() > TOLERANCE * states[mask].abs().max():
        raise InputError(
            f"backbone: {name}: the state at an item changes with what comes after it, which it is trained to "
            "tell; expected a mask against that, or causal = False, which trains it by masking items"
        )


def _check(name: str, states: Any, vectors: Float[Tensor, "user seq dim"], mask: Bool[Tensor, "user seq"]) -> None:
    shape = list(states.shape) if isinstance(states, Tensor) else type(states).__name__
    if shape != list(vectors.shape):
        raise InputError(f"backbone: {name} gives {shape}; expected states of its input's shape, {list(vectors.shape)}")
    if not states[mask].isfinite().all():
        raise InputError(f"backbone: {name} gives states that are NaN or infinite")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
