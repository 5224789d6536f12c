"""The report as a reader's browser shows it: headless Chromium, on a desk and on a phone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import Browser

from llmemb import storage
from llmemb.data.sequences import Sequences
from llmemb.evaluation import entrants
from llmemb.evaluation.config import HEADLINE_METRICS, EvaluateConfig
from llmemb.evaluation.evaluate import run_evaluate
from llmemb.rat.recommender import FORMAT
from tests.pages import DESK, PHONE, check_fits, show

NUM_ITEMS, NUM_USERS = 60, 80
HOSTILE = '<script>document.title = "owned"</script><img src=x onerror="document.title = \'owned\'">'
LABELS = (f"SASRec {HOSTILE}", "a label with many words that does not fit beside two columns of figures on a phone")


class Table:
    """A recommender with a random table: scores by its product with the newest item."""

    def __init__(self, label: str, seed: int) -> None:
        self.label = label
        self.item_embeddings = np.random.default_rng(seed).normal(size=(NUM_ITEMS, 8)).astype(np.float32)

    def score(self, histories: Sequences) -> Iterator[np.ndarray]:
        newest = histories.newest(np.ones(len(histories), dtype=np.int64)).items
        yield self.item_embeddings[newest - 1] @ self.item_embeddings.T


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an evaluation whose every text tries to leave its place."""
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    ids = [f"<b>{index:03d}" for index in range(NUM_ITEMS)]
    titles = [f"{HOSTILE} {index}" if index % 2 else "unbreakable" * 30 for index in range(NUM_ITEMS)]
    kinds = [["shop", str(random.choice(["</svg>", "lamps", "x" * 90]))] for _ in ids]
    items = pa.table({"item_id": ids, "title": titles, "categories": kinds})
    histories = [[ids[item] for item in random.integers(0, NUM_ITEMS, random.integers(3, 9))] for _ in range(NUM_USERS)]
    users = pa.table({"user_id": [f"<i>{'u' * 60}{user}" for user in range(NUM_USERS)], "item_ids": histories})
    dataset = str(folder / "dataset")
    files = {
        "items": [storage.write_table(f"{dataset}/items/part-0.parquet", items)],
        "sequences": [storage.write_table(f"{dataset}/sequences/part-0.parquet", users)],
    }
    counts = {"items": NUM_ITEMS, "users": NUM_USERS, "interactions": sum(map(len, histories))}
    info = {"fingerprint": "d0", "counts": counts, "files": files, "split": {"policy": "leave-one-out"}}
    storage.write_json(f"{dataset}/dataset.json", info)
    models = {f"{folder}/{number}": Table(label, number) for number, label in enumerate(LABELS)}
    for uri, model in models.items():
        storage.write_json(f"{uri}/recommender.json", {"format": FORMAT, "label": model.label, "dataset": "d0"})
    config = {"dataset": dataset, "models": list(models), "output": f"{folder}/out", "sampled": {"num_negatives": 9}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entrants.Recommender, "load", lambda uri, device: models[uri])
        run_evaluate(EvaluateConfig.parse(config))
    return folder / "out"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_fits_and_nothing_goes_wrong(
    browser: Browser, evaluation: Path, troubles: list[str], width: int, dark: bool
) -> None:
    check_fits(browser, evaluation / "report.html", width=width, dark=dark, troubles=troubles, num_pictures=2)


def test_a_phone_gets_a_picture_of_its_own(browser: Browser, evaluation: Path, troubles: list[str]) -> None:
    pages = [
        show(browser, evaluation / "report.html", width=width, dark=False, troubles=troubles) for width in (PHONE, DESK)
    ]
    shapes = [page.evaluate("document.images[0].naturalWidth / document.images[0].naturalHeight") for page in pages]
    assert shapes[0] < 1 < shapes[1]


def test_texts_of_the_data_stay_texts(browser: Browser, evaluation: Path, troubles: list[str]) -> None:
    page = show(browser, evaluation / "report.html", width=DESK, dark=False, troubles=troubles)
    assert page.title().endswith(": comparison of recommenders")
    assert page.evaluate("document.scripts.length") == 0
    text = page.inner_text("body")
    for shown in (LABELS[0], f"{HOSTILE} 1", "User <i>uuu", "</svg>"):
        assert shown in text


def test_the_page_shows_the_figures_of_metrics_json(browser: Browser, evaluation: Path, troubles: list[str]) -> None:
    results = storage.read_json(str(evaluation / "metrics.json"))
    page = show(browser, evaluation / "report.html", width=DESK, dark=False, troubles=troubles)
    for position, part in enumerate(["overall", "head", "tail"]):
        card = page.locator(".cards > div").nth(position)
        for row, model in enumerate(results["models"]):
            cells = card.locator("tbody tr").nth(row).locator("td").all_inner_texts()
            for cell, metric in zip(cells, HEADLINE_METRICS, strict=True):
                value, interval = model["metrics"]["full"][part][metric], model["intervals"]["full"][part][metric]
                figure, bounds = cell.split("\n")[0], cell.split("\n")[-1]
                assert float(figure.split()[0]) == pytest.approx(value, abs=5e-5)
                assert [float(bound) for bound in bounds.split(" to ")] == pytest.approx(interval, abs=5e-5)
    dots = page.evaluate("[...document.querySelectorAll('.maps path')].map(path => path.getAttribute('d')).join('')")
    assert dots.count("M") == 2 * 2 * NUM_ITEMS  # two models, coloured in two ways
