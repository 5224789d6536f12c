"""The evaluate job from a dataset artifact and recommenders to metrics.json and report.html."""

import base64
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from llmemb import storage
from llmemb.data.dataset import Dataset
from llmemb.data.sequences import Sequences
from llmemb.errors import InputError
from llmemb.evaluation import evaluate
from llmemb.evaluation.evaluate import EvaluateConfig, run_evaluate

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
    counts = {"items": NUM_ITEMS, "users": len(SEQUENCES)}
    storage.write_json(f"{uri}/dataset.json", {"fingerprint": FINGERPRINT, "counts": counts, "files": files})
    return Dataset.open(uri)


@pytest.fixture
def recommenders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two recommenders of one label, the second without embeddings."""
    uris = [str(tmp_path / name) for name in ("first", "second")]
    for uri in uris:
        storage.write_json(f"{uri}/recommender.json", {"label": "nearest", "dataset": FINGERPRINT, "seed": 3})
    table = np.random.default_rng(0).normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    scorers = {uris[0]: LastItem("nearest", table), uris[1]: LastItem("nearest", None)}
    monkeypatch.setattr(evaluate.Recommender, "load", scorers.__getitem__)
    return uris


def config_of(dataset: Dataset, models: list[str], tmp_path: Path, **settings: Any) -> EvaluateConfig:
    return EvaluateConfig.parse(
        {"dataset": dataset.uri, "models": models, "output": str(tmp_path / "out"), "num_threads": 1, **settings}
    )


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
    popularity, first, second = (model["metrics"] for model in results["models"])
    # Ranks of the targets: 20 for the three cold ones, which tie with 13 others, and 2 for item 2.
    assert popularity["overall"]["hit_rate@2"] == popularity["overall"]["hit_rate@10"] == 1 / 4
    assert popularity["overall"]["ndcg@10"] == pytest.approx(1 / np.log2(3) / 4)
    # After 3: 3 4 → rank 2; after 2: 2 3 1 4 0 5 → 2 3 1 4 5 → 5; 20 after 7 → 20 items, last; after 1: 1 2 → 2.
    assert first["overall"]["hit_rate@1"] == 0
    assert first["overall"]["hit_rate@2"] == 2 / 4
    assert first["overall"]["mrr@10"] == pytest.approx((1 / 2 + 1 / 5 + 0 + 1 / 2) / 4)
    assert first["head"]["hit_rate@2"] == 1
    assert second == first


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
    info = {"label": "nearest", "dataset": FINGERPRINT, "seed": 4}
    storage.write_json(f"{recommenders[0]}/recommender.json", info)
    with pytest.raises(InputError, match="belongs to another run"):
        run_evaluate(config)


class Resources(HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.uris: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.uris += [value or "" for name, value in attributes if name in ("src", "srcset", "href", "data")]


def test_report_needs_nothing_else(dataset: Dataset, recommenders: list[str], tmp_path: Path) -> None:
    run_evaluate(config_of(dataset, recommenders, tmp_path))
    html = (tmp_path / "out" / "report.html").read_text()
    page = Resources()
    page.feed(html)
    assert len(page.uris) == 4  # two pictures, light and dark
    for uri in page.uris:
        kind, content = uri.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        svg = base64.b64decode(content).decode()
        references = re.findall(r'(?:href|src)="([^"]*)"', svg)
        assert all(reference.startswith(("#", "data:")) for reference in references)
    assert not re.search(r"@import|<script|<link|url\(", html)
    assert "http://" not in html
    assert "https://" not in html
    for shown in (FINGERPRINT, "nearest (second)", "not filtered", "4 users", "<b>0.7500</b>"):
        assert shown in html


def test_labels_are_text_and_not_markup(
    dataset: Dataset, recommenders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = "<i>ours</i> [bold] $x_$1"
    storage.write_json(f"{recommenders[1]}/recommender.json", {"label": label, "dataset": FINGERPRINT})
    run_evaluate(config_of(dataset, recommenders, tmp_path))
    assert "&lt;i&gt;ours" in (tmp_path / "out" / "report.html").read_text()
    assert f"│ {label}" in capsys.readouterr().out


def test_bad_input_is_refused_before_any_work(dataset: Dataset, recommenders: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere has no recommender\.json"):
        run_evaluate(config_of(dataset, [str(tmp_path / "nowhere")], tmp_path))
    with pytest.raises(InputError, match="given twice"):
        run_evaluate(config_of(dataset, [recommenders[0]] * 2, tmp_path))
    storage.write_json(f"{recommenders[1]}/recommender.json", {"label": "other", "dataset": "d1"})
    with pytest.raises(InputError, match=r"second was trained on dataset d1, but .* is dataset d0"):
        run_evaluate(config_of(dataset, recommenders, tmp_path))
    with pytest.raises(InputError, match=r"ks: .*10"):
        config_of(dataset, recommenders, tmp_path, ks=[5])
    assert not (tmp_path / "out").exists()
