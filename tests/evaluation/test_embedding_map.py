"""The map's number and sample, by hand."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from llmemb.evaluation import embedding_map
from llmemb.evaluation.embedding_map import (
    chance_of_same_group,
    draw_maps,
    nearest_items,
    project,
    same_group_share,
    sample_items,
)


def test_same_group_share_is_one_for_separated_groups_and_chance_for_unrelated_ones() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2, 3, 4], 60)
    noise = random.normal(size=(300, 4)).astype(np.float32)
    assert same_group_share(nearest_items(noise + 100 * groups[:, None]), groups) == 1
    assert abs(same_group_share(nearest_items(noise), groups) - chance_of_same_group(groups)) < 0.03


def test_same_group_share_sees_groups_that_differ_in_length_only() -> None:
    """As ID embeddings of rare items do. Plain distances miss it: the shortest vectors are everybody's neighbours."""
    random = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2, 3, 4], 60)
    vectors = random.normal(size=(300, 64)).astype(np.float32) * 2.0 ** -groups[:, None].astype(np.float32)
    plain = NearestNeighbors(n_neighbors=10).fit(vectors).kneighbors(return_distance=False)
    assert (groups[plain] == groups[:, None]).mean() < 0.3
    assert same_group_share(nearest_items(vectors), groups) > 0.6


def test_nearest_items_are_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    distances = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors, axis=2)
    np.fill_diagonal(distances, np.inf)
    reach = np.sort(distances, axis=1)[:, 9]
    expected = np.argsort(distances / np.sqrt(reach[:, None] * reach), axis=1)[:, :10]
    for rows in (1, 7, 50, 64):
        monkeypatch.setattr(embedding_map, "ROWS_PER_BLOCK", rows)
        np.testing.assert_array_equal(nearest_items(vectors), expected)


def test_same_group_share_takes_copies_of_one_vector() -> None:
    assert same_group_share(nearest_items(np.zeros((30, 2), dtype=np.float32)), np.zeros(30, dtype=np.int64)) == 1


def test_chance_of_same_group_by_hand() -> None:
    # Pairs of 3 items: {0, 0} is one of three.
    assert chance_of_same_group(np.array([0, 0, 1])) == 1 / 3


def test_sample_is_seeded_and_never_holds_padding() -> None:
    sample = sample_items(100, max_items=30, seed=7)
    assert len(set(sample.tolist())) == 30
    assert sample.min() >= 1
    assert sample.max() <= 100
    assert np.array_equal(sample, sample_items(100, max_items=30, seed=7))
    assert not np.array_equal(sample, sample_items(100, max_items=30, seed=8))
    assert sample_items(3, max_items=30, seed=7).tolist() == [1, 2, 3]


def test_map_keeps_separated_groups_apart_in_a_catalogue_smaller_than_the_perplexity() -> None:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(20, 3)).astype(np.float32)
    embeddings[10:] += 50
    points = project(embeddings, perplexity=30, seed=0)
    assert points.shape == (20, 2)
    assert (
        same_group_share(nearest_items(points), np.repeat([0, 1], 10)) > 0.85
    )  # 9 of 10 neighbours can be of the own group
    assert np.array_equal(points, project(embeddings, perplexity=30, seed=0))


def test_maps_show_the_same_items_of_every_table_that_there_is() -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(40, 3)).astype(np.float32)
    groups = np.arange(40) % 5
    tables = {"one": lambda: table, "none": lambda: None, "two": lambda: table + groups[:, None] * 100}
    maps = draw_maps(tables, groups, (groups, list("abcde")), max_items=20, perplexity=5, seed=0)
    assert list(maps.points) == ["one", "two"]
    assert {points.shape for points in maps.points.values()} == {(20, 2)}
    assert maps.popularity.groups.tolist() == groups[sample_items(40, max_items=20, seed=0) - 1].tolist()
    assert maps.category is not None
    assert maps.category.info["names"] == list("abcde")
    assert maps.popularity.shares["two"] > maps.popularity.shares["one"]


def test_very_many_items_get_principal_components(monkeypatch) -> None:
    monkeypatch.setattr(embedding_map, "MAX_TSNE_ITEMS", 10)
    table = np.zeros((12, 3), dtype=np.float32)
    table[:, 1] = np.arange(12)
    assert embedding_map.method(12) == "PCA"
    points = project(table, perplexity=5, seed=0)
    np.testing.assert_allclose(np.abs(points[:, 0]), np.abs(np.arange(12) - 5.5), rtol=1e-5)


@pytest.mark.parametrize("num_items", [1, 2])
def test_of_hardly_any_items_nothing_is_drawn_or_read(num_items: int) -> None:
    groups = np.zeros(num_items, dtype=np.int64)
    maps = draw_maps({"ids": lambda: 1 / 0}, groups, None, max_items=9, perplexity=5, seed=0)
    assert (maps.points, maps.num_items, maps.info["popularity"]["chance"]) == ({}, num_items, num_items - 1)


def test_vectors_of_one_number_have_a_map() -> None:
    points = project(np.random.default_rng(0).normal(size=(20, 1)).astype(np.float32), perplexity=5, seed=0)
    assert points.shape == (20, 2)
    assert np.isfinite(points).all()
