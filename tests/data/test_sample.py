"""The generated marketplace: the same for a seed, and with the signals that recommenders live on."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from llmemb.cli import app
from llmemb.data.sample import generate_sample
from llmemb.data.vocabulary import BRANDS, CATEGORIES


@pytest.fixture(scope="module")
def sample() -> tuple[pl.DataFrame, pl.DataFrame]:
    return generate_sample(num_items=2000, num_users=1000, seed=0)


@pytest.fixture(scope="module")
def steps(sample: tuple[pl.DataFrame, pl.DataFrame]) -> pl.DataFrame:
    """Consecutive purchases of a user, with what the text says of the earlier and the later item."""
    items, interactions = sample
    said = items.select("item_id", "brand", pl.col("categories").list.last().alias("category"))
    walked = interactions.join(said, on="item_id", how="left").sort("user_id", "timestamp")
    now = walked.with_columns(pl.col("brand", "category").shift(1).over("user_id").name.prefix("last_"))
    return now.drop_nulls()


def test_seed_decides_everything() -> None:
    first, again, other = (generate_sample(num_items=60, num_users=20, seed=seed) for seed in (1, 1, 2))
    assert first[0].equals(again[0])
    assert first[1].equals(again[1])
    assert not first[1].equals(other[1])


def test_tables_are_what_prepare_expects(sample: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    items, interactions = sample
    assert items["item_id"].n_unique() == items.height == 2000
    assert items.null_count().sum_horizontal()[0] == 0
    assert interactions["item_id"].is_in(items["item_id"].implode()).all()
    assert interactions["user_id"].n_unique() == 1000
    assert interactions.group_by("user_id").len()["len"].min() >= 5


def test_popularity_has_a_long_tail(sample: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    counts = sample[1]["item_id"].value_counts()["count"].sort(descending=True)
    assert counts[:400].sum() > 0.55 * counts.sum()
    assert len(counts) < 2000  # and some items have no interaction at all


def test_next_purchase_resembles_the_last_in_its_words(steps: pl.DataFrame) -> None:
    """A category is 1 in 40 by chance, a brand within its category 1 in 7."""
    same_category = steps.filter(pl.col("category") == pl.col("last_category"))
    assert len(same_category) / len(steps) > 10 / len(CATEGORIES)
    assert (same_category["brand"] == same_category["last_brand"]).mean() > 1.5 / 7


def test_what_goes_with_a_category_follows_it(steps: pl.DataFrame) -> None:
    goes_with = {category.name: category.goes_with[0] for category in CATEGORIES}
    elsewhere = steps.filter(pl.col("category") != pl.col("last_category"))
    expected = elsewhere["last_category"].replace_strict(goes_with)
    assert (elsewhere["category"] == expected).mean() > 10 / len(CATEGORIES)


def test_late_launches_are_not_sold_before(sample: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    interactions = sample[1]
    start, end = interactions["timestamp"].min(), interactions["timestamp"].max()
    first_sale = interactions.group_by("item_id").agg(pl.col("timestamp").min())["timestamp"].to_numpy()
    assert np.mean(first_sale > start + 0.9 * (end - start)) > 0.02


def test_vocabulary_is_consistent() -> None:
    names = [category.name for category in CATEGORIES]
    assert len(set(names)) == len(names)
    assert {category.department for category in CATEGORIES} == set(BRANDS)
    assert {name for category in CATEGORIES for name in category.goes_with} <= set(names)
    assert {len(brands) for brands in BRANDS.values()} == {7}


def test_command_writes_both_tables(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["sample", str(tmp_path / "s"), "--num-items", "30", "--num-users", "4"])
    assert result.exit_code == 0, result.output
    assert pl.read_parquet(tmp_path / "s" / "items.parquet").height == 30
    assert pl.read_parquet(tmp_path / "s" / "interactions.parquet")["user_id"].n_unique() == 4


def test_command_overwrites_nobodys_tables(tmp_path: Path) -> None:
    mine = tmp_path / "interactions.parquet"
    mine.write_bytes(b"my own")
    result = CliRunner().invoke(app, ["sample", str(tmp_path), "--num-items", "30", "--num-users", "4"])
    assert result.exit_code == 2
    assert "there is interactions.parquet already" in result.output
    assert mine.read_bytes() == b"my own"


def test_command_refuses_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = CliRunner().invoke(app, ["sample", str(tmp_path / "file" / "s"), "--num-items", "30", "--num-users", "4"])
    assert result.exit_code == 2
    assert "cannot be written" in result.output
