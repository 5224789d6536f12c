"""Trials as Ray Tune runs them: those that are finished are kept, one that fails stops none but those that need it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmemb import progress, storage
from llmemb.compute.connection import connect
from llmemb.compute.devices import check_gpu, has_gpus
from llmemb.compute.nodes import check_room, cpu_threads, say_if_waiting, worker_threads
from llmemb.compute.request import worker_request
from llmemb.compute.training import place
from llmemb.errors import TemporaryError
from llmemb.job import find_told_error
from llmemb.progress import Tell
from llmemb.rat.config import RatConfig
from llmemb.rat.phases import Phases
from llmemb.rat.recommender import METRICS_FILE, is_recommender
from llmemb.rat.run import run_rat
from llmemb.study.board import EpochBoard
from llmemb.study.config import TrialsConfig
from llmemb.study.queue import TrialQueue

TUNE_FOLDER = "ray_tune"
FAILED = "failed"
"""Where a trial that nothing would mend says why, in what it returns: what it raises is tried again."""
ALMOST_NOTHING = 0.001


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        reason: Why it failed; None where it did not.
        validation: Its NDCG@10.
        seconds: From loading the dataset to the artifact, with the item vectors and content that it learnt itself and
            without the recommender that it starts from.
    """

    reason: str | None = None
    validation: float | None = None
    seconds: float | None = None
    peak_memory_mib: float | None = None
    num_epochs: int | None = None


Outcomes = dict[str, Outcome]
"""By the URI of the recommender."""


