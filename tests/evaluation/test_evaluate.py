"""The evaluate job from a dataset artifact and recommenders to metrics.json and report.html."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from llmemb import storage
from llmemb.data.dataset import Dataset
from llmemb.data.sequences import Sequences
from llmemb.embed.snapshot import FORMAT, Snapshot, publish
from llmemb.errors import InputError
from llmemb.evaluation import entrants, imported
from llmemb.evaluation.config import EvaluateConfig, Uncertainty
from llmemb.evaluation.evaluate import run_evaluate
from llmemb.evaluation.results import comparisons, list_figures
from llmemb.metrics.ranking import Ranking
from llmemb.metrics.slices import Slice
from llmemb.rat import recommender
from llmemb.vectors import to_table, write

NUM_ITEMS = 20
SEQUENCES = [[1, 2, 3, 4], [1, 2, 5], [2, 1, 6, 7, 20], [3, 1, 2], [1]]
FINGERPRINT = "d0"


class LastItem:
    """Items near the last one in the catalogue come first, the last one itself at the very front."""

    def __init__(self, label: str, embeddings: np.ndarray | None) -> None:
        self.label, self.item_embeddings = label, embeddings

    def score(self, histories: Sequences) -> Iterator[np.ndarray]:
        for user in range(len(histories)):
            distance = np.arange(1, NUM_ITEMS + 1) - histories[user][-1]
            yield -np.abs(distance - 0.25)[None].astype(np.float32)


def write_info(recommender_uri: str, *, label: str, dataset: str = FINGERPRINT) -> None:
    info = {"format": recommender.FORMAT, "label": label, "dataset": dataset}
    storage.write_json(f"{recommender_uri}/recommender.json", info)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    uri = str(tmp_path / "dataset")
    ids = [f"item-{index:02d}" for index in range(1, NUM_ITEMS + 1)]
    items = storage.write_table(f"{uri}/items/part-0.parquet", pa.table({"item_id": ids}))
    sequences = pa.table(
        {
            "user_id": [f"user-{user}" for user in range(len(SEQUENCES))],
            "item_ids": [[ids[index - 1] for index in sequence] for sequence in SEQUENCES],
        }
    )
    files = {"items": [items], "sequences": [storage.write_table(f"{uri}/sequences/part-0.parquet", sequences)]}
    counts = {"items": NUM_ITEMS, "users": len(SEQUENCES), "interactions": sum(map(len, SEQUENCES))}
    info = {"fingerprint": FINGERPRINT, "counts": counts, "files": files, "split": {"policy": "leave-one-out"}}
    storage.write_json(f"{uri}/dataset.json", info)
    return Dataset.open(uri)


@pytest.fixture
def recommenders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two recommenders of one label and no seed, the second without embeddings."""
    uris = [str(tmp_path / name) for name in ("first", "second")]
    for uri in uris:
        write_info(uri, label="nearest")
    table = np.random.default_rng(0).normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    scorers = {uris[0]: LastItem("nearest", table), uris[1]: LastItem("nearest", None)}
    monkeypatch.setattr(entrants.Recommender, "load", lambda uri, device: scorers[uri])
    return uris


def config_of(dataset: Dataset, models: list[str], tmp_path: Path, **settings: Any) -> EvaluateConfig:
    needed = {"dataset": dataset.uri, "models": models, "output": str(tmp_path / "out")}
    small = {"num_threads": 1, "sampled": {"num_negatives": 5}}
    return EvaluateConfig.parse(needed | small | settings)


