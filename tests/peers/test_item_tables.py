"""The final item table in other libraries' embedding layers, by the very lines of docs/recommender.md.

Run by ``make test-peers`` with the Python of .venv-peers, which has these libraries and not llmemb.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "recommender.md"
NUM_ITEMS, DIM, NUM_STEPS = 12, 4, 6
IDS = [f"item-{number:02}" for number in range(NUM_ITEMS)]
NEVER_BOUGHT = IDS[-1]
VECTORS = np.random.default_rng(0).normal(size=(NUM_ITEMS, DIM)).astype(np.float32)
# 22 users who walk round all items but the last.
WALKS = [
    (f"user-{user:02}", IDS[(user + step) % (NUM_ITEMS - 1)], step) for user in range(22) for step in range(NUM_STEPS)
]


def lines_of(library: str) -> str:
    """The Python under the library's heading."""
    section = DOCS.read_text().split(f"\n### {library}\n")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found, library
    return found[1]


@pytest.fixture
def names(tmp_path: Path) -> dict[str, Any]:
    """What the lines take for granted: a recommender's folder."""
    folder = tmp_path / "recommender" / "item_embeddings"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    for part in (slice(0, 7), slice(7, None)):
        vectors = pa.FixedSizeListArray.from_arrays(VECTORS[part].ravel(), DIM)
        table = pa.table({"item_id": IDS[part], "embedding": vectors})
        pq.write_table(table, folder / f"part-{part.start:05d}.parquet")
    names: dict[str, Any] = {"recommender": str(tmp_path / "recommender")}
    exec(lines_of("Read it"), names)
    return names


def test_the_table_is_read(names):
    assert names["table"].index.tolist() == IDS
    np.testing.assert_array_equal(np.stack(names["table"]), VECTORS)


def test_recboles_sasrec_starts_from_it(names, tmp_path):
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.model.sequential_recommender import SASRec

    (tmp_path / "mine").mkdir()
    rows = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, walk)) for walk in WALKS)]
    (tmp_path / "mine" / "mine.inter").write_text("\n".join(rows) + "\n")
    settings = {
        "data_path": str(tmp_path),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "hidden_size": DIM,
        "n_heads": 1,
        "inner_size": 2 * DIM,
        "loss_type": "CE",
        "train_neg_sample_args": None,
    }
    config = Config(model="SASRec", dataset="mine", config_dict=settings)
    dataset = create_dataset(config)
    names |= {"dataset": dataset, "model": SASRec(config, dataset)}
    exec(lines_of("RecBole"), names)
    weight = names["model"].item_embedding.weight.detach().numpy()
    assert len(weight) == NUM_ITEMS  # padding, and all items but the one that nobody bought
    for item, vector in zip(IDS, VECTORS, strict=True):
        if item != NEVER_BOUGHT:
            np.testing.assert_array_equal(weight[dataset.token2id("item_id", item)], vector)


def test_rectools_sasrec_starts_from_it(names, tmp_path, monkeypatch):
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset

    monkeypatch.chdir(tmp_path)  # Lightning leaves logs where it runs
    table = pd.DataFrame(WALKS, columns=[Columns.User, Columns.Item, Columns.Datetime])
    table[Columns.Datetime] = pd.to_datetime(table[Columns.Datetime], unit="D")
    names |= {"dataset": Dataset.construct(table.assign(**{Columns.Weight: 1.0})), "n_factors": DIM, "lr": 0.0}
    exec(lines_of("RecTools"), names)
    module = names["model"].lightning_model
    weight = module.torch_model.item_model.item_net_blocks[0].ids_emb.weight.detach().numpy()
    found = dict(zip(module.item_external_ids, weight, strict=True))
    for item, vector in zip(IDS, VECTORS, strict=True):
        if item != NEVER_BOUGHT:
            np.testing.assert_array_equal(found[item], vector)  # after training at a rate of zero
