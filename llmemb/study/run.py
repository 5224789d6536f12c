"""The study job: encoders, then trials, then figures, tables and a report."""

import itertools
from collections.abc import Iterable, Sequence

from llmemb import storage
from llmemb.compute.devices import own_device
from llmemb.data.dataset import Dataset
from llmemb.errors import InputError
from llmemb.rat.methods import METHODS
from llmemb.rat.recommender import is_recommender
from llmemb.study.config import StudyConfig
from llmemb.study.encoders import make_embeddings
from llmemb.study.grid import Grid, Trial
from llmemb.study.report import write_report
from llmemb.study.results import Measure
from llmemb.study.trials import Outcome, Outcomes, run_trials


def run_study(config: StudyConfig) -> None:
    """Trains what is not trained yet, and writes ``tables.md``, ``tables.tex``, ``figures.csv``, ``report.html`` and,
    last, ``study.json``.

    Raises:
        InputError: bad input to the whole study; what is wrong with one trial alone is a row of the table of trials.
    """
    dataset = Dataset.open(config.dataset)
    storage.check_writable(config.output)
    own_device()  # one that does not exist is found before any work
    grid = Grid(config, dataset.fingerprint)
    searched = itertools.product(config.searched, config.backbones)
    tried = [trial for method, backbone in searched for trial in grid.candidates(method, backbone)]
    for trial in [*grid.all_trials(), *tried]:  # before any work: what is wrong with settings and data
        grid.rat_config(trial)
    check_effort(grid)
    check_details(grid)
    measure = Measure(config, dataset)
    storage.write_bytes(storage.join(config.output, "config.yaml"), config.to_yaml().encode())
    write_report(grid, train_all(grid), dataset, measure)


def check_effort(grid: Grid) -> None:
    """Raises InputError where a method's combinations of settings are not as many different trials."""
    for method, backbone in itertools.product(grid.config.searched, grid.config.backbones):
        tried = grid.candidates(method, backbone)
        different = {grid.rat_config(trial).output for trial in tried}
        if len(different) < len(tried):
            raise InputError(
                f"search.{method}: {len(tried)} combinations are {len(different)} different trials: expected settings "
                "that the method reads, and each value once"
            )


def check_details(grid: Grid) -> None:
    """Raises InputError where an ablation changes nothing, or two values of a curve are the same trial."""
    for chosen in grid.before_choosing():
        _check_ablations(chosen)
        _check_sensitivity(chosen)


def _check_ablations(grid: Grid) -> None:
    made = {name: grid.rat_config(trials[0]).output for name, trials in grid.ablations().items()}
    for name, changes in grid.config.ablations.items() if made else ():
        if made[name] == made[METHODS["llmemb"].label]:
            written = ", ".join(f"{path}={value}" for path, value in changes.items())
            raise InputError(
                f"ablations.{name}: with {written or 'no setting'} the trial is the whole method's own: expected "
                "settings that it reads, with other values than it has"
            )


def _check_sensitivity(grid: Grid) -> None:
    for path, by_value in grid.sensitivity().items():
        found: dict[str, float] = {}
        for value, trials in by_value.items():
            same = found.setdefault(grid.rat_config(trials[0]).output, value)
            if same != value:
                raise InputError(
                    f"sensitivity.{path}: {same:.12g} and {value:.12g} are the same trial: expected a setting that the "
                    "method reads"
                )


def train_all(grid: Grid) -> Outcomes:
    """Runs the study's trials: what chooses settings first, then all others.

    What chooses the settings of a method that rests on no IDs alone runs beside what chooses theirs.

    Returns:
        How each ended, by the URI of its recommender.
    """
    outcomes: Outcomes = {}
    ids = ["none"] if grid.ids_alone() else []
    methods = [method for method in grid.config.methods if method != "none"]
    at_once = [method for method in methods if not grid.rests_on_ids(method)]
    _choose(grid, [*ids, *at_once], outcomes)
    _choose(grid, [method for method in methods if method not in at_once], outcomes)
    _run(grid, "all methods", grid.all_trials(), outcomes)
    return outcomes


def _choose(grid: Grid, methods: Sequence[str], outcomes: Outcomes) -> None:
    """Tries the settings of some methods and makes the best ones theirs."""
    pairs = itertools.product(grid.config.backbones, methods)
    tried = {(method, backbone): grid.candidates(method, backbone) for backbone, method in pairs}
    _run(grid, "search", [trial for trials in tried.values() for trial in trials], outcomes)
    for (method, backbone), trials in tried.items():
        if trials:
            ended = [outcomes[grid.rat_config(trial).output] for trial in trials]
            best = max(range(len(trials)), key=lambda number: ended[number].validation or 0.0)
            grid.choose(method, backbone, trials[best].settings)


def _run(grid: Grid, title: str, trials: Iterable[Trial], outcomes: Outcomes) -> None:
    """Runs those that have not been run yet, and what they start from, and adds how they ended."""
    new = {uri: trial for trial in trials if (uri := grid.rat_config(trial).output) not in outcomes}
    # What a finished trial was made from may be gone.
    todo = {uri: trial for uri, trial in new.items() if not is_recommender(uri)}
    started = {uri: first for uri, trial in todo.items() if (first := grid.started_from(trial)) is not None}
    starts_from = {uri: grid.rat_config(first).output for uri, first in started.items()}
    firsts = {starts_from[uri]: first for uri, first in started.items() if starts_from[uri] not in outcomes}
    new = firsts | new  # trained once and as the study says, and not by those that wait for them
    stopped = {
        uri: f"the ID-only recommender that it starts from failed: {outcomes[first].reason}"
        for uri, first in starts_from.items()
        if first in outcomes and outcomes[first].reason is not None
    }
    no_embeddings = make_embeddings(grid, [trial for uri, trial in todo.items() if uri not in stopped])
    configs = {uri: grid.rat_config(trial) for uri, trial in new.items()}
    for uri in todo:
        if why := no_embeddings.get(str(configs[uri].embeddings)):
            stopped.setdefault(uri, why)
    outcomes |= {uri: Outcome(reason) for uri, reason in stopped.items()}
    possible = [config for uri, config in configs.items() if uri not in stopped]
    settings, output = grid.config.trials, grid.config.output
    ended = run_trials(possible, title=title, output=output, settings=settings, starts_from=starts_from)
    outcomes |= {config.output: outcome for config, outcome in zip(possible, ended, strict=True)}
    for uri, trial in new.items():
        if outcomes[uri].reason is not None:
            print(f"study: failed: {trial.described}: {outcomes[uri].reason}")
