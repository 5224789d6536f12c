"""A night after the first: only what changed is encoded, and the rest stays bit for bit."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from llmemb.embed import parity, pipeline, shards
from llmemb.embed.config import EmbedConfig
from llmemb.embed.pipeline import run_embed
from llmemb.embed.snapshot import Snapshot
from llmemb.encoder.torch_engine import tokenizer_of
from llmemb.errors import InputError
from llmemb.prompts import prompt_hash
from tests.generated import write_catalogue

WORDS = ["red", "blue", "green", "lamp", "table", "chair", "desk", "acme", "nova", "long"]
FIRST = {f"i{index}": f"{WORDS[index % 10]} {WORDS[index // 10 % 10]}" for index in range(200)}
CHANGED, DELETED, NEW = ["i5", "i77"], ["i6", "i100"], ["n1", "n2", "n3"]
SECOND = {key: title for key, title in FIRST.items() if key not in DELETED} | dict.fromkeys(CHANGED, "very long desk")
SECOND |= dict.fromkeys(NEW, "blue blue lamp")


def settings(dataset: str, encoder: Path, output: Path, **changed) -> EmbedConfig:
    values = {"dataset": dataset, "encoder": str(encoder), "output": str(output), "prompt": {"attributes": ["title"]}}
    return EmbedConfig.parse(values | changed)


def rows(snapshot: Snapshot) -> dict[str, tuple[str, bytes]]:
    """Per item: its prompt hash and the bytes of its vector."""
    found = {}
    for table in snapshot.tables():
        for row, vector in zip(table.to_pylist(), shards.vectors.from_table(table), strict=True):
            assert row["item_id"] not in found
            found[row["item_id"]] = (row["prompt_hash"], vector.tobytes())
    return found


@pytest.fixture
def embed(in_process, tiny_encoder, tmp_path):
    """Embeds these titles into the test's root; gives the snapshot that LATEST names then."""

    def run(titles, night="first", columns=None, num_files=8, encoder=tiny_encoder, **changed) -> Snapshot:
        dataset = write_catalogue(tmp_path / night, titles, num_files=num_files, **(columns or {}))
        run_embed(settings(dataset, encoder, tmp_path / "root", **changed))
        return Snapshot.open(str(tmp_path / "root"))

    return run


def test_only_new_and_changed_items_are_encoded_and_the_rest_is_kept_bit_for_bit(embed, in_process):
    first, second = embed(FIRST), embed(SECOND, "second")
    assert in_process == [len(FIRST), len(CHANGED) + len(NEW)]
    assert second.manifest["parent"] == first.snapshot_id
    kept = set(FIRST) - {*CHANGED, *DELETED}
    assert second.manifest["counts"] == {
        **{"total": len(SECOND), "new": len(NEW), "changed": len(CHANGED), "kept": len(kept)},
        **{"deleted": len(DELETED), "refused": 0},
    }
    before, after = rows(first), rows(second)
    assert after.keys() == SECOND.keys()
    assert all(after[item] == before[item] for item in kept)
    for item in CHANGED + NEW:
        assert after[item][0] == prompt_hash(f"title is {SECOND[item]}")
    assert after["n1"][1] == after["n2"][1] != after["i5"][1] != before["i5"][1]


def test_shards_without_a_change_are_copied_and_their_vectors_never_read(embed, monkeypatch):
    first = embed(FIRST)

    def never(*_) -> None:
        raise AssertionError("a shard was read")

    monkeypatch.setattr(shards.vectors, "read", never)
    second = embed(FIRST, "second", columns={"sales_rank": list(range(len(FIRST)))})
    assert second.snapshot_id != first.snapshot_id
    assert second.manifest["files"] == first.manifest["files"]
    assert second.manifest["counts"]["kept"] == second.manifest["counts"]["total"] == len(FIRST)
    assert second.manifest["encoded"] == {"items": 0, "tokens": 0}
    monkeypatch.undo()
    assert rows(second) == rows(first)
    names = [f"{snapshot.uri}/{snapshot.manifest['files'][0]['file']}" for snapshot in (first, second)]
    assert os.path.samefile(*names)