def test_metrics_by_hand(dataset: Dataset, recommenders: list[str], tmp_path: Path) -> None:
    run_evaluate(config_of(dataset, recommenders, tmp_path, ks=[1, 2, 10]))
    results = storage.read_json(str(tmp_path / "out" / "metrics.json"))
    users = {part["name"]: part["num_users"] for part in results["slices"]}
    # Trained on 1 2 | 1 | 2 1 6 | 3 | 1: head = 1 2 3 6; targets 4, 5, 20, 2 after 3, 2, 7, 1.
    assert {name: users[name] for name in ("overall", "head", "tail", "cold")} == {
        "overall": 4,
        "head": 1,
        "tail": 3,
        "cold": 3,
    }
    assert [model["label"] for model in results["models"]] == ["popularity", "nearest (first)", "nearest (second)"]
    popularity, first, second = (model["metrics"]["full"] for model in results["models"])
    # Ranks of the targets: 20 for the three cold ones, which tie with 13 others, and 2 for item 2.
    assert popularity["overall"]["hit_rate@2"] == popularity["overall"]["hit_rate@10"] == 1 / 4
    assert popularity["overall"]["ndcg@10"] == pytest.approx(1 / np.log2(3) / 4)
    # After 3: 3 4 → rank 2; after 2: 2 3 1 4 0 5 → 2 3 1 4 5 → 5; 20 after 7 → 20 items, last; after 1: 1 2 → 2.
    assert first["overall"]["hit_rate@1"] == 0
    assert first["overall"]["hit_rate@2"] == 2 / 4
    assert first["overall"]["mrr@10"] == pytest.approx((1 / 2 + 1 / 5 + 0 + 1 / 2) / 4)
    assert first["head"]["hit_rate@2"] == 1
    assert second == first
    # Seen: 1 2 3, 1 2, 2 1 6 7 and 3 1; of them, after 2 both 2 and 1 stood before 5, after 1 only 1 before 2.
    filtered = results["models"][1]["metrics"]["filtered"]["overall"]
    assert filtered["mrr@10"] == pytest.approx((1 / 1 + 1 / 3 + 0 + 1 / 1) / 4)
    assert results["models"][1]["metrics"]["sampled"]["overall"]["hit_rate@10"] == 1  # of six items all are in ten
    low, high = results["models"][1]["intervals"]["full"]["overall"]["hit_rate@2"]
    assert 0 <= low < 2 / 4 < high <= 1
    pairs = [test for test in results["comparisons"] if test["slice"] == "overall" and test["protocol"] == "full"]
    assert {(test["a"], test["b"]) for test in pairs} == {
        ("popularity", "nearest (first)"),
        ("popularity", "nearest (second)"),
        ("nearest (first)", "nearest (second)"),
    }
    assert {test["p_holm"] for test in pairs if test["a"] != "popularity"} == {1}


def test_what_one_seed_says_and_another_denies_tells_nobody_apart() -> None:
    good, bad = (Ranking({"full": np.full(100, rank, np.int32)}, {}) for rank in (1, 4))
    overall = Slice("overall", "headline", "all", np.ones(100, bool))
    rows = {"sure": [good] * 3, "other": [bad] * 3, "unsure": [good, good, bad]}
    tests = comparisons(rows, [overall], uncertainty=Uncertainty(randomisations=1000), seed=0)
    of_ndcg = {(test["a"], test["b"]): test for test in tests if test["metric"] == "ndcg@10"}
    assert of_ndcg["sure", "other"]["apart"]
    assert not of_ndcg["sure", "unsure"]["apart"]
    assert of_ndcg["sure", "unsure"]["p_holm"] < 0.05  # every user is worth less, in these very runs


def test_recommenders_are_compared_on_the_seeds_that_neither_lacks() -> None:
    overall = Slice("overall", "headline", "all", np.ones(1000, bool))
    queries = np.arange(1000)

    def run(hits: int) -> Ranking:
        return Ranking({"full": np.where(queries < hits, 1, 20).astype(np.int32)}, {})

    good, other = ({seed: run(hits + 100 * seed) for seed in range(4)} for hits in (303, 300))  # always .003 more
    seeds = {"good": [3, 1, 0], "other": [0, 1, 2, 3], "left": [2]}
    rows = {"baseline": [run(900)], "good": [good[seed] for seed in seeds["good"]]}
    rows |= {label: [other[seed] for seed in seeds[label]] for label in ("other", "left")}
    tests = comparisons(rows, [overall], uncertainty=Uncertainty(randomisations=200), seed=0, seeds=seeds)
    found = {(test["a"], test["b"]): test for test in tests if test["metric"] == "hit_rate@10"}
    paired = found["good", "other"]
    assert paired["difference"] == pytest.approx(0.003)
    assert 0 <= paired["interval"][0] < 0.003 < paired["interval"][1] < 0.01  # over users alone: seeds agree
    for pair in [("good", "left"), ("other", "left"), ("baseline", "left")]:
        assert (found[pair]["interval"], found[pair]["apart"]) == (None, None)
    assert found["baseline", "left"]["difference"] == pytest.approx(0.9 - 0.5)
    assert found["baseline", "good"]["apart"]  # it has no seeds, which is not one of several
    elsewhere = {"good": rows["good"], "elsewhere": [run(140 + 10 * seed) for seed in (5, 6)]}
    others = {"good": seeds["good"], "elsewhere": [5, 6]}
    [test, *_] = comparisons(elsewhere, [overall], uncertainty=Uncertainty(randomisations=200), seed=0, seeds=others)
    assert test["interval"] is not None  # as independent samples
    assert test["interval"][0] < test["difference"] < test["interval"][1]


