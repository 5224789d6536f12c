"""Sequences as they are read from the artifact: of several files, and of items that the catalogue lacks."""

import copy
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmemb.data.dataset import Dataset
from llmemb.errors import InputError

USERS = [[("a", 5), ("c", 7)], [], [("b", 1), ("a", 2), ("b", 3)]]


def write(folder: Path, split: dict[str, object]) -> Dataset:
    for name in ("items", "sequences"):
        (folder / name).mkdir()
    pq.write_table(pa.table({"item_id": ["a", "b", "c"]}), folder / "items" / "0.parquet")
    for number, users in enumerate([USERS[:1], USERS[1:]]):
        columns = {
            "item_ids": pa.array([[item for item, _ in user] for user in users], pa.list_(pa.string())),
            "timestamps": pa.array([[time for _, time in user] for user in users], pa.list_(pa.int64())),
        }
        pq.write_table(pa.table(columns), folder / "sequences" / f"{number}.parquet")
    files = {"items": [{"file": "0.parquet"}], "sequences": [{"file": f"{number}.parquet"} for number in range(2)]}
    info = {"counts": {"items": 3, "interactions": 5}, "files": files, "split": split}
    (folder / "dataset.json").write_text(json.dumps(info))
    return Dataset.open(str(folder))


@pytest.mark.parametrize(
    ("split", "timestamps"),
    [
        ({"policy": "leave-one-out"}, None),
        ({"policy": "time-cut", "validation_from": 3, "test_from": 6}, [5, 7, 1, 2, 3]),
    ],
)
def test_the_users_of_all_files_stand_one_after_another(tmp_path, split, timestamps):
    sequences = write(tmp_path, split).sequences
    assert sequences.items.tolist() == [1, 3, 2, 1, 2]
    assert sequences.offsets.tolist() == [0, 2, 2, 5]
    assert (sequences.items.dtype, sequences.offsets.dtype) == ("int32", "int64")
    assert timestamps == (None if sequences.timestamps is None else sequences.timestamps.tolist())


def test_a_dataset_that_another_process_gets_reads_its_files_there(tmp_path):
    dataset = write(tmp_path, {"policy": "time-cut", "validation_from": 3, "test_from": 6})
    size = len(pickle.dumps(dataset))
    assert dataset.train.items.tolist() == [2, 1]
    assert len(pickle.dumps(dataset)) == size
    assert "sequences" not in vars(copy.deepcopy(dataset))  # as a pickle is read


def test_nobody_can_write_into_what_all_share(tmp_path):
    train = write(tmp_path, {"policy": "leave-one-out"}).train
    with pytest.raises(ValueError, match="read-only"):
        train[0][0] = 3


@pytest.mark.parametrize("counted", [4, 6])
def test_files_of_another_number_of_interactions_are_told(tmp_path, counted):
    dataset = write(tmp_path, {"policy": "leave-one-out"})
    dataset.info["counts"]["interactions"] = counted
    with pytest.raises(InputError, match=f"sequences/ holds 5 interactions; expected {counted}"):
        _ = dataset.sequences


def test_interactions_with_items_that_the_catalogue_lacks_are_counted(tmp_path):
    dataset = write(tmp_path, {"policy": "leave-one-out"})
    pq.write_table(pa.table({"item_id": ["a", "x", "c"]}), tmp_path / "items" / "0.parquet")
    with pytest.raises(InputError, match="2 interactions name items that items/ lacks"):
        _ = dataset.sequences


@pytest.mark.parametrize("part", ["items", "sequences"])
def test_a_dataset_cannot_name_a_file_outside_of_its_folders(tmp_path: Path, part: str) -> None:
    dataset = write(tmp_path, {"policy": "leave-one-out"})
    dataset.info["files"][part][0]["file"] = "../../outside.parquet"
    with pytest.raises(InputError, match="expected a file of the folder itself"):
        _ = (dataset.item_ids, dataset.sequences)