def test_where_items_only_went_no_encoder_is_loaded(embed, in_process):
    first = embed(FIRST)
    second = embed({item: title for item, title in FIRST.items() if item not in DELETED}, "second")
    assert in_process == [len(FIRST)]
    assert second.manifest["counts"] == {
        **{"total": 198, "new": 0, "changed": 0, "kept": 198, "deleted": 2, "refused": 0}
    }
    before, after = rows(first), rows(second)
    assert after == {item: row for item, row in before.items() if item not in DELETED}


def test_parity_is_checked_on_what_was_encoded_tonight(embed, monkeypatch):
    embed(FIRST)
    sampled: list[str] = []

    def sample(snapshot, plan, buckets, config):
        sampled.extend(parity._sample(snapshot, plan, buckets, config.sample_items)[0])
        return parity.check_parity(snapshot, plan, [], config)

    monkeypatch.setattr(pipeline, "check_parity", sample)
    second = embed(SECOND, "second")
    assert sorted(sampled) == sorted(CHANGED + NEW)
    assert second.manifest["parity"] == {"sample_items": 0, "min_cosine": None}


@pytest.mark.parametrize("num_files", [1, 2, 32])
def test_item_files_may_be_more_or_fewer_than_shards(embed, in_process, num_files):
    first, second = embed(FIRST, num_files=num_files), embed(SECOND, "second", num_files=8)
    assert len(second.manifest["files"]) == len(first.manifest["files"]) == 8
    assert in_process[1] == len(CHANGED) + len(NEW)
    assert rows(second).keys() == SECOND.keys()


def test_a_catalogue_that_outgrew_its_shards_gets_more_and_keeps_its_vectors(embed, in_process):
    first, second = embed(FIRST, items_per_shard=1000), embed(SECOND, "second", items_per_shard=6)
    assert (len(first.manifest["files"]), len(second.manifest["files"])) == (8, 64)
    assert in_process == [len(FIRST), len(CHANGED) + len(NEW)]
    assert second.manifest["counts"]["deleted"] == len(DELETED)
    before, after = rows(first), rows(second)
    assert all(after[item] == before[item] for item in set(FIRST) - {*CHANGED, *DELETED})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dtype": "float32"}, "dtype float16, this job float32"),
        ({"dimension": 8}, "dimension 32, this job 8"),
        ({"normalize": False}, "normalize True, this job False"),
        ({"engine": {"max_seq_len": 5}}, "max_seq_len 64, this job 5"),
    ],
)
def test_vectors_of_another_kind_are_all_made_anew_and_it_is_said(embed, in_process, capsys, changed, said):
    first, second = embed(FIRST), embed(FIRST, **changed)
    assert said in capsys.readouterr().out
    assert in_process == [len(FIRST)] * 2
    assert second.manifest["parent"] == first.snapshot_id
    assert second.manifest["counts"] == {
        **{"total": len(FIRST), "new": len(FIRST), "changed": 0, "kept": 0, "deleted": 0, "refused": 0}
    }


@pytest.mark.parametrize(("before", "after"), [({}, {"dimension": 32}), ({"dimension": 32}, {})])
def test_a_dimension_that_cuts_nothing_is_as_none(embed, in_process, before, after):
    first = embed(FIRST, **before)
    assert embed(FIRST, **after).snapshot_id == first.snapshot_id
    second = embed(SECOND, "second", **after)
    assert second.manifest["counts"]["kept"] == len(FIRST) - len(CHANGED) - len(DELETED)
    assert in_process == [len(FIRST), len(CHANGED) + len(NEW)]


