"""A whole study on a tiny catalogue, one method of which cannot succeed; trials run here, without Ray Tune."""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llmemb import storage
from llmemb.data.dataset import Dataset
from llmemb.embed.config import EmbedConfig
from llmemb.errors import InputError
from llmemb.evaluation import entrants
from llmemb.rat.config import RatConfig
from llmemb.rat.methods import METHODS
from llmemb.rat.recommender import RECOMMENDER_FILE
from llmemb.rat.run import run_rat
from llmemb.study import encoders, run, trials
from llmemb.study.config import StudyConfig, TrialsConfig
from llmemb.study.grid import Grid, Trial
from llmemb.study.queue import TrialQueue
from llmemb.study.report import search_table, trial_facts
from llmemb.study.results import Measure
from llmemb.study.run import check_details, run_study, train_all
from llmemb.study.trials import Outcome, Outcomes
from tests.pages import DESK, PHONE, check_fits
from tests.snapshots import write_snapshot

SMALL = {
    "model": {"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 4, "dropout": 0.0},
    "training": {"max_epochs": 2, "batch_positions": 64, "learning_rate": 0.01},
    "alignment": {"weight": 0.03},
}


def train_here(queue: TrialQueue, title: str, output: str, settings: TrialsConfig) -> dict[str, str]:
    """Stands for Ray Tune: see test_trials.py."""
    reasons = {}
    while (config := queue.take()) is not None:
        try:
            run_rat(config, here=True)
        except InputError as error:
            reasons[config.output] = str(error)
        queue.end(config.output, failed=config.output in reasons)
    return reasons


def embed_here(config: EmbedConfig) -> None:
    write_snapshot(config.output, {f"i{item}": f"item {item}" for item in range(40)}, dim=6)


@pytest.fixture(scope="module")
def study(tiny_dataset, tiny_encoder, tmp_path_factory) -> StudyConfig:
    config = StudyConfig.parse(
        {
            "dataset": tiny_dataset,
            "output": str(tmp_path_factory.mktemp("study")),
            "backbones": ["sasrec"],
            "methods": ["none", "melt", "text_sum", "llmemb"],
            "seeds": [0, 1],
            "scft": {"prompt": {"attributes": ["title", "brand"]}},
            "embed": {"encoder": str(tiny_encoder), "engine": {"precision": "fp32"}},
            "rat": SMALL,
            "ablations": {"w/o alignment": {"rat.alignment.weight": 0}},
            "sensitivity": {"rat.alignment.weight": [0.0]},
            "sampled": {"num_negatives": 5},
            "uncertainty": {"resamples": 100, "randomisations": 100},
            "embedding_map": {"max_items": 20},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "_tune", train_here)
        patch.setattr(encoders, "run_embed", embed_here)
        run_study(config)
    return config


def test_a_study_ends_with_tables_a_report_and_every_figure(study):
    results = storage.read_json(f"{study.output}/study.json")
    labels = [model["label"] for model in results["methods"]["SASRec"]["models"]]
    assert labels == ["popularity", "text similarity", "content alone", "IDs only", "IDs + text", "LLMEmb"]
    assert [model["label"] for model in results["ablations"]["models"]] == ["LLMEmb", "w/o alignment"]
    assert [model["label"] for model in results["sensitivity"]["rat.alignment.weight"]["models"]] == ["0", "0.03"]
    tested = {test["slice"] for test in results["methods"]["SASRec"]["comparisons"]}
    assert {"overall", "tail", "tail_users"} <= tested
    page = Path(study.output, "report.html").read_text()
    tables = Path(study.output, "tables.md").read_text()
    for label in labels[3:]:
        assert f"| {label} |" in tables
        assert f'<th scope="row">{label}</th>' in page
    assert page.count("data:image/svg+xml") == 4 * 3  # pictures in light and dark, wide and narrow
    assert results["map_info"]["num_items"] == 20
    assert "<h2>Where the items lie: SASRec</h2>" in page
    drawn = re.findall(r'<svg viewBox[^>]* aria-label="([^"]*), coloured by fifth">(.*?)</svg>', page)
    assert {name: paths.count("M") for name, paths in drawn} == {"IDs only": 20, "IDs + text": 20, "LLMEmb": 20}
    assert "## Methods, 1 + 5 sampled" in tables
    assert "<h2>Methods, 1 + 5 sampled</h2>" in page
    assert "\\toprule" in Path(study.output, "tables.tex").read_text()
    assert "methods,SASRec,LLMEmb,2,sampled,tail,ndcg@10," in Path(study.output, "figures.csv").read_text()


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_its_report_fits_a_desk_and_a_phone(study, browser, troubles, width):
    report = Path(study.output, "report.html")
    check_fits(browser, report, width=width, dark=False, troubles=troubles, num_pictures=3)


def test_of_every_user_a_study_keeps_ranks_and_no_lists(study):
    files = list(Path(study.output, "rankings").iterdir())
    assert len(files) == 2 * 3 + 2  # as many as there are good trials
    for file in files:
        assert pq.read_schema(file).names == ["user_id", "target", "rank_full", "rank_filtered", "rank_sampled"]


def test_a_trial_that_fails_is_a_row_with_its_reason_and_stops_no_other(study):
    ended = storage.read_json(f"{study.output}/study.json")["trials"]
    failed = [trial for trial in ended if trial["reason"] is not None]
    assert [trial["trial"] for trial in failed] == ["melt on sasrec, seed 0", "melt on sasrec, seed 1"]
    assert all("all are as short" in trial["reason"] for trial in failed)
    good = [trial for trial in ended if trial["reason"] is None]
    assert len(good) == 2 * 3 + 2  # two seeds of three methods, and of the ablation, which sensitivity shares
    assert all(trial["seconds"] > 0 and trial["peak_memory_mib"] > 10 for trial in good)


def test_a_finished_study_trains_nothing_again(study, monkeypatch, capsys):
    before = json.dumps(storage.read_json(f"{study.output}/study.json")["methods"])
    tried: list[str] = []
    monkeypatch.setattr(trials, "_tune", lambda queue, *rest: tried.extend(one.output for one in queue.trials) or {})
    monkeypatch.setattr(encoders, "run_embed", lambda config: pytest.fail("it is embedded already"))
    run_study(study)
    assert [storage.name(uri).split("-")[0] for uri in tried] == ["melt", "melt"]  # what failed is tried again
    assert json.dumps(storage.read_json(f"{study.output}/study.json")["methods"]) == before
    assert "2 of 10 trials failed" in capsys.readouterr().out


def test_what_finished_trials_were_made_from_may_be_gone(study, tmp_path, monkeypatch, capsys):
    shutil.copytree(study.output, tmp_path / "copy", ignore=shutil.ignore_patterns("embeddings", "melt-*"))
    monkeypatch.setattr(trials, "_tune", lambda *arguments: pytest.fail("it is trained already"))
    monkeypatch.setattr(encoders, "run_embed", lambda config: pytest.fail("nobody waits for it"))
    changed = {"output": str(tmp_path / "copy"), "methods": ("none", "text_sum", "llmemb")}
    run_study(study.model_copy(update=changed))
    labels = [one["label"] for one in storage.read_json(f"{tmp_path}/copy/study.json")["methods"]["SASRec"]["models"]]
    assert labels == ["popularity", "IDs only", "IDs + text", "LLMEmb"]
    assert "has no embeddings: no rows of text alone" in capsys.readouterr().out


def test_a_recommender_that_cannot_be_ranked_is_a_failed_row(study, tmp_path, monkeypatch):
    shutil.copytree(study.output, tmp_path / "copy")
    monkeypatch.setattr(trials, "_tune", lambda *arguments: pytest.fail("it is trained already"))
    trained = storage.read_json(f"{study.output}/study.json")["methods"]["SASRec"]["models"][-1]["runs"]
    damaged = tmp_path / "copy" / "trials" / storage.name(trained[0]) / RECOMMENDER_FILE
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | {"format": 1}))
    changed = {"output": str(tmp_path / "copy"), "methods": ("none", "llmemb"), "ablations": {}, "sensitivity": {}}
    run_study(study.model_copy(update=changed))
    results = storage.read_json(f"{tmp_path}/copy/study.json")
    [failed] = [trial for trial in results["trials"] if trial["reason"] is not None]
    assert "cannot be ranked; remove it to have it trained again" in failed["reason"]
    llmemb = results["methods"]["SASRec"]["models"][-1]
    assert (llmemb["label"], len(llmemb["runs"]), llmemb["num_failed"]) == ("LLMEmb", 1, 1)
    said = {(test["a"], test["b"]): test["apart"] for test in results["methods"]["SASRec"]["comparisons"]}
    assert {pair for pair, apart in said.items() if apart is None} == {pair for pair in said if "LLMEmb" in pair}


