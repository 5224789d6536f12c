"""Where a training stands after an epoch, in one file: what is needed to go on as if nothing had happened.

No random state is kept: each epoch draws from (seed, epoch). The file does not depend on the number of workers. Single
steps' losses are a tensor of each epoch: notes are in the file's header, which may have 100 MB, and they would fill it.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from llmemb import storage
from llmemb.rat import tensors

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Epoch:
    """What is recorded of one epoch; ``epoch`` counts from 1, the loss is the mean over its positions.

    ``seconds`` are those of its steps and its validation.
    """

    epoch: int
    loss: float
    validation_ndcg: float
    positions_per_second: float
    step_losses: tuple[float, ...]
    seconds: float = 0.0

    def summary(self) -> dict[str, float]:
        """All but the single steps, as ``metrics.json`` has it."""
        return {key: value for key, value in asdict(self).items() if key != "step_losses"}

    def figures(self) -> dict[str, float]:
        """What is told of it while the training goes on."""
        speed = self.positions_per_second
        return {"loss": self.loss, "ndcg@10": self.validation_ndcg, "positions_per_second": speed}


@dataclass(frozen=True)
class Progress:
    """A training after some epochs.

    Attributes:
        history: Its epochs.
        weights: What is trained of the model.
        best_weights: Those of the epoch with the best validation.
        optimizer: What the optimizer keeps of each parameter, by the parameter's number: ``state_dict()["state"]``.
    """

    history: list[Epoch]
    weights: Weights
    best_weights: Weights
    optimizer: dict[int, dict[str, Tensor]]


def save(uri: str, progress: Progress) -> None:
    """Writes the file, which replaces the one before it at once."""
    contents = {f"weights.{name}": value for name, value in progress.weights.items()}
    contents |= {f"best.{name}": value for name, value in progress.best_weights.items()}
    for number, state in progress.optimizer.items():
        contents |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    for epoch in progress.history:
        contents[f"losses.{epoch.epoch}"] = torch.tensor(epoch.step_losses, dtype=torch.float64)
    tensors.write(uri, contents, {"history": [epoch.summary() for epoch in progress.history]})


def load(uri: str) -> Progress | None:
    """What :func:`save` wrote; None where there is no such file, or that of another version of this module."""
    if not storage.exists(uri):
        return None
    contents, notes = tensors.read(uri)
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimizer": {}, "losses": {}}
    for name, tensor in contents.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = tensor
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups["optimizer"].items():
        number, _, key = name.partition(".")
        optimizer.setdefault(int(number), {})[key] = tensor
    if len(groups["losses"]) < len(notes["history"]):
        return None
    history = [
        Epoch(**epoch, step_losses=tuple(groups["losses"][str(epoch["epoch"])].tolist())) for epoch in notes["history"]
    ]
    return Progress(history, groups["weights"], groups["best"], optimizer)
