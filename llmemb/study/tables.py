"""The study's tables, made once and written as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmemb.evaluation import report
from llmemb.evaluation.config import Sampled
from llmemb.study.results import difference

TABLE_SLICES = ("overall", "tail")
METHOD_SLICES = (*TABLE_SLICES, "tail_users")
"""Of the table of methods, some of which are about users; an ablation has no room for more."""
TABLE_METRICS = ("hit_rate@10", "ndcg@10")
TITLES = {"hit_rate@10": "HR@10", "ndcg@10": "NDCG@10"}
LATEX_ESCAPES = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"})
LATEX_ESCAPES |= str.maketrans({"\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}"})
LATEX_ESCAPES |= str.maketrans({"±": "$\\pm$", "≈": "$\\approx$", "≥": "$\\geq$"})
SEEN_LAST = "rank them last by themselves where people do not come back to what they had"
MARKS = (
    "Bold: the best of its column and block; ≈: it cannot be told from the best, by a paired randomisation test over "
    "users (p ≥ 0.05 after Holm's correction) or by the 95 % interval of the difference, over users and seeds; ±: "
    "between seeds. Rows are compared on the seeds that both have; nothing is marked where of several one is left."
)


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table as it is shown.

    Attributes:
        blocks: Rows that belong together, under a title of their own where that is not empty.
    """

    title: str
    columns: tuple[str, ...]
    blocks: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]
    note: str = ""


def protocol(repeats: Collection[bool] = (True,)) -> str:
    """How the rows of a table are ranked; ``repeats`` is what ``fusion.repeats`` is in them."""
    seen = f"those with fusion.repeats {SEEN_LAST}"
    if all(repeats):
        seen = f"trained models and content alone {SEEN_LAST}"
    elif not any(repeats):
        seen = "no model has a term that lets them fall (fusion.repeats: false)"
    return f"All items ranked, seen items not filtered; {seen}."


def comparison(groups: Mapping[str, Mapping[str, Any]], *, repeats: Collection[bool] = (True,)) -> Table:
    """The paper's table: methods on each backbone, overall, tail items and tail users, the best of each in bold.

    Args:
        groups: By backbone, what :meth:`Measure.group` gives.
        repeats: As in :func:`protocol`.
    """
    blocks = tuple((backbone, tuple(_rows(group, METHOD_SLICES))) for backbone, group in groups.items())
    return Table("Methods", ("", *_columns(METHOD_SLICES)), blocks, f"{protocol(repeats)} {MARKS}")


def sampled(groups: Mapping[str, Mapping[str, Any]], drawing: Sampled) -> Table:
    """The same methods under the paper's protocol, and many others'."""
    blocks = tuple((backbone, tuple(_rows(group, METHOD_SLICES, "sampled"))) for backbone, group in groups.items())
    note = (
        f"{drawing.described[0].upper()}{drawing.described[1:]}, the same for every row. Bold: the highest; ±: between "
        "seeds. To compare with papers that report it: it ranks models otherwise than all items do, and is not tested."
    )
    return Table(f"Methods, {drawing.title}", ("", *_columns(METHOD_SLICES)), blocks, note)


def ablations(group: Mapping[str, Any], *, repeats: Collection[bool] = (True,)) -> Table:
    """What each part is worth: the whole method less it without that part."""
    whole = group["models"][0]["label"]
    rows = []
    for number, row in enumerate(_rows(group, TABLE_SLICES)):
        without = group["models"][number]["label"] if 0 < number < len(group["models"]) else None
        lost = ["" if without is None else _difference(group, whole, without, part) for part in TABLE_SLICES]
        rows.append((*row, *map(Cell, lost)))
    note = (
        f"{protocol(repeats)} {MARKS} Lost: {whole} less the row, with the 95 % interval over users and seeds; *: told "
        "apart, by that and by the test. Above zero, the part helps."
    )
    columns = ("", *_columns(TABLE_SLICES), *(f"{part}: lost NDCG@10" for part in TABLE_SLICES))
    return Table("Ablations", columns, (("", tuple(rows)),), note)


def sensitivity(groups: Mapping[str, Mapping[str, Any]], *, repeats: Collection[bool] = (True,)) -> Table:
    """The figures for each value of each setting."""
    blocks = tuple((path, tuple(_rows(group, TABLE_SLICES))) for path, group in groups.items())
    return Table("Sensitivity", ("", *_columns(TABLE_SLICES)), blocks, f"{protocol(repeats)} {MARKS}")