def test_one_that_was_damaged_after_it_was_ranked_has_its_row_and_no_map(study, tmp_path, monkeypatch, capsys):
    shutil.copytree(study.output, tmp_path / "copy")
    monkeypatch.setattr(trials, "_tune", lambda *arguments: pytest.fail("it is trained already"))
    trained = storage.read_json(f"{study.output}/study.json")["methods"]["SASRec"]["models"][-1]["runs"]
    shutil.rmtree(tmp_path / "copy" / "trials" / storage.name(trained[0]) / "item_embeddings")
    changed = {"output": str(tmp_path / "copy"), "methods": ("none", "llmemb"), "ablations": {}, "sensitivity": {}}
    run_study(study.model_copy(update=changed))
    results = storage.read_json(f"{tmp_path}/copy/study.json")
    assert not [trial for trial in results["trials"] if trial["reason"]]
    assert results["methods"]["SASRec"]["models"][-1]["label"] == "LLMEmb"
    assert "study: no map: " in capsys.readouterr().out
    drawn = re.findall(r'aria-label="([^"]*), coloured by fifth">', Path(tmp_path, "copy", "report.html").read_text())
    assert set(drawn) == {"IDs only"}


def test_a_damaged_ranking_is_made_anew(study, tmp_path, monkeypatch):
    shutil.copytree(study.output, tmp_path / "copy")
    monkeypatch.setattr(trials, "_tune", lambda *arguments: pytest.fail("it is trained already"))
    whole = {file.name: file.read_bytes() for file in (tmp_path / "copy" / "rankings").iterdir()}
    for name, content in whole.items():
        (tmp_path / "copy" / "rankings" / name).write_bytes(content[: len(content) // 2])
    run_study(study.model_copy(update={"output": str(tmp_path / "copy"), "methods": ("none", "text_sum", "llmemb")}))
    assert {file.name: file.read_bytes() for file in (tmp_path / "copy" / "rankings").iterdir()} == whole


def test_one_that_no_worker_can_load_is_a_failed_row_of_one_line(study, ray_local, tmp_path, monkeypatch):
    shutil.copytree(study.output, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "rankings")
    monkeypatch.setattr(trials, "_tune", lambda *arguments: pytest.fail("it is trained already"))
    trained = storage.read_json(f"{study.output}/study.json")["methods"]["SASRec"]["models"][-1]["runs"]
    weights = tmp_path / "copy" / "trials" / storage.name(trained[0]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    changed = {"methods": ("none", "llmemb"), "ablations": {}, "sensitivity": {}, "num_workers": 2}
    run_study(study.model_copy(update={"output": str(tmp_path / "copy"), **changed}))
    [failed] = [trial for trial in storage.read_json(f"{tmp_path}/copy/study.json")["trials"] if trial["reason"]]
    assert failed["reason"].startswith("cannot be ranked; remove it to have it trained again: recommender: ")
    assert not [word for word in ("\n", "Traceback", "ray::") if word in failed["reason"]]


def test_seen_items_fall_for_nobody_where_no_trained_model_lets_them(study, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_tune", lambda *arguments: {})
    changed = {"output": str(tmp_path), "methods": ("none",), "ablations": {}, "sensitivity": {}}
    kept = study.model_copy(update={**changed, "rat": {**SMALL, "fusion": {"repeats": False}}})
    run_study(kept)
    assert "; no model has a term that lets them fall (" in Path(tmp_path, "tables.md").read_text()
    dataset = Dataset.open(study.dataset)
    snapshot = write_snapshot(str(tmp_path / "snapshot"), {f"i{item}": f"item {item}" for item in range(40)}, dim=6)
    monkeypatch.setattr(entrants, "repeat_share", lambda train: 0.001)
    histories, lowest = dataset.test().histories, []
    for config in (study, kept):
        alone = Measure(config, dataset).baselines(snapshot)[-1]
        assert (alone.label, alone.load is not None) == ("content alone", True)
        lowest.append(min(float(scores.min()) for scores in alone.load().score(histories)))  # type: ignore[misc]
    assert lowest[0] < -1.001 < lowest[1]  # a cosine less what puts it behind all, and a cosine


def test_content_alone_may_let_seen_items_fall_where_no_trained_model_does(study, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_tune", lambda *_: {})
    monkeypatch.setattr(encoders, "run_embed", embed_here)
    changed = {"output": str(tmp_path), "methods": ("none", "text_sum"), "ablations": {}, "sensitivity": {}}
    run_study(study.model_copy(update={**changed, "per_backbone": {"sasrec": {"rat.fusion.repeats": False}}}))
    written = Path(tmp_path, "tables.md").read_text()
    assert "| content alone |" in written
    assert "not filtered; those with fusion.repeats rank them last" in written


def test_the_settings_with_the_best_validation_are_chosen_and_shown(study, tmp_path, monkeypatch):
    rates = {0.01: 0.1, 0.02: 0.3, 0.03: 0.2}
    found: dict[str, Outcome] = {}

    def pretend(configs: list[RatConfig], **rest: object) -> list[Outcome]:
        ended = [Outcome(None, rates[config.training.learning_rate], 1.0, 1.0, 1) for config in configs]
        found.update({config.output: outcome for config, outcome in zip(configs, ended, strict=True)})
        return ended

    monkeypatch.setattr(run, "run_trials", pretend)
    search = {"none": {"rat.training.learning_rate": tuple(rates)}}
    changed = {"output": str(tmp_path), "methods": ("none",), "search": search, "ablations": {}, "sensitivity": {}}
    grid = Grid(study.model_copy(update=changed), "dataset")
    outcomes = train_all(grid)
    assert outcomes == found
    chosen = [grid.rat_config(trial).training.learning_rate for trial in grid.table("none", "sasrec")]
    assert chosen == [0.02, 0.02]
    [table] = [search_table(grid, outcomes)]
    assert table is not None
    [(_, rows)] = table.blocks
    assert [(row[1].text, row[1].bold) for row in rows] == [("0.1000", False), ("0.3000", True), ("0.2000", False)]


@pytest.mark.parametrize(("method", "shown"), [("melt", ["IDs only (SASRec)"]), ("llm2x", [])])
def test_what_is_tried_for_ids_that_others_start_from_is_shown(study, monkeypatch, method, shown):
    monkeypatch.setattr(run, "run_trials", lambda configs, **_: [Outcome(None, 0.1, 1.0, 1.0, 1)] * len(configs))
    monkeypatch.setattr(run, "make_embeddings", lambda *_: {})
    search = {name: {"rat.training.learning_rate": (0.01, 0.02)} for name in ("none", method)}
    changed = {"methods": (method,), "search": search, "ablations": {}, "sensitivity": {}}
    grid = Grid(study.model_copy(update=changed), "dataset")
    outcomes = train_all(grid)
    table = search_table(grid, outcomes)
    assert table is not None
    assert [(title, len(rows)) for title, rows in table.blocks] == [
        (title, 2) for title in (*shown, f"{METHODS[method].label} (SASRec)")
    ]
    tried = [trial["experiment"] for trial in trial_facts(grid, outcomes) if trial["trial"].startswith("none")]
    assert tried == (["what others start from"] * 2 + ["search"] if shown else [])


def test_what_rests_on_no_ids_alone_is_searched_beside_them(study, tmp_path, monkeypatch):
    waves: list[list[str]] = []

    def pretend(configs: list[RatConfig], **rest: object) -> list[Outcome]:
        if configs:
            waves.append([config.method for config in configs])
        digits = [storage.name(config.output)[-4:] for config in configs]  # of a fingerprint: as good as drawn
        return [Outcome(None, int(four, 16) / 16**4, 1.0, 1.0, 1) for four in digits]

    def trained() -> tuple[Outcomes, list[Trial]]:
        waves.clear()
        grid = Grid(study.model_copy(update=changed), "dataset")
        return train_all(grid), list(grid.all_trials())

    monkeypatch.setattr(run, "run_trials", pretend)
    monkeypatch.setattr(run, "make_embeddings", lambda *_: {})
    methods = ("none", "melt", "llm2x")
    search = {method: {"rat.training.learning_rate": (0.01, 0.02)} for method in methods}
    changed = {"output": str(tmp_path), "methods": methods, "search": search, "ablations": {}, "sensitivity": {}}
    found = trained()
    assert waves == [["none"] * 2 + ["llm2x"] * 2, ["melt"] * 2, ["none", "melt", "llm2x"]]
    monkeypatch.setattr(Grid, "rests_on_ids", lambda *_: True)
    assert trained() == found
    assert waves == [["none"] * 2, ["melt"] * 2 + ["llm2x"] * 2, ["none", "melt", "llm2x"]]


@pytest.mark.parametrize("methods", [("none",), ("melt",)])
@pytest.mark.parametrize("tried", [{"rat.melt.user_weight": (0.1, 0.2)}, {"rat.training.learning_rate": (0.01, 0.01)}])
def test_a_search_that_tries_less_than_it_says_is_refused(study, tmp_path, methods, tried, monkeypatch):
    monkeypatch.setattr(trials, "_tune", lambda *_: pytest.fail("nothing may be trained"))
    search = {"none": tried, "melt": {"rat.melt.user_weight": (0.1, 0.2)}}
    changed = {"output": str(tmp_path), "methods": methods, "search": search}
    with pytest.raises(InputError, match=r"search\.none: 2 combinations are 1 different trials"):
        run_study(study.model_copy(update={**changed, "ablations": {}, "sensitivity": {}}))


UNALIGNED = {key: value for key, value in SMALL.items() if key != "alignment"}
LEARNING_RATE = "rat.training.learning_rate"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ablations": {"x": {"rat.alignment.weight": 0}}}, r"ablations\.x: with rat\.alignment\.weight=0"),
        ({"ablations": {"x": {"rat.melt.item_weight": 0}}}, r"ablations\.x: with rat\.melt\.item_weight=0"),
        ({"ablations": {"x": {"embed.encoder": "/tiny"}}}, r"ablations\.x: .* the whole method's own"),
        ({"ablations": {"x": {LEARNING_RATE: 0.02}}, "search": {"llmemb": {LEARNING_RATE: (0.01, 0.02)}}}, "the whole"),
        ({"sensitivity": {"rat.alignment.temperature": (0.05, 0.2)}}, r"temperature: 0\.05 and 0\.1 are the same"),
        ({"sensitivity": {"rat.melt.item_weight": (0.2,)}}, r"item_weight: 0\.2 and 0\.4 are the same trial"),
        ({"sensitivity": {"rat.alignment.weight": (0.0, 1.0)}}, None),  # the value that it has may be written
    ],
)
def test_details_that_change_nothing_are_refused(study, changed, message):
    values = study.model_dump() | {"methods": ("llmemb",), "rat": UNALIGNED, "ablations": {}, "sensitivity": {}}
    values["embed"] = {"encoder": "/tiny"}
    grid = Grid(StudyConfig.model_validate(values | changed), "dataset")
    with nullcontext() if message is None else pytest.raises(InputError, match=message):
        check_details(grid)


@pytest.mark.parametrize("rates", [[], [0.01, 0.02]])
def test_what_starts_from_ids_is_not_tried_where_these_failed(study, tmp_path, monkeypatch, rates):
    """It would train them itself, with settings of its own, in the folder that is named for others."""
    tried: list[str] = []

    def fail(queue: TrialQueue, *rest: object) -> dict[str, str]:
        reasons = {}
        while (config := queue.take()) is not None:
            tried.append(storage.name(config.output))
            reasons[config.output] = "out of memory"
            queue.end(config.output, failed=True)
        return reasons

    monkeypatch.setattr(trials, "_tune", fail)
    search = {method: {LEARNING_RATE: rates} for method in ("none", "llmemb") if rates}
    changed = {"output": str(tmp_path), "methods": ["none", "llmemb"], "seeds": [0], "search": search}
    config = StudyConfig.model_validate(study.model_dump() | changed | {"ablations": {}, "sensitivity": {}})
    grid = Grid(config, "dataset")
    outcomes = train_all(grid)
    assert len(tried) == (len(rates) or 1)
    assert all(name.startswith("none-") for name in tried)
    [llmemb] = grid.table("llmemb", "sasrec")
    expected = "the ID-only recommender that it starts from failed: out of memory"
    assert outcomes[grid.rat_config(llmemb).output].reason == expected


def test_what_is_wrong_with_the_data_is_found_before_any_work(study, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_tune", lambda *_: pytest.fail("nothing may be trained"))
    values = study.model_dump() | {"output": str(tmp_path), "sampled": {"num_negatives": 39}}
    with pytest.raises(InputError, match=r"sampled\.num_negatives: 39, but some user has only"):
        run_study(StudyConfig.model_validate(values))


def test_a_part_of_a_study_is_a_report_with_a_colour_for_each_row(study, monkeypatch):
    monkeypatch.setattr(trials, "_tune", lambda *arguments: pytest.fail("it is trained already"))
    run_study(study.model_copy(update={"methods": ("none", "text_sum", "llmemb")}))
    page = Path(study.output, "report.html").read_text()
    legend = re.findall(r'<span class="swatch" style="background: (#?[\w]+)"></span>([^<]+)</li>', page)
    labels = ["popularity", "text similarity", "content alone", "IDs only", "IDs + text", "LLMEmb"]
    assert [label for _, label in legend] == labels
    assert len({color for color, _ in legend}) == len(labels)
