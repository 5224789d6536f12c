"""What a study's trials tell, as an actor whose process loads nothing else."""

from typing import Any


class EpochBoard:
    """An actor that trials tell of their epochs; what a progress bar shows of them all.

    The last epoch of a trial counts when its recommender is written; epochs that an early stop spares are in no sum.
    """

    def __init__(self) -> None:
        self._planned: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self._failed: dict[str, bool] = {}  # those that ended

    def plan(self, epochs: dict[str, int]) -> None:
        """How many epochs each trial has at most."""
        self._planned |= epochs

    def tell(self, trial: str, epoch: int) -> None:
        self._epochs[trial] = epoch

    def end(self, trial: str, failed: bool) -> None:
        self._failed[trial] = failed

    def read(self) -> tuple[int, int | None, dict[str, Any]]:
        """Epochs done, of how many, and the trials that ended."""
        done, total = 0, 0
        for trial, planned in self._planned.items():
            epochs = self._epochs.get(trial, 0)
            if trial not in self._failed:
                done, total = done + min(epochs, planned - 1), total + planned
            else:  # one without a training counts as one epoch
                epochs = epochs or (0 if self._failed[trial] else 1)
                done, total = done + epochs, total + epochs
        figures = {"trials": f"{len(self._failed):,}/{len(self._planned):,}", "failed": sum(self._failed.values())}
        return done, total or None, figures
