"""Losses of positions against items: softmax over a table, and binary ones against sampled negatives."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# 4 MiB stay in a CPU's cache (measured: 1,024 positions, 12,101 items, h = 128, two AVX2 cores).
MAX_LOGITS_BYTES = {"cpu": 2**22, "cuda": 2**30}
# Every chunk writes the whole table's gradient once; with fewer positions that would dominate.
MIN_CHUNK_POSITIONS = 64
# Logits that lie within it need no maximum of their own before they are exponentiated: float32 holds e to the -87.
MAX_SPREAD = 60.0

Pairs = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]
"""Positions and rows of a table, side by side."""


def full_softmax(
    states: Float[Tensor, "position dim"],
    table: Float[Tensor, "item dim"],
    targets: Int[Tensor, " position"],
    *,
    logit_offsets: Float[Tensor, " item"] | None = None,
    passed_over: Pairs | None = None,
    chunk_positions: int | None = None,
    matmul_dtype: torch.dtype = torch.float32,
) -> Float[Tensor, ""]:
    """The cross-entropy summed over positions, each target against every item of the table.

    The gradients are computed in the forward pass, chunk by chunk, and logits are dropped as soon as they are used: the
    memory is ``chunk_positions * items`` floats whatever the batch, and no logit is computed twice.

    Args:
        targets: Rows of the table, from 0.
        logit_offsets: Constants added to every position's logits.
        passed_over: Pairs of a position, never falling, and a row of the table that is not its target: the position's
            softmax is without them.
        chunk_positions: By default as many as fit the device: a CPU's cache, a part of a GPU's memory.
        matmul_dtype: bfloat16 halves the time of the products and more where the hardware has it. Each chunk's
            products come out in it, sums over chunks and weights stay float32.
    """
    most_logits = MAX_LOGITS_BYTES[states.device.type] // matmul_dtype.itemsize
    chunk = chunk_positions or max(MIN_CHUNK_POSITIONS, most_logits // len(table))
    loss: Tensor = _FullSoftmax.apply(states, table, targets, logit_offsets, passed_over, chunk, matmul_dtype)
    return loss


def binary_cross_entropy(
    states: Float[Tensor, "position dim"],
    table: Float[Tensor, "item dim"],
    targets: Int[Tensor, " position"],
    negatives: Int[Tensor, "position negative"],
    *,
    calibration: float = 0.0,
    sampling_rate: float = 1.0,
) -> Float[Tensor, ""]:
    """``-log sigmoid`` of the target's logit and of minus each negative's, summed; the paper's loss with one negative.

    A negative that is the position's own target is passed over.

    Args:
        targets: Rows of the table, from 0; ``negatives`` too.
        calibration: 0 is plain; up to 1 it undoes, as gBCE does, that sampling makes the model too sure of everything
            (Petrov and Macdonald, 2023; their t).
        sampling_rate: The share of the catalogue that each position's negatives are (their alpha).
    """
    positive = torch.einsum("pd,pd->p", states, F.embedding(targets, table))
    negative = torch.einsum("pd,pnd->pn", states, F.embedding(negatives, table))
    power = 1 - calibration * (1 - sampling_rate)  # their beta
    is_target = negatives == targets[:, None]
    of_negatives = F.softplus(negative).masked_fill(is_target, 0.0)
    return (power * F.softplus(-positive)).sum() + of_negatives.sum()


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        offsets: Tensor | None,
        passed_over: Pairs | None,
        chunk: int,
        dtype: torch.dtype,
    ) -> Tensor:
        if _is_bounded(states, table, offsets):
            total, *gradients = _bounded_softmax(
                states, table, targets, offsets, passed_over, chunk, dtype, of_table=ctx.needs_input_grad[1]
            )
            ctx.save_for_backward(*gradients)
            return total
        states_gradient, table_gradient = torch.empty_like(states), torch.zeros_like(table)
        items = table.to(dtype)
        total = states.new_zeros(())
        buffer = states.new_empty(min(chunk, len(states)), len(table))
        for start in range(0, len(states), chunk):
            rows = slice(start, start + chunk)
            queries, wanted = states[rows], targets[rows, None]
            logits = buffer[: len(queries)]  # [chunk, item]
            _multiply(logits, queries.to(dtype), items.T)
            if offsets is not None:
                logits += offsets
            if passed_over is not None:
                logits[_within(passed_over, start, len(logits))] = float("-inf")
            highest = logits.amax(1, keepdim=True)
            target_logits = logits.gather(1, wanted)
            likelihoods = logits.sub_(highest).exp_()
            normaliser = likelihoods.sum(1, keepdim=True)
            total += (normaliser.log() + highest - target_logits).sum()
            # The logits' gradient times the normaliser, which divides the small factors of the products instead.
            gradient = likelihoods.scatter_add_(1, wanted, -normaliser).to(dtype)
            states_gradient[rows] = (gradient @ items) / normaliser
            if ctx.needs_input_grad[1]:
                _multiply(table_gradient, gradient.T, (queries / normaliser).to(dtype), add=True)
        ctx.save_for_backward(states_gradient, table_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        states_gradient, table_gradient = ctx.saved_tensors
        of_table = table_gradient * gradient if ctx.needs_input_grad[1] else None
        return states_gradient * gradient, of_table, None, None, None, None, None


def _within(pairs: Pairs, start: int, num: int) -> tuple[Tensor, Tensor]:
    """The pairs of some positions, counted from the first of them."""
    first, last = torch.searchsorted(pairs[0], pairs[0].new_tensor([start, start + num])).tolist()
    return pairs[0][first:last] - start, pairs[1][first:last]


def _is_bounded(states: Tensor, table: Tensor, offsets: Tensor | None) -> bool:
    """Whether, by Cauchy and Schwarz, logits with their offsets can be exponentiated as they are."""
    if not len(states):  # a worker's share of a batch may be empty
        return True
    spread = 2 * states.norm(dim=1).max() * table.norm(dim=1).max()
    if offsets is not None:
        spread = spread + offsets.max() - offsets.min()
    return float(spread) <= MAX_SPREAD


def _bounded_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    offsets: Tensor | None,
    passed_over: Pairs | None,
    chunk: int,
    dtype: torch.dtype,
    *,
    of_table: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The loss and both gradients in three products and two passes over the logits, which stay in the cache.

    An item's offset is no part of its logit: exponentiated, it is a weight of all that the item adds to. Cosines over a
    temperature are within the bound.
    """
    num = len(states)
    offsets = states.new_zeros(len(table)) if offsets is None else offsets - offsets.max()
    weights = offsets.exp()
    queries, items, weighted = states.to(dtype), table.to(dtype).T, (table * weights[:, None]).to(dtype)
    sums, normaliser, of_items = torch.empty_like(states), states.new_empty(num), weights.to(dtype)
    table_gradient = torch.zeros_like(table) if of_table else None
    buffer = queries.new_empty(min(chunk, num), len(table))
    for start in range(0, num, chunk):
        rows = slice(start, start + chunk)
        likelihoods = torch.mm(queries[rows], items, out=buffer[: len(queries[rows])]).exp_()
        if passed_over is not None:
            likelihoods[_within(passed_over, start, len(likelihoods))] = 0.0
        normaliser[rows] = torch.mv(likelihoods, of_items)
        _multiply(sums[rows], likelihoods, weighted)
        if table_gradient is not None:
            # Gathered as [dim, item] it takes 1.7 times as long (measured on an AVX2 core, h = 64 and 128).
            _multiply(table_gradient, likelihoods.T, (states[rows] / normaliser[rows, None]).to(dtype), add=True)
    wanted = table[targets]
    target_logits = (states * wanted).sum(1) + offsets[targets]
    total = (normaliser.log() - target_logits).sum()
    if table_gradient is not None:
        table_gradient.mul_(weights[:, None]).index_add_(0, targets, states, alpha=-1)
    return total, sums.div_(normaliser[:, None]).sub_(wanted), table_gradient


def _multiply(into: Tensor, left: Tensor, right: Tensor, *, add: bool = False) -> None:
    """Puts a product into a float32 matrix, or adds it; without another matrix where the precisions allow it."""
    if left.dtype == into.dtype:
        into.addmm_(left, right, beta=int(add))
    elif add:
        into += left @ right
    else:
        into.copy_(left @ right)
