"""What a study leaves: tables in three formats, pictures, one page, and every figure in ``study.json``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table as RichTable

from llmemb import storage
from llmemb.data.dataset import Dataset
from llmemb.embed.snapshot import Snapshot, latest_id
from llmemb.errors import InputError
from llmemb.evaluation import embedding_map, figures
from llmemb.evaluation.baselines import ContentAlone
from llmemb.evaluation.config import HEADLINE_K
from llmemb.evaluation.provenance import dataset_facts, dataset_name, provenance
from llmemb.evaluation.report import print_table, templates
from llmemb.metrics.slices import popularity_groups
from llmemb.rat.methods import METHODS
from llmemb.rat.recommender import read_item_embeddings
from llmemb.srs.backbone import distinct_labels
from llmemb.study import figures as study_figures
from llmemb.study import tables
from llmemb.study.config import StudyConfig
from llmemb.study.grid import Grid, Trial
from llmemb.study.results import Measure, Row
from llmemb.study.trials import Outcome, Outcomes

STUDY_FILE, REPORT_FILE = "study.json", "report.html"
PRINTED = ("Methods", "Ablations", "Sensitivity")
PICTURED = ("popularity", "length")
Group = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """The figures of a study: groups of rows that are compared with each other, as :meth:`Measure.group` makes them.

    Attributes:
        methods: By backbone.
        ablations: None where none were asked for, or all failed.
        sensitivity: By path.
        slices: By family, the groups of items by ``popularity`` and of users by ``length`` of their history.
    """

    methods: dict[str, Group]
    ablations: Group | None
    sensitivity: dict[str, Group]
    slices: dict[str, list[dict[str, Any]]]


def write_report(grid: Grid, outcomes: Outcomes, dataset: Dataset, measure: Measure) -> None:
    """Measures what was trained, writes all files, and prints the tables."""
    config = grid.config
    results = compare(grid, outcomes, measure)
    in_methods = [trial for pair in product(config.methods, config.backbones) for trial in grid.table(*pair)]
    in_ablations = chain.from_iterable(grid.ablations().values())
    in_curves = chain.from_iterable(trials for curve in grid.sensitivity().values() for trials in curve.values())
    compared, ablated, varied = (_repeats(grid, trials) for trials in (in_methods, in_ablations, in_curves))
    if any(model["label"] == ContentAlone.label for group in results.methods.values() for model in group["models"]):
        compared.add(measure.fusion.repeats)
    shown = {
        "comparison": tables.comparison(results.methods, repeats=compared),
        "sampled": None if config.sampled is None else tables.sampled(results.methods, config.sampled),
        "ablations": None if results.ablations is None else tables.ablations(results.ablations, repeats=ablated),
        "sensitivity": tables.sensitivity(results.sensitivity, repeats=varied) if results.sensitivity else None,
        "search": search_table(grid, outcomes),
        "trials": tables.trials(trial_facts(grid, outcomes)),
    }
    maps, trials = _maps(grid, outcomes, dataset), trial_facts(grid, outcomes)
    page = _page(grid, results, maps, dataset) | {"num_failed": sum(trial["reason"] is not None for trial in trials)}
    present = [table for table in shown.values() if table is not None]
    files = {
        "tables.md": f"# Study of {page['name']}\n\n" + tables.to_markdown(present),
        "tables.tex": tables.to_latex([table for table in present if table is not shown["trials"]]),
        "figures.csv": tables.to_csv(_named_groups(config, results)),
        REPORT_FILE: templates("llmemb.study").get_template("report.html.jinja").render({**page, **shown}),
    }
    for name, content in files.items():
        storage.write_bytes(storage.join(config.output, name), content.encode())
    everything = {key: page[key] for key in ("dataset", "provenance", "map_info")} | {"trials": trials}
    everything |= {"methods": results.methods, "ablations": results.ablations, "sensitivity": results.sensitivity}
    storage.write_json(storage.join(config.output, STUDY_FILE), everything)
    for table in present:
        if table.title in PRINTED:
            _print(table)
    failed = f"; {page['num_failed']} of {len(trials)} trials failed: run again to try them again"
    print(f"study: {storage.join(config.output, REPORT_FILE)}{failed if page['num_failed'] else ''}")


def compare(grid: Grid, outcomes: Outcomes, measure: Measure) -> Results:
    """Ranks what was trained, and compares; what cannot be ranked has failed."""
    config = grid.config
    in_tables = dict.fromkeys(grid.rat_config(trial).output for trial in grid.all_trials())
    reasons = measure.rank_all([uri for uri in in_tables if outcomes[uri].reason is None])
    outcomes |= {uri: Outcome(reason) for uri, reason in reasons.items()}

    def row(name: str, trials: Sequence[Trial]) -> Row:
        uris = {trial.seed: grid.rat_config(trial).output for trial in trials}
        finished = {seed: uri for seed, uri in uris.items() if outcomes[uri].reason is None}
        num_failed = len(uris) - len(finished)
        return Row(name, tuple(finished.values()), num_failed=num_failed, seeds=tuple(finished))

    of_backbones = {
        called: [row(_label(method), grid.table(method, backbone)) for method in config.methods]
        for backbone, called in distinct_labels(config.backbones).items()
    }
    ablated = [row(name, trials) for name, trials in grid.ablations().items()]
    varied = {
        path: [row(f"{value:.12g}", trials) for value, trials in by_value.items()]
        for path, by_value in grid.sensitivity().items()
    }
    baselines = measure.baselines(_snapshot(grid))
    return Results(
        {backbone: measure.group([*baselines, *rows]) for backbone, rows in of_backbones.items()},
        measure.group(ablated) if ablated and ablated[0].uris else None,
        {path: measure.group(rows) for path, rows in varied.items() if any(one.uris for one in rows)},
        {family: [part.info for part in measure.slices if part.family == family] for family in PICTURED},
    )


def trial_facts(grid: Grid, outcomes: Outcomes) -> list[dict[str, Any]]:
    """What is known of each trial, in the order of what they are for."""
    return [
        {"trial": trial.described, "experiment": purpose, "uri": uri} | asdict(outcomes[uri])
        for uri, (purpose, trial) in grid.purposes().items()
        if uri in outcomes
    ]


def search_table(grid: Grid, outcomes: Outcomes) -> tables.Table | None:
    """What was tried to choose settings, the chosen ones in bold; IDs alone are where others start from them."""
    blocks = []
    called = distinct_labels(grid.config.backbones)
    for backbone, method in product(grid.config.backbones, grid.config.searched):
        chosen = grid.table(method, backbone)[0].settings
        rows = []
        for trial in grid.candidates(method, backbone):
            uri = grid.rat_config(trial).output
            if uri not in outcomes:  # nothing starts from IDs alone
                continue
            validation = outcomes[uri].validation
            setting = ", ".join(f"{path}={value}" for path, value in trial.settings.items())
            found = "failed" if validation is None else f"{validation:.4f}"
            rows.append((tables.Cell(setting), tables.Cell(found, bold=trial.settings == chosen)))
        if rows:
            blocks.append((f"{_label(method)} ({called[backbone]})", tuple(rows)))
    return tables.Table("Search", ("", "validation NDCG@10"), tuple(blocks)) if blocks else None


def _repeats(grid: Grid, trials: Iterable[Trial]) -> set[bool]:
    return {grid.rat_config(trial).fusion.repeats for trial in trials}


def _label(method: str) -> str:
    return METHODS[method].label or "IDs only"


def _snapshot(grid: Grid) -> Snapshot | None:
    """The embeddings of the tables, where some method reads them."""
    if not grid.needs_embeddings:
        return None
    uri = grid.embed_config(grid.trial("llmemb", grid.config.for_details, grid.config.seeds[0])).output
    if latest_id(uri) is None:
        print(f"study: {uri} has no embeddings: no rows of text alone")
        return None
    return Snapshot.open(uri)


def _maps(grid: Grid, outcomes: Outcomes, dataset: Dataset) -> embedding_map.Maps | None:
    """Maps of every method's item embeddings, with the first seed."""
    config = grid.config
    uris = {
        _label(method): grid.rat_config(grid.table(method, config.for_details)[0]).output for method in config.methods
    }
    loads = {label: partial(_embeddings, uri) for label, uri in uris.items() if outcomes[uri].reason is None}
    if not loads:
        return None
    settings = config.embedding_map
    groups = popularity_groups(dataset.popularity)[1:]
    sizes: dict[str, Any] = {"max_items": settings.max_items, "perplexity": settings.perplexity}
    return embedding_map.draw_maps(loads, groups, None, **sizes, seed=config.seed)


