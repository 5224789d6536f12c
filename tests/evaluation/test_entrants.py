"""Which recommenders are one model trained with several seeds, and which are different models."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmemb import storage
from llmemb.errors import InputError
from llmemb.evaluation.entrants import recommender_entrants
from llmemb.rat.recommender import FORMAT, recipe

DATASET: Any = SimpleNamespace(fingerprint="d0", uri="dataset")


def groups(folder: Path, **trainings: dict[str, Any]) -> dict[str, list[int | None]]:
    """Labels and seeds of the entrants that recommenders with these settings make."""
    for name, training in trainings.items():
        info = {"format": FORMAT, "label": training.pop("label", "ours"), "dataset": "d0", "training": training}
        storage.write_json(f"{folder}/{name}/recommender.json", info)
    entrants = recommender_entrants([f"{folder}/{name}" for name in trainings], DATASET)
    return {entrant.label: [run.seed for run in entrant.runs] for entrant in entrants}


def test_runs_that_differ_in_their_seed_are_one_entrant(tmp_path: Path) -> None:
    same = {"model": {"hidden_dim": 4}}
    made_from = [{"embeddings": name, "item_vectors": name} for name in "xy"]
    found = groups(tmp_path, a={"seed": 0, **made_from[0], **same}, b={"seed": 1, **made_from[1], **same})
    assert found == {"ours": [0, 1]}


def test_runs_that_differ_in_more_are_entrants_of_their_own(tmp_path: Path) -> None:
    found = groups(tmp_path, a={"seed": 0, "rate": 1}, b={"seed": 1, "rate": 2}, c={"seed": 2, "rate": 1})
    assert found == {"ours (a)": [0, 2], "ours (b)": [1]}


def test_one_seed_twice_is_two_entrants(tmp_path: Path) -> None:
    assert groups(tmp_path, a={"seed": 0}, b={"seed": 0}) == {"ours (a)": [0], "ours (b)": [0]}


def test_folders_of_one_name_are_told_apart_by_those_that_they_are_in(tmp_path: Path) -> None:
    found = groups(tmp_path, **{name: {"seed": 0} for name in ("v1/llmemb", "v2/llmemb", "v2/said", "more/v2/llmemb")})
    ends = ["v1/llmemb", f"{tmp_path.name}/v2/llmemb", "said", "more/v2/llmemb"]
    assert list(found) == [f"ours ({end})" for end in ends]


def test_labels_keep_models_apart(tmp_path: Path) -> None:
    found = groups(tmp_path, a={"seed": 0, "label": "one"}, b={"seed": 1, "label": "two"})
    assert found == {"one": [0], "two": [1]}


@pytest.mark.parametrize("training", [{}, {"model": {}}])
def test_without_seeds_nothing_is_pooled(training: dict[str, Any], tmp_path: Path) -> None:
    assert groups(tmp_path, a=dict(training), b=dict(training)) == {"ours (a)": [None], "ours (b)": [None]}


def test_across_datasets_each_model_is_an_entrant_of_its_own(tmp_path: Path) -> None:
    for name, dataset in (("a", "d0"), ("b", "last night's")):
        info = {"format": FORMAT, "label": "ours", "dataset": dataset, "training": {"seed": len(name)}}
        storage.write_json(f"{tmp_path}/{name}/recommender.json", info)
    uris = [f"{tmp_path}/a", f"{tmp_path}/b"]
    with pytest.raises(InputError, match="expected models of this dataset"):
        recommender_entrants(uris, DATASET)
    found = recommender_entrants(uris, DATASET, across_datasets=True)
    assert [entrant.label for entrant in found] == ["ours (a)", "ours (b)"]


def test_what_was_trained_on_another_snapshot_is_no_other_seed_of_it(tmp_path: Path) -> None:
    for name, seed in (("x", 0), ("y", 1)):
        info = {"format": FORMAT, "label": "ours", "dataset": "d0", "embeddings": name, "training": {"seed": seed}}
        storage.write_json(f"{tmp_path}/{name}/recommender.json", info)
    entrants = recommender_entrants([f"{tmp_path}/x", f"{tmp_path}/y"], DATASET)
    assert [entrant.label for entrant in entrants] == ["ours (x)", "ours (y)"]


def test_what_started_from_other_ids_is_no_other_seed_of_it(tmp_path: Path) -> None:
    ids = {
        name: {"label": "IDs", "training": {"seed": seed, "model": {"hidden_dim": dim}, "output": name}}
        for name, seed, dim in (("x", 0, 4), ("y", 1, 4), ("z", 2, 8))
    }
    for seed, (name, info) in enumerate(ids.items()):
        training = {"seed": seed, "collaborative": name}
        ours = {"format": FORMAT, "label": "ours", "dataset": "d0", "training": training}
        storage.write_json(f"{tmp_path}/{name}/recommender.json", ours | {"collaborative_recipe": recipe(info)})
    entrants = recommender_entrants([f"{tmp_path}/{name}" for name in ids], DATASET)
    found = {entrant.label: [run.seed for run in entrant.runs] for entrant in entrants}
    assert found == {"ours (x)": [0, 1], "ours (z)": [2]}


def test_a_recommender_of_an_older_format_is_refused_before_anything_is_ranked(tmp_path: Path) -> None:
    storage.write_json(f"{tmp_path}/a/recommender.json", {"format": FORMAT - 1, "label": "ours", "dataset": "d0"})
    with pytest.raises(InputError, match="train it again"):
        recommender_entrants([f"{tmp_path}/a"], DATASET)
