"""Which trial can begin: what another one makes for it is waited for, and nothing else."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from llmemb import storage
from llmemb.errors import InputError, TemporaryError
from llmemb.rat.config import RatConfig
from llmemb.rat.recommender import is_recommender
from llmemb.vectors import MANIFEST_FILE

LOOK_SECONDS = 5.0
"""How often it is looked whether something is there by now."""


class TrialQueue:
    """The trials of a study that are left, given out one by one.

    A trial waits for the recommender that it starts from, and is not run where that one failed. What trials have in
    common (item vectors, content maps) one of them learns, and the others wait until it is there; if that one fails,
    the next one learns it.

    Args:
        trials: In the order in which they are given out where none has to wait.
        starts_from: By a trial's URI, that of the recommender that it starts from, where that is one of the trials.

    Attributes:
        trials: All of them.
    """

    def __init__(self, trials: Sequence[RatConfig], starts_from: Mapping[str, str] | None = None) -> None:
        self.trials = tuple(trials)
        self._starts_from = dict(starts_from or {})
        self._left = {config.output: config for config in trials}
        self._failed: dict[str, bool] = {}  # by those that ended
        self._learners: dict[str, str] = {}
        self._there: set[str] = set()
        self._looked: dict[str, float] = {}

    def take(self) -> RatConfig | None:
        """The next one that can begin; None where all that are left wait for one that runs."""
        for uri, config in self._left.items():
            if self._start_failed(uri) is not False:
                continue
            missing = [made for made in _learnt(config) if not self._is_there(made)]
            if any(made in self._learners for made in missing):
                continue
            self._learners |= dict.fromkeys(missing, uri)
            return self._left.pop(uri)
        return None

    def end(self, uri: str, *, failed: bool) -> None:
        """Says that one that was given out has ended.

        Args:
            failed: As far as its process could say; of one that others start from it counts what is there.
        """
        if uri in self._starts_from.values():
            with suppress(InputError, TemporaryError):
                failed = not is_recommender(uri)
        self._failed[uri] = failed
        self._learners = {made: learner for made, learner in self._learners.items() if learner != uri}

    def is_empty(self) -> bool:
        """Whether none will be given out any more."""
        return all(self._start_failed(uri) for uri in self._left)

    def _start_failed(self, uri: str) -> bool | None:
        """Whether what it starts from failed; None while that is not known."""
        first = self._starts_from.get(uri)
        return False if first is None else self._failed.get(first)

    def _is_there(self, made: str) -> bool:
        now = time.monotonic()
        if made not in self._there and now - self._looked.get(made, -LOOK_SECONDS) >= LOOK_SECONDS:
            self._looked[made] = now
            # A store that does not answer would end the trials that run, too.
            with suppress(InputError, TemporaryError):
                if storage.exists(made):
                    self._there.add(made)
        return made in self._there


def _learnt(config: RatConfig) -> list[str]:
    """What a trial learns for all that have it in common: files that are there once it is learnt."""
    vectors = config.item_vectors and storage.join(config.item_vectors, MANIFEST_FILE)
    return [made for made in (vectors, config.content_maps) if made]
