"""The study job: encoders, then trials, the ones that others start from first, then figures, tables and a report."""

import itertools
from collections.abc import Collection, Iterable, Sequence

from llmemb import storage
from llmemb.compute.devices import own_device
from llmemb.data.dataset import Dataset
from llmemb.errors import InputError
from llmemb.rat.config import RatConfig
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
    searched = itertools.product(config.methods, config.backbones)
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
    for method, backbone in itertools.product(grid.config.methods, grid.config.backbones):
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
    """Runs the study's trials in waves: IDs alone, which others start from, then what chooses settings, then the rest.

    What chooses the settings of a method that rests on no IDs alone runs beside what chooses theirs.

    Returns:
        How each ended, by the URI of its recommender.
    """
    outcomes: Outcomes = {}
    methods = [method for method in grid.config.methods if method != "none"]
    if grid.ids_alone():
        at_once = [method for method in methods if not grid.rests_on_ids(method)]
        _choose(grid, ["none", *at_once], outcomes)
        _run(grid, "IDs alone", grid.ids_alone(), outcomes)
        methods = [method for method in methods if method not in at_once]
    _choose(grid, methods, outcomes)
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
    """Runs those that have not been run yet, and adds how they ended."""
    new: dict[str, Trial] = {}
    for trial in trials:
        uri = grid.rat_config(trial).output
        if uri not in outcomes:
            new.setdefault(uri, trial)
    # What a finished trial was made from may be gone.
    todo = {uri: trial for uri, trial in new.items() if not is_recommender(uri)}
    started = {uri: first for uri, trial in todo.items() if (first := grid.started_from(trial)) is not None}
    if started:  # trained here, each once and as it says, and not by the trials that wait for it
        _run(grid, "IDs alone", started.values(), outcomes)
    of_ids = {uri: outcomes[grid.rat_config(first).output].reason for uri, first in started.items()}
    stopped = {uri: f"the ID-only recommender that it starts from failed: {why}" for uri, why in of_ids.items() if why}
    no_embeddings = make_embeddings(grid, [trial for uri, trial in todo.items() if uri not in stopped])
    configs = [grid.rat_config(trial) for trial in new.values()]
    unread = {
        config.output: why
        for config in configs
        if config.output in todo and (why := no_embeddings.get(str(config.embeddings)))
    }
    stopped = unread | stopped
    outcomes |= {uri: Outcome(reason) for uri, reason in stopped.items()}
    possible = [config for config in configs if config.output not in stopped]
    for wave in _by_what_is_learnt(possible, finished=new.keys() - todo.keys()):
        ended = run_trials(wave, title=title, output=grid.config.output, settings=grid.config.trials)
        outcomes |= {config.output: outcome for config, outcome in zip(wave, ended, strict=True)}
    for uri, trial in new.items():
        if outcomes[uri].reason is not None:
            print(f"study: failed: {trial.described}: {outcomes[uri].reason}")


def _by_what_is_learnt(configs: list[RatConfig], *, finished: Collection[str] = ()) -> list[list[RatConfig]]:
    """Waves in which nobody learns the item vectors or content maps that another is learning: first one for each.

    Args:
        finished: Outputs of those that learn nothing any more, for whom it would be in vain to wait.
    """
    learnt = [config.item_vectors or config.content_maps or config.output for config in configs]
    first: dict[str, RatConfig] = {}
    for uri, config in zip(learnt, configs, strict=True):
        if config.output not in finished:
            first.setdefault(uri, config)
    others = [config for uri, config in zip(learnt, configs, strict=True) if first.get(uri) is not config]
    return [wave for wave in (list(first.values()), others) if wave]
