import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmemb import storage, vectors
from llmemb.data.dataset import Dataset
from llmemb.embed import pipeline
from llmemb.embed.config import EmbedConfig
from llmemb.embed.pipeline import run_embed
from llmemb.embed.snapshot import Snapshot
from llmemb.encoder.folder import EncoderFolder
from llmemb.encoder.torch_engine import TorchEngine, load_tokenizer, tokenize
from llmemb.errors import InputError
from llmemb.prompts import prompt_hash

PROMPT = {"attributes": ["title", "brand", "price"]}


def embed_config(tiny_dataset, tiny_encoder, output, **changed) -> EmbedConfig:
    settings = {"dataset": tiny_dataset, "encoder": str(tiny_encoder), "output": str(output), "prompt": PROMPT}
    return EmbedConfig.parse(settings | changed)


@pytest.fixture(scope="module")
def config(tiny_dataset, tiny_encoder, tmp_path_factory) -> EmbedConfig:
    return embed_config(tiny_dataset, tiny_encoder, tmp_path_factory.mktemp("embeddings"), dtype="float32")


@pytest.fixture(scope="module")
def snapshot(config, ray_local) -> Snapshot:
    run_embed(config)
    return Snapshot.open(config.output)


def parts(snapshot: Snapshot) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(snapshot.uri).glob("part-*.parquet"))}


def test_every_item_is_embedded_once_or_refused_with_the_reason(snapshot, config):
    item_ids = [item for table in snapshot.tables() for item in table.column("item_id").to_pylist()]
    refused = pl.read_parquet(Path(snapshot.uri) / "refused.parquet")
    assert sorted(item_ids + refused["item_id"].to_list()) == sorted(Dataset.open(config.dataset).item_ids)
    assert refused.sort("item_id").rows() == [("i0", "no usable attribute"), ("i1", "no usable attribute")]
    assert snapshot.manifest["counts"] == {
        **{"total": 38, "new": 38, "changed": 0, "kept": 0, "deleted": 0, "refused": 2}
    }
    assert not (Path(snapshot.uri) / "_shards").exists()


def test_a_vector_is_that_of_the_items_prompt_alone(snapshot, config):
    folder = EncoderFolder.read(Path(config.encoder))
    engine = TorchEngine(folder, precision="fp32", tokens_per_batch=1, device="cpu")
    items = {item["item_id"]: item for item in Dataset.open(config.dataset).items().to_pylist()}
    for table in snapshot.tables():
        for row, vector in zip(table.to_pylist(), vectors.from_table(table), strict=True):
            prompt = config.prompt.render(items[row["item_id"]])
            assert row["prompt_hash"] == prompt_hash(prompt)
            alone = engine.encode(tokenize(load_tokenizer(folder.path), [prompt], folder.max_seq_len))[0]
            np.testing.assert_allclose(vector, alone, atol=1e-6)


def test_the_folder_is_plain_parquet_for_other_readers(snapshot):
    frame = pl.read_parquet(Path(snapshot.uri) / "part-*.parquet")
    assert frame.schema == {"item_id": pl.String, "embedding": pl.Array(pl.Float32, 32), "prompt_hash": pl.String}


def test_vectors_come_in_the_order_asked_for_and_missing_items_are_said(snapshot):
    both, found = snapshot.vectors(["i7", "no such item", "i5"])
    assert found.tolist() == [True, False, True]
    assert not both[1].any()
    np.testing.assert_array_equal(snapshot.vectors(["i5", "i7"])[0], both[[2, 0]])


