"""Recommendations for every user of a dataset."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llmemb.cli import app
from llmemb.data.dataset import Dataset
from llmemb.rat import recommendations
from llmemb.rat.config import RatConfig
from llmemb.rat.recommender import Recommender
from llmemb.rat.run import run_rat


@pytest.fixture(scope="module")
def recommender(tiny_dataset, tmp_path_factory) -> str:
    output = str(tmp_path_factory.mktemp("rat") / "ids")
    small = {"hidden_dim": 4, "num_blocks": 1, "max_seq_len": 4, "dropout": 0.0}
    settings = {"dataset": tiny_dataset, "output": output, "method": "none", "model": small}
    run_rat(RatConfig.model_validate(settings | {"training": {"max_epochs": 1, "batch_positions": 64}}), here=True)
    return output


def test_each_user_gets_what_their_whole_sequence_is_recommended(recommender, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(recommendations, "USERS_PER_CHUNK", 7)
    file = tmp_path / "lists.parquet"
    command = ["recommend", recommender, "--dataset", tiny_dataset, "--output", str(file), "-k", "5"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    dataset = Dataset.open(tiny_dataset)
    assert f"{file}: {len(dataset.user_ids)} users; 0 have nothing recommended" in shown.output
    as_json = CliRunner().invoke(app, [*command, "--json"]).output
    assert json.loads(as_json[as_json.index("{") :])["users"] == len(dataset.user_ids)
    rows = pq.read_table(file).to_pylist()
    assert [row["user_id"] for row in rows] == dataset.user_ids
    histories = [[dataset.item_ids[item - 1] for item in sequence] for sequence in dataset.sequences]
    expected = Recommender.load(recommender).recommend(histories, k=5)
    assert [row["item_ids"] for row in rows] == [[item for item, _ in items] for items in expected]
    assert rows[8]["scores"] == pytest.approx([score for _, score in expected[8]], rel=1e-5)
    assert not any(set(row["item_ids"]) & set(history) for row, history in zip(rows, histories, strict=True))


@pytest.mark.parametrize("options", [[], ["--output", "x"], ["--history", "i1", "--dataset", "d", "--output", "x"]])
def test_one_history_or_all_users_is_a_choice(recommender, options):
    shown = CliRunner().invoke(app, ["recommend", recommender, *options])
    assert shown.exit_code == 2
    assert "error: recommend: expected --history for one user, or --dataset and --output" in shown.output
