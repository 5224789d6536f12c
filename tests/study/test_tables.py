import csv
import io
from typing import Any

from llmemb.study import tables


def model(label: str, overall: float, tail: float, **more: Any) -> dict[str, Any]:
    figures = {
        part: dict.fromkeys(tables.TABLE_METRICS, value) for part, value in (("overall", overall), ("tail", tail))
    }
    spans = {part: {name: (value - 0.01, value + 0.01) for name, value in of.items()} for part, of in figures.items()}
    runs = {"label": label, "runs": ["a", "b"], "num_failed": 0}
    return runs | {"metrics": {"full": figures}, "intervals": {"full": spans}} | more


def group(*models: dict[str, Any], p: float) -> dict[str, Any]:
    tests = [
        {"protocol": "full", "slice": part, "metric": metric, "a": one["label"], "b": other["label"], "p_holm": p}
        | {"difference": 0.02, "interval": (0.01, 0.03), "p": p}
        for part in ("overall", "tail")
        for metric in tables.TABLE_METRICS
        for number, one in enumerate(models)
        for other in models[number + 1 :]
    ]
    slices = [{"name": part, "family": "headline", "num_users": 9} for part in ("overall", "head", "tail")]
    return {"models": list(models), "comparisons": tests, "slices": slices, "failed": ["MELT"]}


GROUP = group(model("LLMEmb", 0.12, 0.05), model("A_B & C", 0.10, 0.06, num_failed=1), p=0.01)


def test_the_best_of_each_column_is_bold_and_failed_seeds_are_told():
    lines = tables.to_markdown([tables.comparison({"SASRec": GROUP})]).splitlines()
    assert lines[2] == "|  | overall HR@10 | overall NDCG@10 | tail HR@10 | tail NDCG@10 |"
    assert lines[4] == "| **SASRec** |  |  |  |  |"
    assert lines[5] == "| LLMEmb | **.1200** | **.1200** | .0500 | .0500 |"
    assert lines[7] == "| MELT | failed | failed | failed | failed |"
    assert lines[6] == "| A_B & C (1 of 3 seeds failed) | .1000 | .1000 | **.0600** | **.0600** |"


def test_what_cannot_be_told_from_the_best_is_marked():
    close = group(model("A", 0.12, 0.05), model("B", 0.10, 0.06), p=0.5)
    assert "| B | .1000 ≈ | .1000 ≈ | **.0600** |" in tables.to_markdown([tables.comparison({"": close})])


def test_latex_is_escaped():
    shown = tables.to_latex([tables.comparison({"SASRec": GROUP})])
    assert "\\multicolumn{5}{l}{\\emph{SASRec}} \\\\" in shown
    assert "LLMEmb & \\textbf{.1200} & \\textbf{.1200} & .0500 & .0500 \\\\" in shown
    assert "A\\_B \\& C (1 of 3 seeds failed)" in shown


def test_an_ablation_shows_what_is_lost_with_its_interval():
    shown = tables.to_markdown([tables.ablations(GROUP)])
    whole, without = (line for line in shown.splitlines() if line.startswith(("| LLMEmb", "| A_B")))
    assert whole.endswith("|  |  |")
    assert without.endswith("| +0.0200* (+0.0100 to +0.0300) | +0.0200* (+0.0100 to +0.0300) |")


def test_csv_has_every_figure_with_its_interval():
    rows = list(csv.DictReader(io.StringIO(tables.to_csv([("methods", "SASRec", GROUP)]))))
    assert len(rows) == 2 * 2 * 2
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
        "deviation": "",
    }


def test_a_failed_trial_is_a_row_with_its_reason():
    ended = {"trial": "melt on sasrec", "experiment": "methods", "reason": "too short", "seconds": None}
    good = {"trial": "none on sasrec", "experiment": "methods", "reason": None, "validation": 0.0712}
    good |= {"seconds": 61.7, "peak_memory_mib": 1234.4, "num_epochs": 5}
    lines = tables.to_markdown([tables.trials([good, ended])]).splitlines()
    assert lines[-2] == "| none on sasrec | methods | 0.0712 | 62 s, 5 epochs | 1,234 MiB |"
    assert lines[-1] == "| melt on sasrec | methods | failed | too short |  |"