def test_another_encoder_makes_every_item_new(embed, in_process, tiny_encoder, tmp_path):
    other = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    weights = load_file(other / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    embed(FIRST)
    assert embed(SECOND, "second", encoder=other).manifest["counts"]["new"] == len(SECOND)
    assert in_process == [len(FIRST), len(SECOND)]


def test_a_tokenizer_of_the_prompts_that_is_replaced_in_place_makes_other_prompts(
    embed, in_process, tiny_encoder, tmp_path
):
    counter = Path(shutil.copytree(tiny_encoder, tmp_path / "counter")) / "tokenizer.json"
    prompt = {"attributes": [{"name": "title", "max_tokens": 1}], "tokenizer": str(counter.parent)}
    first = embed(FIRST, prompt=prompt)
    assert embed(FIRST, prompt=prompt).snapshot_id == first.snapshot_id
    tokenizer = json.loads(counter.read_text())
    counter.write_text(json.dumps(tokenizer | {"pre_tokenizer": None}))  # a title is one token now
    tokenizer_of.cache_clear()
    second = embed(FIRST, prompt=prompt)
    tokenizer_of.cache_clear()
    assert rows(second)["i5"][0] == prompt_hash(f"title is {FIRST['i5']}") != rows(first)["i5"][0]
    assert in_process == [len(FIRST)] * 2


def test_a_cut_vector_is_the_start_of_the_whole_one_and_of_length_one_again(embed):
    whole = embed(FIRST, dtype="float32").vectors(["i5"])[0][0]
    short = embed(FIRST, dtype="float32", dimension=8)
    assert short.embedding_dim == 8
    np.testing.assert_allclose(short.vectors(["i5"])[0][0], whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    raw = embed(FIRST, dtype="float32", dimension=8, normalize=False).vectors(["i5"])[0][0]
    np.testing.assert_allclose(raw / np.linalg.norm(raw), short.vectors(["i5"])[0][0], atol=1e-6)
    assert abs(np.linalg.norm(raw) - 1) > 0.01


def test_what_cannot_be_embedded_is_refused_with_the_reason_and_the_rest_goes_on(embed, tmp_path):
    first = embed(FIRST)
    titles = FIRST | {"i5": None, "i6": " ", "big": "red lamp " * 120_000}
    second = embed(titles, "second")
    refused = pl.read_parquet(f"{second.uri}/refused.parquet")
    assert refused.sort("item_id").rows() == [("i5", "no usable attribute"), ("i6", "no usable attribute")]
    assert second.manifest["refused_file"]["rows"] == 2
    assert second.manifest["counts"]["deleted"] == second.manifest["counts"]["refused"] == 2
    assert second.vectors(["big"])[1].tolist() == [True]
    assert second.manifest["counts"]["total"] == first.manifest["counts"]["total"] - 2 + 1


def test_too_many_refused_items_publish_nothing_and_say_where_to_look(embed, tmp_path):
    first = embed(FIRST)
    with pytest.raises(InputError, match=r"30 items could not be embedded, 15\.0% of all; .*refused\.parquet says why"):
        embed(FIRST | {f"i{index}": None for index in range(30)}, "second")
    assert Snapshot.open(str(tmp_path / "root")).snapshot_id == first.snapshot_id


def test_a_catalogue_that_goes_back_is_another_snapshot_with_the_same_vectors(embed):
    first, second, third = embed(FIRST), embed(SECOND, "second"), embed(FIRST, "third")
    assert len({first.snapshot_id, second.snapshot_id, third.snapshot_id}) == 3
    assert rows(third) == rows(first)


def test_a_vector_that_is_not_finite_is_refused():
    embedded = np.array([[1.0, 2.0], [np.nan, 0.0], [7e4, 0.0]], dtype=np.float32)
    with np.errstate(over="ignore"):
        table = shards.vectors.to_table(["a", "b", "c"], embedded, "float16")
    finite, refused = shards._finite(table)
    assert finite.column("item_id").to_pylist() == ["a"]
    assert refused == [("b", "its embedding is not finite"), ("c", "its embedding is not finite")]


def test_an_item_in_the_wrong_file_is_noticed(in_process, tiny_encoder, tmp_path):
    dataset = Path(write_catalogue(tmp_path / "first", FIRST))
    files = sorted((dataset / "items").iterdir())
    content = files[0].read_bytes()
    files[0].write_bytes(files[1].read_bytes())
    files[1].write_bytes(content)
    with pytest.raises(InputError, match="is not in its file: expected item files as prepare cuts them"):
        run_embed(settings(str(dataset), tiny_encoder, tmp_path / "root"))
    assert not (tmp_path / "root" / "LATEST").exists()