@pytest.mark.parametrize("lists", [([1, 3], [1, 2], [4, 5]), ([4, 5], [1, 3], [1, 2])])
def test_a_quality_that_not_every_run_has_is_the_mean_over_those_that_have_it(lists: tuple[list[int], ...]) -> None:
    vectors = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [0, 0]], np.float32)
    runs = [Ranking({}, {"full": np.array([places], np.int32)}) for places in lists]
    found = list_figures(runs, np.array([0, 1, 1, 1, 1, 1]), ks=[2], vectors=vectors)
    assert found["full"]["similarity@2"] == pytest.approx(0.5**0.5 / 2)  # of 0 and 1 / sqrt 2
    assert found["full"]["coverage@2"] == pytest.approx(2 / 5)


@pytest.mark.parametrize(("randomisations", "enough"), [(100, True), (119, False)])
def test_too_few_randomisations_for_the_pairs_are_said(
    randomisations: int, enough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    ranking = Ranking({"full": np.array([1, 2], np.int32)}, {})
    rows = {label: [ranking] for label in ("abc" if enough else "abcd")}
    comparisons(rows, [], uncertainty=Uncertainty(randomisations=randomisations), seed=0)
    said = capsys.readouterr().out
    line = "with 119 no p-value of 6 pairs can be below 0.05 after Holm's correction; expected at least 120\n"
    assert said == ("" if enough else f"uncertainty.randomisations: {line}")


def test_candidates_and_rankings_are_left_for_anyone_to_read(
    dataset: Dataset, recommenders: list[str], tmp_path: Path
) -> None:
    run_evaluate(config_of(dataset, recommenders, tmp_path))
    results = storage.read_json(str(tmp_path / "out" / "metrics.json"))
    candidates = pl.read_parquet(tmp_path / "out" / "candidates.parquet")
    assert candidates["user_id"].to_list() == ["user-0", "user-1", "user-2", "user-3"]
    assert set(candidates["item_ids"].list.len()) == {5}
    ranking = pl.read_parquet(tmp_path / "out" / results["models"][1]["runs"][0]["ranking"])
    assert ranking["target"].to_list() == ["item-04", "item-05", "item-20", "item-02"]
    assert ranking["rank_full"].to_list() == [2, 5, 20, 2]
    assert ranking["top_items_filtered"][3].to_list()[:3] == ["item-02", "item-04", "item-05"]


def test_an_interrupted_evaluation_keeps_its_rankings(
    dataset: Dataset, recommenders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(dataset, recommenders, tmp_path)
    run_evaluate(config)
    first = storage.read_json(str(tmp_path / "out" / "metrics.json"))
    (tmp_path / "out" / "metrics.json").unlink()

    class NotAgain(LastItem):
        def score(self, histories: Sequences) -> Iterator[np.ndarray]:
            raise AssertionError("ranked again")

    monkeypatch.setattr(
        entrants.Recommender, "load", lambda uri, device: NotAgain("nearest", np.eye(NUM_ITEMS, 4, dtype=np.float32))
    )
    run_evaluate(config)
    again = storage.read_json(str(tmp_path / "out" / "metrics.json"))
    assert again["models"] == first["models"]
    assert again["comparisons"] == first["comparisons"]
    assert again["examples"] == first["examples"]


def test_seeds_of_one_model_are_one_row(dataset: Dataset, recommenders: list[str], tmp_path: Path) -> None:
    for seed, uri in enumerate(recommenders):
        training = {"seed": seed, "embeddings": f"snapshot of seed {seed}", "model": {"hidden_dim": 4}}
        info = {"format": recommender.FORMAT, "label": "nearest", "dataset": FINGERPRINT, "training": training}
        storage.write_json(f"{uri}/recommender.json", info)
    run_evaluate(config_of(dataset, recommenders, tmp_path))
    results = storage.read_json(str(tmp_path / "out" / "metrics.json"))
    assert [model["label"] for model in results["models"]] == ["popularity", "nearest"]
    nearest = results["models"][1]
    assert [(run["uri"], run["seed"]) for run in nearest["runs"]] == [(recommenders[0], 0), (recommenders[1], 1)]
    assert nearest["metrics"]["full"]["overall"]["hit_rate@5"] == 3 / 4
    assert nearest["deviations"]["full"]["overall"]["hit_rate@5"] == 0
    assert "2 seeds" in (tmp_path / "out" / "report.html").read_text()


def test_seeds_are_compared_with_themselves_in_any_order(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models that agree seed by seed, while their seeds differ."""

    def load(uri: str, device: str) -> LastItem:
        model = LastItem(uri, None)
        if uri.endswith("1"):
            monkeypatch.setattr(model, "score", lambda histories: iter([-s for s in LastItem.score(model, histories)]))
        return model

    monkeypatch.setattr(entrants.Recommender, "load", load)
    uris = [f"{tmp_path}/{name}-{seed}" for name, seeds in (("one", "01"), ("two", "10")) for seed in seeds]
    for uri in uris:
        training = {"seed": int(uri[-1]), "model": {"hidden_dim": len(uri.split("/")[-1][0])}}
        info = {"format": recommender.FORMAT, "label": uri[:-2], "dataset": FINGERPRINT, "training": training}
        storage.write_json(f"{uri}/recommender.json", info)
    run_evaluate(config_of(dataset, uris, tmp_path))
    results = storage.read_json(str(tmp_path / "out" / "metrics.json"))
    found = [test for test in results["comparisons"] if "popularity" not in (test["a"], test["b"])]
    assert found
    assert all(test["interval"] == [0, 0] for test in found)


def test_imported_rankings_are_measured_by_the_same_functions(
    dataset: Dataset, recommenders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_evaluate(config_of(dataset, recommenders, tmp_path))
    results = storage.read_json(str(tmp_path / "out" / "metrics.json"))
    # What the first evaluation stored of a model comes back in as somebody else's lists.
    lists = pl.read_parquet(tmp_path / "out" / results["models"][1]["runs"][0]["ranking"])
    rows = lists.select("user_id", pl.col("top_items_full").alias("item_id")).explode("item_id")
    rows = rows.with_columns(rank=pl.int_range(1, 21).over("user_id"))
    rows.write_csv(tmp_path / "theirs.csv")
    theirs = {"label": "theirs", "uri": str(tmp_path / "theirs.csv"), "seen_items": "kept"}
    # The whole catalogue is in each list: without the history's items ten are left, and not twenty.
    ten = {"ks": (10,), "examples": {"num_users": 2}}
    run_evaluate(config_of(dataset, recommenders, tmp_path, output=str(tmp_path / "ten"), **ten))
    run_evaluate(config_of(dataset, [], tmp_path, rankings=[theirs], output=str(tmp_path / "again"), **ten))
    ours = storage.read_json(str(tmp_path / "ten" / "metrics.json"))["models"][1]
    again = storage.read_json(str(tmp_path / "again" / "metrics.json"))
    same = again["models"][1]
    assert same["kind"] == "imported"
    assert set(same["metrics"]) == {"full", "filtered"}
    for protocol in same["metrics"]:
        assert same["metrics"][protocol] == ours["metrics"][protocol]
    assert "sampled" not in same["metrics"]
    assert same["lists"]["full"] == ours["lists"]["full"]
    assert len(again["examples"]) == 2
    monkeypatch.setattr(imported, "read_source", lambda *_, **__: pytest.fail("to print it again no list is read"))
    run_evaluate(config_of(dataset, [], tmp_path, rankings=[theirs], output=str(tmp_path / "again"), **ten))
    with pytest.raises(InputError, match="rankings: another model is called 'popularity' already"):
        run_evaluate(config_of(dataset, [], tmp_path, rankings=[theirs | {"label": "popularity"}]))
    write_info(recommenders[0], label="popularity")
    with pytest.raises(InputError, match="models: another model is called 'popularity' already"):
        run_evaluate(config_of(dataset, recommenders[:1], tmp_path))


def test_what_is_wrong_is_found_before_the_output_is_claimed(
    dataset: Dataset, recommenders: list[str], tmp_path: Path
) -> None:
    """So that it can be mended and tried again at the same place."""
    (tmp_path / "theirs.csv").write_text("user_id,item_id,rank\nuser-0,item-01,2\n")
    theirs = {"label": "theirs", "uri": str(tmp_path / "theirs.csv"), "seen_items": "kept"}
    for wrong, message in (
        ({"rankings": [theirs]}, "have no list"),
        ({"sampled": {"num_negatives": 19}}, "unseen items"),
        (
            {"embedding_map": {"category": "colour"}},
            r"embedding_map\.category: the catalogue has no attribute 'colour'",
        ),
        ({"examples": {"title": "name"}}, r"examples\.title: the catalogue has no attribute 'name'"),
    ):
        with pytest.raises(InputError, match=message):
            run_evaluate(config_of(dataset, recommenders, tmp_path, **wrong))
    assert not (tmp_path / "out").exists()


def test_text_similarity_is_a_baseline_where_embeddings_are_given(
    dataset: Dataset, recommenders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    angles = np.linspace(0, 3, NUM_ITEMS)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    root = str(tmp_path / "embeddings")
    table = to_table(dataset.item_ids[:-1], vectors[:-1], "float32")  # all but the last item
    files = [write(f"{root}/s0/part-00000.parquet", table)]
    manifest = {"format": FORMAT, "snapshot_id": "s0", "dimension": 2, "dtype": "float32", "files": files}
    publish(root, manifest | {"refused_file": None})
    config = config_of(dataset, recommenders, tmp_path, embeddings=root)
    run_evaluate(config)
    results = storage.read_json(str(tmp_path / "out" / "metrics.json"))
    text = results["models"][1]
    assert text["label"] == "text similarity"
    assert text["runs"][0]["info"]["items_without_embedding"] == 1
    # Neighbours on the circle: after 3 first 3, then 2 and 4; after 2: 2 1 3 0 4 5 …; after 7 the 20th is last.
    assert text["metrics"]["full"]["overall"]["hit_rate@5"] == 3 / 4
    assert text["metrics"]["full"]["overall"]["hit_rate@10"] == 3 / 4
    assert 0 < text["lists"]["full"]["similarity@5"] <= 1
    assert list(results["embedding_map"]["popularity"]["same_group_share"]) == ["LLM embeddings", "nearest (first)"]
    assert results["provenance"]["embeddings"] == "s0"
    monkeypatch.setattr(Snapshot, "vectors", lambda *_: pytest.fail("to print it again no vector is needed"))
    run_evaluate(config)


def test_a_finished_evaluation_only_prints_again(
    dataset: Dataset, recommenders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(dataset, recommenders, tmp_path)
    run_evaluate(config)
    first = capsys.readouterr().out
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    run_evaluate(config)
    again = capsys.readouterr().out
    assert "nearest (first)" in again
    assert first.endswith(again)
    assert again.rstrip().endswith(f"report: {tmp_path / 'out' / 'report.html'}")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


def test_a_recommender_trained_again_does_not_pass_as_the_old_one(
    dataset: Dataset, recommenders: list[str], tmp_path: Path
) -> None:
    config = config_of(dataset, recommenders, tmp_path)
    run_evaluate(config)
    info = {"format": recommender.FORMAT, "label": "nearest", "dataset": FINGERPRINT, "seed": 4}
    storage.write_json(f"{recommenders[0]}/recommender.json", info)
    with pytest.raises(InputError, match="belongs to another run"):
        run_evaluate(config)


def test_labels_are_text_and_not_markup(
    dataset: Dataset, recommenders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = "<i>ours</i> [bold] $x_$1"
    write_info(recommenders[1], label=label)
    run_evaluate(config_of(dataset, recommenders, tmp_path))
    assert "&lt;i&gt;ours" in (tmp_path / "out" / "report.html").read_text()
    assert f"│ {label}" in capsys.readouterr().out


def test_bad_input_is_refused_before_any_work(dataset: Dataset, recommenders: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere has no recommender\.json"):
        run_evaluate(config_of(dataset, [str(tmp_path / "nowhere")], tmp_path))
    with pytest.raises(InputError, match="given twice"):
        run_evaluate(config_of(dataset, [recommenders[0]] * 2, tmp_path))
    with pytest.raises(InputError, match=r"embeddings: .* nothing published"):
        run_evaluate(config_of(dataset, recommenders, tmp_path, embeddings=str(tmp_path / "nowhere")))
    write_info(recommenders[1], label="other", dataset="d1")
    with pytest.raises(InputError, match=r"second was trained on dataset d1, but .* is dataset d0"):
        run_evaluate(config_of(dataset, recommenders, tmp_path))
    with pytest.raises(InputError, match=r"ks: .*10"):
        config_of(dataset, recommenders, tmp_path, ks=[5])
    with pytest.raises(InputError, match="expected models or rankings"):
        config_of(dataset, [], tmp_path)
    assert not (tmp_path / "out").exists()