def run_trials(
    configs: Sequence[RatConfig],
    *,
    title: str,
    output: str,
    settings: TrialsConfig,
    starts_from: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Trains what is not trained yet.

    Args:
        output: The study's, for what Ray Tune keeps of a run.
        starts_from: By a trial's URI, that of the ID-only one among them that it starts from.

    Returns:
        An outcome for each, in order.

    Raises:
        InputError: this machine has not the CPUs that one trial is to have, and there is no cluster.
    """
    todo = {config.output: config for config in configs if not is_recommender(config.output)}
    if configs and len(todo) < len(configs):
        print(f"study: {title}: {len(configs) - len(todo):,} of {len(configs):,} trials are finished already")
    starts_from = {uri: first for uri, first in (starts_from or {}).items() if first in todo}
    reasons = _tune(TrialQueue(list(todo.values()), starts_from), title, output, settings) if todo else {}
    for uri, first in starts_from.items():
        if first in reasons:
            reasons.setdefault(uri, f"the ID-only recommender that it starts from failed: {reasons[first]}")
    return [_outcome(config, reasons.get(config.output)) for config in configs]


def reason_of(error: BaseException) -> str:
    """One line: as a user is told it, anything else by its last line."""
    told = find_told_error(error)
    if told is not None:
        return " ".join(str(told).split())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _outcome(config: RatConfig, reason: str | None) -> Outcome:
    """What is known of a trial that ended, or of one that an earlier run finished."""
    if not is_recommender(config.output):
        return Outcome(reason or "it did not finish, and said nothing")
    try:
        metrics = storage.read_json(storage.join(config.output, METRICS_FILE))
        return Outcome(
            None,
            float(metrics["validation"]["ndcg@10"]),
            float(metrics["seconds"]),
            float(metrics["peak_memory_mib"]),
            len(metrics["epochs"]),
        )
    except (LookupError, TypeError, ValueError) as error:
        why = reason_of(error)
        return Outcome(f"its {METRICS_FILE} is damaged; remove the recommender to have it trained again: {why}")


def _tune(queue: TrialQueue, title: str, output: str, settings: TrialsConfig) -> dict[str, str]:
    """Runs them, and says why which of those that were run failed."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints tables whatever the verbosity
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # which ends these trials alone, and the study goes on
    from ray import tune

    connect()
    configs = queue.trials
    threads = settings.cpus or cpu_threads(settings.max_concurrent)
    parameters = {config.output: config.model_dump(mode="json") for config in configs}

    # A trial of several workers only waits for them, who have resources of their own.
    alone = all(config.num_workers == 1 for config in configs)
    resources: dict[str, float] = {"CPU": ALMOST_NOTHING}
    on_gpu = alone and has_gpus()
    if alone:
        request = worker_request(threads, beside_gpu=settings.cpus or 1)
        check_room(f"study: {title}", request, setting="trials.cpus")
        say_if_waiting(f"study: {title}", 1, request)
        resources = request.resources
    storage.remove(storage.join(output, TUNE_FOLDER))
    planned = {config.output: sum(Phases.of(config)) for config in configs}
    with progress.remote_bar(f"study: {title}", sum(planned.values()), "epochs", board_class=EpochBoard) as board:
        board.plan.remote(planned)

        def train(chosen: dict[str, str]) -> dict[str, str]:
            import torch

            torch.set_num_threads(settings.cpus or worker_threads(threads))
            uri = chosen["output"]
            return _run(parameters[uri], partial(_tell, board, uri), on_gpu=on_gpu)

        watcher = _watcher(board)
        with storage.explained(output):  # where it writes first
            tuner = tune.Tuner(
                tune.with_resources(train, resources),
                tune_config=tune.TuneConfig(
                    search_alg=_searcher(queue),
                    num_samples=len(configs),
                    max_concurrent_trials=settings.max_concurrent,
                ),
                run_config=tune.RunConfig(
                    name=TUNE_FOLDER,
                    **place(output),
                    verbose=0,
                    callbacks=[watcher],
                    failure_config=tune.FailureConfig(max_failures=_max_failures(configs)),
                ),
            )
        results: Any = tuner.fit()
        for uri in planned.keys() - set(watcher.order):  # what it starts from failed
            board.end.remote(uri, failed=True)
    storage.remove(storage.join(output, TUNE_FOLDER))
    reasons = {uri: _reason(result) for uri, result in zip(watcher.order, results, strict=True)}
    return {uri: reason for uri, reason in reasons.items() if reason is not None}


def _run(settings: dict[str, Any], tell: Tell, *, on_gpu: bool) -> dict[str, str]:
    """Trains, or returns why it failed: Tune tries again what is raised, which is what may be gone by itself."""
    try:
        if on_gpu:
            check_gpu()
        config = RatConfig.parse(settings)
        run_rat(config, here=config.num_workers == 1, tell=tell)
    except Exception as error:
        if isinstance(find_told_error(error), TemporaryError):
            raise
        return {FAILED: reason_of(error)}
    return {}


def _reason(result: Any) -> str | None:
    told = (result.metrics or {}).get(FAILED)
    return told if told or result.error is None else reason_of(result.error)


def _max_failures(configs: Sequence[RatConfig]) -> int:
    """That of the trials, which are the same but for what an experiment changes; -1 for however often."""
    allowed = [config.engine.max_failures for config in configs]
    return -1 if min(allowed) < 0 else max(allowed)


def _tell(board: Any, trial: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    progress.wait_for(board.tell.remote(trial, done))


def _searcher(queue: TrialQueue) -> Any:
    from ray.tune.search import Searcher

    class FromQueue(Searcher):
        """Suggests no settings: gives out the trials of a queue as they can begin."""

        def __init__(self) -> None:
            super().__init__()
            self._given_out: dict[str, str] = {}  # by the id that Tune gave them

        def suggest(self, trial_id: str) -> Any:
            config = queue.take()
            if config is None:
                return self.FINISHED if queue.is_empty() else None
            self._given_out[trial_id] = config.output
            return {"output": config.output}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            queue.end(self._given_out[trial_id], failed=error or FAILED in (result or {}))

        def save(self, checkpoint_path: str) -> None:
            """Nothing to keep: what is finished says so itself."""

        def restore(self, checkpoint_path: str) -> None:
            """A run of Tune is never gone on with."""

    return FromQueue()


def _watcher(board: Any) -> Any:
    from ray.tune.progress_reporter import TrialProgressCallback

    class Watcher(TrialProgressCallback):
        """Counts the trials that ended, in place of Tune's own reporter, which prints a line for each.

        Attributes:
            order: The URIs in the order of Tune's results, in which one that is tried again goes to the end.
        """

        order: tuple[str, ...] = ()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            """Nothing to say between the start of a trial and its end."""

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            board.end.remote(trial.config["output"], failed=FAILED in (trial.last_result or {}))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            board.end.remote(trial.config["output"], failed=True)

        def on_experiment_end(self, trials: Any, **info: Any) -> None:
            self.order = tuple(trial.config["output"] for trial in trials)

    return Watcher()
