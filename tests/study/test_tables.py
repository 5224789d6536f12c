import csv
import io
from typing import Any

import pytest

from llmemb.evaluation.config import Sampled
from llmemb.study import tables


def model(label: str, overall: float, tail: float, users: float = 0.08, **more: Any) -> dict[str, Any]:
    values = {"overall": overall, "tail": tail, "tail_users": users}
    figures = {part: dict.fromkeys(tables.TABLE_METRICS, value) for part, value in values.items()}
    spans = {part: {name: (value - 0.01, value + 0.01) for name, value in of.items()} for part, of in figures.items()}
    deviations = {part: dict.fromkeys(tables.TABLE_METRICS, 0.002) for part in figures}
    runs = {"label": label, "runs": ["a", "b"], "num_failed": 0, "deviations": {"full": deviations}}
    return runs | {"metrics": {"full": figures}, "intervals": {"full": spans}} | more


def group(*models: dict[str, Any], p: float) -> dict[str, Any]:
    tests = [
        {"protocol": "full", "slice": part, "metric": metric, "a": one["label"], "b": other["label"], "apart": p < 0.05}
        | {"difference": 0.02, "interval": (0.01, 0.03)}
        for part in tables.METHOD_SLICES
        for metric in tables.TABLE_METRICS
        for number, one in enumerate(models)
        for other in models[number + 1 :]
    ]
    slices = [
        {"name": part, "family": "headline", "num_users": 9} for part in ("overall", "head", "tail", "tail_users")
    ]
    return {"models": list(models), "comparisons": tests, "slices": slices, "failed": ["MELT"]}


GROUP = group(model("LLMEmb", 0.12, 0.05), model("A_B & C", 0.10, 0.06, 0.07, num_failed=1), p=0.01)


def test_the_best_of_each_column_is_bold_and_failed_seeds_are_told():
    lines = tables.to_markdown([tables.comparison({"SASRec": GROUP})]).splitlines()
    columns = [
        "overall HR@10",
        "overall NDCG@10",
        "tail HR@10",
        "tail NDCG@10",
        "tail users HR@10",
        "tail users NDCG@10",
    ]
    assert lines[2] == f"|  | {' | '.join(columns)} |"
    assert lines[4] == "| **SASRec** |" + "  |" * 6
    best, tail, users = (f"**{value} ± .0020**" for value in (".1200", ".0600", ".0800"))
    assert lines[5] == f"| LLMEmb | {best} | {best} | .0500 ± .0020 | .0500 ± .0020 | {users} | {users} |"
    assert lines[7] == "| MELT |" + " failed |" * 6
    others = f".1000 ± .0020 | .1000 ± .0020 | {tail} | {tail} | .0700 ± .0020 | .0700 ± .0020 |"
    assert lines[6] == f"| A_B & C (1 of 3 seeds failed) | {others}"


def test_what_cannot_be_told_from_the_best_is_marked():
    close = group(model("A", 0.12, 0.05), model("B", 0.10, 0.06), p=0.5)
    shown = tables.comparison({"": close})
    assert "| B | .1000 ≈ ± .0020 | .1000 ≈ ± .0020 | **.0600 ± .0020** |" in tables.to_markdown([shown])
    assert "B & .1000 $\\approx$ $\\pm$ .0020 &" in tables.to_latex([shown])


def test_the_papers_protocol_has_a_table_of_its_own_with_nothing_tested():
    full = [model("LLMEmb", 0.12, 0.05), model("text", 0.10, 0.04)]
    drawn = [model("LLMEmb", 0.4, 0.5), model("text", 0.5, 0.4, 0.3)]
    keys = ("metrics", "intervals", "deviations")
    models = [
        one | {key: {**one[key], "sampled": other[key]["full"]} for key in keys}
        for one, other in zip(full, drawn, strict=True)
    ]
    shown = tables.sampled({"SASRec": group(*models, p=0.5)}, Sampled(num_negatives=7, distribution="popularity"))
    lines = tables.to_markdown([shown]).splitlines()
    assert lines[0] == "## Methods, 1 + 7 sampled"
    assert lines[5].startswith("| LLMEmb | .4000 ± .0020 | .4000 ± .0020 | **.5000 ± .0020** |")
    assert lines[6].startswith("| text | **.5000 ± .0020** | **.5000 ± .0020** | .4000 ± .0020 |")
    assert shown.note.startswith("The target among 7 items that the user has not seen, drawn by popularity, the same")