def test_a_rerun_publishes_nothing_new(snapshot, config, capsys):
    before = (Path(snapshot.uri) / "manifest.json").stat().st_mtime_ns
    run_embed(config)
    assert "published already" in " ".join(capsys.readouterr().out.split())
    assert (Path(snapshot.uri) / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_run_cut_off_goes_on_after_its_finished_shards_and_publishes_the_same_bytes(snapshot, config, tmp_path):
    again = config.model_copy(update={"output": str(tmp_path / "again"), "num_workers": 2})
    folder = tmp_path / "again" / snapshot.snapshot_id
    kept = snapshot.manifest["files"][0]
    counts = {"new": kept["rows"], "changed": 0, "kept": 0, "deleted": 0, "refused": 0}
    record = {"bucket": 0, "entry": kept, "dimension": 32, "counts": counts, "stint": None, "refused": []}
    storage.write_bytes(str(folder / kept["file"]), b"not written again")
    storage.write_json(str(folder / "_shards" / "part-00000.json"), record)
    with pytest.raises(InputError, match=r"part-00000\.parquet: its checksum is not the manifest's"):
        run_embed(again)
    assert not (folder / "manifest.json").exists()
    assert (folder / kept["file"]).read_bytes() == b"not written again"

    storage.write_bytes(str(folder / kept["file"]), parts(snapshot)[kept["file"]])
    swept = record | {"bucket": 1, "entry": snapshot.manifest["files"][1]}  # its shard is gone
    storage.write_json(str(folder / "_shards" / "part-00001.json"), swept)
    run_embed(again)
    assert parts(Snapshot.open(again.output)) == parts(snapshot)


def test_a_run_whose_records_a_faster_one_took_away_leaves_its_snapshot_alone(
    snapshot, config, tmp_path, monkeypatch, capsys
):
    again = config.model_copy(update={"output": str(tmp_path / "again")})

    def overtaken(*_: object) -> dict[str, object]:
        shutil.copytree(snapshot.uri, tmp_path / "again" / snapshot.snapshot_id, dirs_exist_ok=True)
        raise InputError("part-00000.json: no such file")

    monkeypatch.setattr(pipeline, "_make", overtaken)
    run_embed(again)
    assert "another run of this job published" in capsys.readouterr().out
    assert parts(Snapshot.open(again.output)) == parts(snapshot)


def test_records_that_a_killed_run_left_behind_go_with_the_next(snapshot, config, tmp_path):
    again = config.model_copy(update={"output": str(tmp_path / "again")})
    shutil.copytree(config.output, again.output)
    left = Path(again.output) / snapshot.snapshot_id / "_shards" / "part-00000.json"
    left.parent.mkdir()
    left.write_text("{}")
    storage.write_bytes(f"{again.output}/LATEST", f"{snapshot.snapshot_id}\n".encode())
    run_embed(again)
    assert not left.exists()


def test_float16_halves_the_values_and_another_dtype_is_another_snapshot(snapshot, config):
    run_embed(config.model_copy(update={"dtype": "float16"}))
    half = Snapshot.open(config.output)
    assert half.snapshot_id != snapshot.snapshot_id
    assert half.manifest["parent"] == snapshot.snapshot_id
    assert vectors.from_table(half.tables()[0]).dtype == np.float16
    np.testing.assert_allclose(half.vectors(["i5"])[0], snapshot.vectors(["i5"])[0], atol=1e-3)


def test_a_snapshot_that_fails_parity_is_not_published(config, tmp_path):
    strict = embed_config(
        config.dataset, config.encoder, tmp_path, dtype="float16", parity={"min_cosine": 1.0, "sample_items": 38}
    )
    with pytest.raises(InputError, match=r"parity: item 'i\d+' has cosine 0\.99999"):
        run_embed(strict)
    assert not list(tmp_path.rglob("manifest.json"))
    assert not (tmp_path / "LATEST").exists()


def test_a_changed_part_file_is_noticed(config, tmp_path, snapshot):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in Path(snapshot.uri).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "part-00001.parquet").write_bytes(b"changed")
    with pytest.raises(InputError, match=r"part-00001\.parquet: its checksum is not the manifest's"):
        Snapshot.open(str(copy)).vectors(["i5"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": {"attributes": ["colour"]}}, "has no column 'colour'"),
        ({"prompt": None}, "carries no template of its own"),
        ({"encoder": "/no/such/encoder"}, "no such folder"),
        ({"dataset": "/no/such/dataset"}, "expected the output of a finished prepare job"),
    ],
)
def test_bad_input_is_one_clear_line_before_any_work(config, tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        run_embed(embed_config(config.dataset, config.encoder, tmp_path, **changed))
    assert not list(tmp_path.iterdir())


def test_a_worker_that_this_machine_has_no_room_for_is_one_line(config, ray_local, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    engine = {"threads_per_worker": 64}
    with pytest.raises(InputError, match=r"^engine\.threads_per_worker: a worker asks for 64 CPU"):
        run_embed(embed_config(config.dataset, config.encoder, tmp_path, engine=engine))


def test_manifest_names_every_file_with_rows_bytes_and_checksum(snapshot):
    on_disk = parts(snapshot)
    manifest = json.loads((Path(snapshot.uri) / "manifest.json").read_text())
    assert {entry["file"] for entry in manifest["files"]} == set(on_disk)
    for entry in manifest["files"]:
        assert entry["bytes"] == len(on_disk[entry["file"]])
        assert entry["sha256"] == storage.checksum(on_disk[entry["file"]])
    assert sum(entry["rows"] for entry in manifest["files"]) == manifest["counts"]["total"]


def test_an_output_that_cannot_be_written_is_noticed_before_the_cluster_is_asked_for(config, tmp_path, monkeypatch):
    def no_cluster() -> None:
        raise AssertionError("the cluster was asked for")

    monkeypatch.setattr("llmemb.embed.pipeline.connect", no_cluster)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        run_embed(config.model_copy(update={"output": str(tmp_path / "file" / "embeddings")}))
