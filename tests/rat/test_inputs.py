"""What a snapshot gives to a recommender of twelve items, and what of it is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llmemb import storage, vectors
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.evaluation.entrants import content_entrant
from llmemb.rat.inputs import Sources, count_missing, load_embeddings, load_inputs
from llmemb.rat.methods.method import Inputs
from llmemb.rat.model import make_model
from llmemb.rat.run import run_rat
from llmemb.srs import item_table
from tests.rat.conftest import NUM_ITEMS, config_for, publish


def test_a_snapshot_that_lacks_items_is_refused_above_a_share(dataset, tmp_path):
    root = publish(tmp_path / "short", dataset.item_ids[:-1], np.random.default_rng(0).normal(size=(NUM_ITEMS - 1, 3)))
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"))
    with pytest.raises(
        InputError, match=r"lacks 1 of the dataset's 12 items, such as 'item-\d+'; expected at most 1.0%"
    ):
        run_rat(config)
    allowed = config_for(dataset, embeddings=root, output=config.output, max_missing_share=0.1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vectors, "read", None)  # no vector is read to count
        assert count_missing(allowed, Snapshot.open(root), dataset) == 1
    table, missing = load_embeddings(Snapshot.open(root), dataset)
    assert missing.tolist() == [NUM_ITEMS - 1]
    torch.testing.assert_close(table[-1], table[:-1].mean(dim=0))


def mapped_file(address: int) -> str:
    """The file that an address of this process is in; empty for plain memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, *_, name = [*line.split(maxsplit=5), ""][:6]
        start, stop = (int(bound, 16) for bound in bounds.split("-"))
        if start <= address < stop:
            return name
    raise AssertionError("no such address")


def test_items_without_an_embedding_are_zero_and_not_alike(dataset, tmp_path):
    values = np.random.default_rng(0).normal(size=(NUM_ITEMS - 2, 3)) + 5.0
    root = publish(tmp_path / "short", dataset.item_ids[:-2], values, dtype="float16")
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"), max_missing_share=0.5)
    inputs = load_inputs(config, dataset, Sources(None, ""))
    model = make_model(inputs)
    assert (model.content[-2:] == 0).all()
    assert (model.content[:-2].norm(dim=1) > 0.99).all()
    assert (model.table.parts[0]()[-2:] == 0).all()
    assert (model.table.parts[0](torch.tensor([NUM_ITEMS - 1, 0]))[0] == 0).all()
    for method in ("llm2x", "llmemb"):
        adapter = {"kind": "pca", "add_ids": False}
        other = config_for(
            dataset,
            embeddings=root,
            output=str(tmp_path / "out"),
            method=method,
            adapter=adapter,
            max_missing_share=0.5,
        )
        assert (make_model(load_inputs(other, dataset, Sources(None, ""))).table()[-2:] == 0).all()


def test_a_float16_snapshot_stays_float16_and_on_disk(dataset, tmp_path):
    values = np.random.default_rng(0).normal(size=(NUM_ITEMS, 3)).astype(np.float16)
    root = publish(tmp_path / "half", dataset.item_ids, values, dtype="float16")
    config = config_for(dataset, embeddings=root, output=str(tmp_path / "out"))
    table, missing = load_embeddings(Snapshot.open(root), dataset)
    assert len(missing) == 0
    assert table.dtype == torch.float16
    np.testing.assert_array_equal(table.numpy(), values)
    assert mapped_file(table.data_ptr()).endswith("(deleted)")  # nameless: nothing is left behind
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(item_table, "SCALED_ONCE", 0)  # it is a large one
        model = make_model(Inputs(config, dataset, table))
    assert model.table.parts[0].embeddings.vectors is table
    of_floats = make_model(Inputs(config, dataset, torch.from_numpy(values.astype(np.float32))))
    torch.testing.assert_close(model.item_embeddings(), of_floats.item_embeddings(), rtol=0, atol=0)
    torch.testing.assert_close(model.content, of_floats.content, rtol=0, atol=0)


def test_embeddings_that_tell_no_item_from_another_are_refused(dataset, tmp_path):
    root = publish(tmp_path / "root", dataset.item_ids, np.ones((NUM_ITEMS, 3)))
    with pytest.raises(InputError, match="every item has the same vector, which tells none from another"):
        run_rat(config_for(dataset, embeddings=root, output=str(tmp_path / "out")))


def test_a_table_with_nan_is_refused(dataset, tmp_path):
    values = np.ones((NUM_ITEMS, 3))
    values[4, 1] = np.nan
    root = publish(tmp_path / "broken", dataset.item_ids, values)
    with pytest.raises(
        InputError, match=f"1 items have values that are NaN or infinite, such as '{dataset.item_ids[4]}'"
    ):
        run_rat(config_for(dataset, embeddings=root, output=str(tmp_path / "out")), here=True)
    with pytest.raises(InputError, match="1 items have values that are NaN or infinite"):
        content_entrant(Snapshot.open(root), dataset, decay=0.6).runs[0].load()


def test_vectors_of_another_width_than_the_snapshot_says_are_refused(dataset, tmp_path):
    root = publish(tmp_path / "root", dataset.item_ids, np.ones((NUM_ITEMS, 3)))
    manifest = storage.read_json(f"{root}/first/manifest.json")
    storage.write_json(f"{root}/first/manifest.json", manifest | {"dimension": 5})
    with pytest.raises(InputError, match=r"part-00000\.parquet has vectors of 3 values; expected the manifest's 5"):
        run_rat(config_for(dataset, embeddings=root, output=str(tmp_path / "out")), here=True)