def test_latex_is_escaped():
    shown = tables.to_latex([tables.comparison({"SASRec": GROUP})])
    assert "\\multicolumn{7}{l}{\\emph{SASRec}} \\\\" in shown
    assert "LLMEmb & \\textbf{.1200 $\\pm$ .0020} & \\textbf{.1200 $\\pm$ .0020} &" in shown
    assert "A\\_B \\& C (1 of 3 seeds failed)" in shown
    assert "\\caption{Methods. All items ranked, seen items not filtered" in shown
    odd = tables.to_latex([tables.Table("a^2 \\b ~{}", ("",), ())])
    assert "\\caption{a\\textasciicircum{}2 \\textbackslash{}b \\textasciitilde{}\\{\\}}" in odd


def test_a_row_may_be_called_anything():
    called = ("[no text]", "*", "a [b]", "two\n\nlines")
    table = tables.Table("T", ("", "x"), (("a\nb", tuple((tables.Cell(name), tables.Cell("[1]")) for name in called)),))
    rows = [line for line in tables.to_latex([table]).splitlines() if "&" in line]
    assert [row.split(" & ")[0] for row in rows] == ["", "{[}no text]", "{*}", "a [b]", "two lines"]
    assert all(row.endswith(" & [1] \\\\") for row in rows[1:])
    lines = tables.to_markdown([table]).splitlines()
    assert lines[4] == "| **a b** |  |"
    assert lines[5:] == [f"| {name} | [1] |" for name in ("[no text]", "*", "a [b]", "two lines")]


def test_an_ablation_shows_what_is_lost_with_its_interval():
    shown = tables.to_markdown([tables.ablations(GROUP)])
    whole, without = (line for line in shown.splitlines() if line.startswith(("| LLMEmb", "| A_B")))
    assert whole.endswith("|  |  |")
    assert without.endswith("| +0.0200* (+0.0100 to +0.0300) | +0.0200* (+0.0100 to +0.0300) |")


def test_where_too_few_seeds_are_left_to_say_nothing_is_marked():
    unsaid = group(model("LLMEmb", 0.12, 0.05), model("A", 0.10, 0.06), p=0.5)
    for test in unsaid["comparisons"]:
        test |= {"interval": None, "apart": None}
    whole, without = tables.to_markdown([tables.ablations(unsaid)]).splitlines()[4:6]
    assert whole == "| LLMEmb | **.1200 ± .0020** | **.1200 ± .0020** | .0500 ± .0020 | .0500 ± .0020 |  |  |"
    assert without.endswith("| .1000 ± .0020 | .1000 ± .0020 |" + " **.0600 ± .0020** |" * 2 + " +0.0200 | +0.0200 |")


def test_sensitivity_has_a_block_for_each_setting_and_says_how_it_was_measured():
    shown = tables.to_markdown([tables.sensitivity({"rat.alignment.weight": GROUP, "scft.lora.rank": GROUP})])
    blocks = [line for line in shown.splitlines() if line.startswith("| **")]
    assert [block.split("**")[1] for block in blocks] == ["rat.alignment.weight", "scft.lora.rank"]
    assert "All items ranked, seen items not filtered" in shown


@pytest.mark.parametrize(
    ("repeats", "said"),
    [
        ({True}, "trained models and content alone rank them last by themselves where people do not come back"),
        ({False}, "no model has a term that lets them fall (fusion.repeats: false)."),
        ({True, False}, "those with fusion.repeats rank them last by themselves"),
    ],
)
def test_what_becomes_of_seen_items_is_said_as_it_is(repeats, said):
    for table in (
        tables.comparison({"SASRec": GROUP}, repeats=repeats),
        tables.ablations(GROUP, repeats=repeats),
        tables.sensitivity({"rat.alignment.weight": GROUP}, repeats=repeats),
    ):
        assert table.note.startswith(f"All items ranked, seen items not filtered; {said}")


def test_csv_has_every_figure_with_its_interval():
    rows = list(csv.DictReader(io.StringIO(tables.to_csv([("methods", "SASRec", GROUP)]))))
    assert len(rows) == 2 * 3 * 2
    assert rows[0] == {
        "experiment": "methods",
        "part": "SASRec",
        "row": "LLMEmb",
        "seeds": "2",
        "protocol": "full",
        "slice": "overall",
        "metric": "hit_rate@10",
        "value": "0.12",
        "low": "0.11",
        "high": "0.13",
        "deviation": "0.002",
    }


def test_a_failed_trial_is_a_row_with_its_reason():
    ended = {"trial": "melt on sasrec", "experiment": "methods", "reason": "too short", "seconds": None}
    good = {"trial": "none on sasrec", "experiment": "methods", "reason": None, "validation": 0.0712}
    good |= {"seconds": 61.7, "peak_memory_mib": 1234.4, "num_epochs": 5}
    lines = tables.to_markdown([tables.trials([good, ended])]).splitlines()
    assert lines[-2] == "| none on sasrec | methods | 0.0712 | 62 s, 5 epochs | 1,234 MiB |"
    assert lines[-1] == "| melt on sasrec | methods | failed | too short |  |"
