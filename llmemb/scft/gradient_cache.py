"""One contrastive step over a batch of any size in bounded memory, exact across workers.

The loss needs every pair of the global batch, the memory is there for a chunk. So (Gao et al. 2021, gradient caching):
embed all chunks without a graph, gather the embeddings of all workers, take the loss's gradient with respect to them,
then embed each chunk again with its graph and push its cached gradient through.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from llmemb.encoder.batching import merge_batches, split_batches
from llmemb.workers import Worker

PairLoss = Callable[[Tensor, Tensor], Tensor]


class Embed(Protocol):
    """From a worker's rows to their embeddings ``[rows, dim]``, with a graph where one is enabled.

    Called with the same rows and place (the chunk's number) it must give the same, dropout included.
    """

    def __call__(self, rows: NDArray[np.int64], place: int) -> Tensor: ...


class Backward(Protocol):
    """Runs backward through a chunk; ``is_last`` says that the batch's gradient is complete with it."""

    def __call__(self, loss: Tensor, *, is_last: bool) -> None: ...


def contrastive_step(
    chunks: list[NDArray[np.int64]],
    *,
    embed: Embed,
    loss: PairLoss,
    backward: Backward,
    weight: float = 1.0,
    loss_parameters: Sequence[Tensor] = (),
) -> float:
    """Adds to the parameters' gradients that of the weighted loss over the global batch.

    Args:
        chunks: This worker's rows, cut up as memory asks for; the rows are its first views, then its second views in
            the same order. Every worker has as many chunks.
        loss: From the global batch's two matrices ``[batch, dim]`` to a scalar.
        backward: Accumulates gradients; workers' gradients are averaged, as data-parallel engines do.
        loss_parameters: What the loss has of its own to train; they get their whole gradient on every worker.

    Returns:
        The global batch's loss, unweighted, the same on every worker.
    """
    with torch.no_grad():
        cached = [embed(rows, place) for place, rows in enumerate(chunks[:-1])]
    # The last chunk's graph is kept: one chunk, the usual case of a small batch, is embedded once.
    last = embed(chunks[-1], len(chunks) - 1)
    mine = last.new_empty(sum(map(len, chunks)), last.shape[1])
    for rows, embedded in zip(chunks, [*cached, last.detach()], strict=True):
        mine[rows] = embedded
    value, gradient = _loss_gradient(mine.view(2, -1, mine.shape[1]), loss, weight, loss_parameters)
    # Engines average over workers what is to be summed: each worker's gradient is its own embeddings' part.
    gradient = gradient.view_as(mine) * Worker.here().num_workers
    backward((last * gradient[chunks[-1]]).sum(), is_last=len(chunks) == 1)
    for place, rows in enumerate(chunks[:-1]):
        backward((embed(rows, place) * gradient[rows]).sum(), is_last=place == len(chunks) - 2)
    return value


def same_number_everywhere(chunks: list[NDArray[np.int64]], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """ZeRO communicates in every pass, so every worker must make as many: more, smaller chunks where needed.

    Fewer, larger ones only where another worker has not as many rows as this one has chunks.
    """
    worker = Worker.here()
    if worker.num_workers == 1:
        return chunks
    bounds = worker.max(torch.tensor([len(chunks), -len(lengths)], device=worker.device))
    most_chunks, fewest_rows = int(bounds[0]), -int(bounds[1])
    number = min(most_chunks, fewest_rows)
    return split_batches(merge_batches(chunks, lengths, number), number)


def gather_rows(mine: Float[Tensor, "kinds local dim"]) -> list[Float[Tensor, "kinds rows dim"]]:
    """All workers' rows, in rank order; workers may differ in how many they have."""
    worker = Worker.here()
    if worker.num_workers == 1:
        return [mine]
    counts = worker.gather(torch.tensor([mine.shape[1]], device=mine.device))
    longest = int(max(count.item() for count in counts))
    padded = mine.new_zeros(mine.shape[0], longest, mine.shape[2])
    padded[:, : mine.shape[1]] = mine
    return [part[:, : int(count)] for part, count in zip(worker.gather(padded), counts, strict=True)]


def _loss_gradient(
    mine: Float[Tensor, "2 local dim"], loss: PairLoss, weight: float, loss_parameters: Sequence[Tensor]
) -> tuple[float, Float[Tensor, "2 local dim"]]:
    """The global loss, and the weighted one's gradient with respect to this worker's embeddings."""
    parts = gather_rows(mine)
    batch = torch.cat(parts, dim=1).requires_grad_()  # [2, batch, dim]
    value = loss(batch[0], batch[1])
    gradient, *others = torch.autograd.grad(value * weight, [batch, *loss_parameters])
    for parameter, found in zip(loss_parameters, others, strict=True):
        parameter.grad = found if parameter.grad is None else parameter.grad + found
    start = sum(part.shape[1] for part in parts[: Worker.here().rank])
    return float(value.detach()), gradient[:, start : start + mine.shape[1]].contiguous()