def trials(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """What each trial took, and why those that failed did."""
    rows = []
    for outcome in outcomes:
        described = (Cell(outcome["trial"]), Cell(outcome["experiment"]))
        if outcome["reason"] is not None:
            rows.append((*described, Cell("failed"), Cell(outcome["reason"]), Cell("")))
            continue
        epochs = f"{outcome['num_epochs']} epochs"
        took = Cell(f"{outcome['seconds']:,.0f} s, {epochs}")
        memory = Cell(f"{outcome['peak_memory_mib']:,.0f} MiB")
        rows.append((*described, Cell(f"{outcome['validation']:.4f}"), took, memory))
    columns = ("", "for", "validation NDCG@10", "took", "peak memory")
    return Table("Trials", columns, (("", tuple(rows)),))


def to_markdown(tables: Sequence[Table]) -> str:
    """All tables in one document."""
    parts = []
    for table in tables:
        lines = [f"## {table.title}", "", _markdown_row([Cell(name) for name in table.columns])]
        lines.append("|" + "---|" * len(table.columns))
        for title, rows in table.blocks:
            if title:
                lines.append(_markdown_row([Cell(title, bold=True), *[Cell("")] * (len(table.columns) - 1)]))
            lines += [_markdown_row(row) for row in rows]
        parts.append("\n".join([*lines, "", table.note] if table.note else lines))
    return "\n\n".join(parts) + "\n"


def to_latex(tables: Sequence[Table]) -> str:
    """One ``table`` with a ``tabular`` (of booktabs) for each."""
    parts = []
    for table in tables:
        caption = f"{table.title}. {table.note}" if table.note else table.title
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{_latex(caption)}}}"]
        lines += ["\\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}", "\\toprule"]
        lines.append(_latex_row([Cell(name) for name in table.columns]))
        for title, rows in table.blocks:
            lines.append("\\midrule")
            if title:
                lines.append(f"\\multicolumn{{{len(table.columns)}}}{{l}}{{\\emph{{{_latex(title)}}}}} \\\\")
            lines += [_latex_row(row) for row in rows]
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def to_csv(groups: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    """Every figure of every row: means over seeds, their intervals over users and deviations between seeds.

    Args:
        groups: The experiment, its part (a backbone, a setting), and the group.
    """
    buffer = io.StringIO()
    names = ("experiment", "part", "row", "seeds", "protocol", "slice", "metric", "value", "low", "high", "deviation")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for experiment, part, group in groups:
        for model in group["models"]:
            for protocol, slices in model["metrics"].items():
                for slice_name, metrics in slices.items():
                    for metric, value in metrics.items():
                        interval = model["intervals"][protocol][slice_name][metric] or ("", "")
                        deviation = model.get("deviations", {}).get(protocol, {}).get(slice_name, {}).get(metric)
                        row = (experiment, part, model["label"], len(model["runs"]), protocol, slice_name, metric)
                        writer.writerow((*row, value, *interval, deviation))
    return buffer.getvalue()


def _columns(parts: Sequence[str]) -> list[str]:
    return [f"{part.replace('_', ' ')} {TITLES[metric]}" for part in parts for metric in TABLE_METRICS]


def _rows(group: Mapping[str, Any], parts: Sequence[str], protocol: str = "full") -> list[tuple[Cell, ...]]:
    """Every row's figures on some slices; those that failed last."""
    shown = [part for part in group["slices"] if part["name"] in parts]
    columns = report.headline_columns({**group, "slices": shown}, protocol)
    rows = [
        (Cell(_name(model)), *(_cell(cell) for column in columns for cell in column.rows[number]))
        for number, model in enumerate(group["models"])
    ]
    return [*rows, *((Cell(label), *[Cell("failed")] * len(_columns(parts))) for label in group["failed"])]


def _cell(cell: report.Cell) -> Cell:
    deviation = f" {cell.deviation}" if cell.deviation else ""
    return Cell(cell.text + cell.mark + deviation, bold=cell.best)


def _name(model: Mapping[str, Any]) -> str:
    failed = model["num_failed"]
    return model["label"] + (f" ({failed} of {failed + len(model['runs'])} seeds failed)" if failed else "")


def _difference(group: Mapping[str, Any], whole: str, without: str, part: str) -> str:
    test = difference(group, whole, without, part=part, metric="ndcg@10")
    if test is None:
        return ""
    if test["interval"] is None:
        return f"{test['difference']:+.4f}"
    low, high = test["interval"]
    mark = "*" if test["apart"] else ""
    return f"{test['difference']:+.4f}{mark} ({low:+.4f} to {high:+.4f})"


def _markdown_row(cells: Sequence[Cell]) -> str:
    texts = [" ".join(cell.text.split()).replace("|", "\\|") for cell in cells]
    shown = [f"**{text}**" if cell.bold and text else text for text, cell in zip(texts, cells, strict=True)]
    return f"| {' | '.join(shown)} |"


def _latex_row(cells: Sequence[Cell]) -> str:
    shown = [f"\\textbf{{{_latex(cell.text)}}}" if cell.bold else _latex(cell.text) for cell in cells]
    row = " & ".join(shown)
    if row.startswith(("[", "*")):  # behind \\ it would be an argument of it
        row = f"{{{row[0]}}}{row[1:]}"
    return row + " \\\\"


def _latex(text: str) -> str:
    return " ".join(text.split()).translate(LATEX_ESCAPES)