def _embeddings(uri: str) -> NDArray[np.float32] | None:
    """None where they cannot be read, which stops no report: a ranking of an earlier run is as good as ever."""
    try:
        return read_item_embeddings(uri)
    except InputError as error:
        print(f"study: no map: {error}")
        return None


def _page(grid: Grid, results: Results, maps: embedding_map.Maps | None, dataset: Dataset) -> dict[str, Any]:
    """The pictures of the page, and what it says of the data."""
    config, named = grid.config, _named_groups(grid.config, results)
    by_popularity, by_length = (results.slices[family] for family in PICTURED)
    long_tail = {
        backbone: {
            "legend": [(figures.model_color(number), model["label"]) for number, model in enumerate(group["models"])],
            "by_popularity": figures.hit_rate_by_popularity(
                dataset.popularity, by_popularity, group["models"], k=HEADLINE_K
            ),
            "by_length": figures.hit_rate_by_length(by_length, group["models"], k=HEADLINE_K),
        }
        for backbone, group in results.methods.items()
    }
    return {
        "name": dataset_name(dataset),
        "backbones": list(results.methods),
        "num_recommenders": len({uri for _, _, group in named for model in group["models"] for uri in model["runs"]}),
        "seeds": config.seeds,
        "details": distinct_labels(config.backbones)[config.for_details],
        "dataset": dataset_facts(dataset) | {"num_queries": len(dataset.test().items)},
        "long_tail": long_tail,
        "sensitivity_picture": study_figures.sensitivity(results.sensitivity) if results.sensitivity else None,
        "panels": figures.map_panels(maps, maps.popularity, seed=config.seed) if maps else [],
        "map_info": maps.info if maps else None,
        "side": figures.SIDE,
        "popularity_names": figures.POPULARITY_NAMES,
        "popularity_colors": [figures.group_colors(theme) for theme in (figures.LIGHT, figures.DARK)],
        "category_colors": figures.CATEGORY_COLORS,
        "provenance": provenance(config),
    }


def _named_groups(config: StudyConfig, results: Results) -> list[tuple[str, str, Group]]:
    named = [("methods", backbone, group) for backbone, group in results.methods.items()]
    if results.ablations is not None:
        named.append(("ablation", distinct_labels(config.backbones)[config.for_details], results.ablations))
    return named + [("sensitivity", path, group) for path, group in results.sensitivity.items()]


def _print(table: tables.Table) -> None:
    """On the terminal, the best of each column in bold."""
    shown = RichTable(title=table.title, title_justify="left")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left")
    for title, rows in table.blocks:
        if title:
            shown.add_section()
            shown.add_row(f"[italic]{escape(title)}[/]")
        for row in rows:
            shown.add_row(*[f"[bold]{escape(cell.text)}[/]" if cell.bold else escape(cell.text) for cell in row])
    print_table(shown)
