"""Publishing: a snapshot exists at once or not at all, and of two runs one wins and the other says so."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from llmemb import storage
from llmemb.embed import pipeline, shards
from llmemb.embed.pipeline import run_embed
from llmemb.embed.snapshot import FORMAT, Snapshot, latest, latest_id, publish
from llmemb.encoder.folder import EncoderFolder
from llmemb.errors import InputError, TemporaryError
from tests.embed.test_incremental import FIRST, SECOND, settings
from tests.generated import write_catalogue

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["local", "s3://conditional", "s3://plain"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "root")
    request.getfixturevalue("object_stores")
    return f"{request.param}/{uuid.uuid4().hex}"


def manifest(snapshot_id: str) -> dict:
    return {"format": FORMAT, "snapshot_id": snapshot_id, "files": [], "refused_file": None}


def test_latest_moves_from_the_parent_and_from_nowhere_else(root):
    assert latest(root) is None
    publish(root, manifest("a"), None)
    first = latest(root)
    publish(root, manifest("b"), first)
    assert latest_id(root) == "b"
    with pytest.raises(InputError, match="c is published, but another run moved LATEST to b meanwhile"):
        publish(root, manifest("c"), first)
    assert latest_id(root) == "b"
    assert Snapshot.open(f"{root}/c").snapshot_id == "c"


def test_of_two_runs_of_one_job_the_second_leaves_the_firsts_manifest(root):
    assert publish(root, manifest("a") | {"created_at": "first"}, None)
    assert not publish(root, manifest("a") | {"created_at": "second"}, None)
    assert latest(root).manifest["created_at"] == "first"


@pytest.mark.parametrize("key", ["files", "refused_file"])
def test_a_run_whose_files_were_swept_away_meanwhile_publishes_nothing(root, key):
    publish(root, manifest("a"), None)
    entry = {"file": "x.parquet", "rows": 1, "bytes": 4, "sha256": ""}
    second = manifest("b") | {key: [entry] if key == "files" else entry}
    with pytest.raises(TemporaryError, match=r"/b: x\.parquet is gone; nothing is published: run it again"):
        publish(root, second, latest(root))
    assert not storage.exists(f"{root}/b/manifest.json")
    assert latest_id(root) == "a"
    storage.write_bytes(f"{root}/b/x.parquet", b"four")
    assert publish(root, second, latest(root))


def test_a_store_without_conditional_put_is_said(object_stores, capsys):
    publish(f"s3://plain/{uuid.uuid4().hex}", manifest("a"), None)
    assert "no conditional put" in capsys.readouterr().out


def test_latest_that_names_nothing_is_one_clear_line(root):
    storage.write_bytes(f"{root}/LATEST", b"lost\n")
    with pytest.raises(InputError, match=r"LATEST names lost, which has no manifest\.json"):
        latest(root)


def test_two_runs_at_once_publish_one_whole_snapshot(in_process, tiny_encoder, tmp_path, monkeypatch, capsys):
    """Both begin before either ends; their vectors may differ in the last bit, their files may not be mixed."""
    config = settings(write_catalogue(tmp_path / "items", FIRST), tiny_encoder, tmp_path / "root", dtype="float32")
    both = threading.Barrier(2, timeout=60)
    cut, encode = shards.cut, pipeline._encode

    def slightly_off(embedded, *arguments, **options):
        noise = 1e-6 if threading.current_thread().name == "second" else 0.0
        return cut(embedded, *arguments, **options) + noise

    def together(*arguments):
        both.wait()
        encode(*arguments)
        both.wait()

    monkeypatch.setattr(shards, "cut", slightly_off)
    monkeypatch.setattr(pipeline, "_encode", together)
    errors: list[Exception] = []

    def run() -> None:
        try:
            run_embed(config)
        except InputError as error:
            errors.append(error)

    runs = [threading.Thread(target=run, name=name) for name in ("first", "second")]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert errors == []
    assert capsys.readouterr().out.count("another run of this job published") == 1
    snapshot = Snapshot.open(str(tmp_path / "root"))
    assert snapshot.vectors(sorted(FIRST))[1].all()


def test_a_run_that_another_catalogue_overtook_says_so_and_does_not_move_latest(
    in_process, tiny_encoder, tmp_path, monkeypatch
):
    root = tmp_path / "root"
    first, second = (write_catalogue(tmp_path / name, items) for name, items in (("a", FIRST), ("b", SECOND)))
    encode = pipeline._encode

    def overtaken(*arguments):
        monkeypatch.setattr(pipeline, "_encode", encode)
        run_embed(settings(second, tiny_encoder, root))
        encode(*arguments)

    monkeypatch.setattr(pipeline, "_encode", overtaken)
    with pytest.raises(InputError, match="is published, but another run moved LATEST"):
        run_embed(settings(first, tiny_encoder, root))
    assert Snapshot.open(str(root)).manifest["counts"]["total"] == len(SECOND)
    run_embed(settings(first, tiny_encoder, root))
    assert Snapshot.open(str(root)).manifest["counts"] | {"kept": 0} == {
        **{"total": len(FIRST), "new": 2, "changed": 2, "kept": 0, "deleted": 3, "refused": 0}
    }


def test_a_run_killed_between_manifest_and_latest_is_finished_by_the_next(
    in_process, tiny_encoder, tmp_path, monkeypatch
):
    config = settings(write_catalogue(tmp_path / "items", FIRST), tiny_encoder, tmp_path / "root")

    def killed(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmemb.embed.snapshot.point_latest", killed)
    with pytest.raises(KeyboardInterrupt):
        run_embed(config)
    assert latest_id(config.output) is None
    monkeypatch.undo()
    run_embed(config)
    assert latest(config.output).manifest["counts"]["total"] == len(FIRST)


def test_a_rerun_with_another_cut_does_not_mix_with_the_shards_that_stand(
    in_process, tiny_encoder, tmp_path, monkeypatch
):
    config = settings(write_catalogue(tmp_path / "items", FIRST), tiny_encoder, tmp_path / "root")

    def killed(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "check_parity", killed)
    with pytest.raises(KeyboardInterrupt):
        run_embed(config)
    monkeypatch.setattr(pipeline, "check_parity", lambda *_: {"sample_items": 0, "min_cosine": 1.0})
    run_embed(config.model_copy(update={"items_per_shard": 6}))
    snapshot = latest(config.output)
    item_ids = [item for table in snapshot.tables() for item in table.column("item_id").to_pylist()]
    assert len(snapshot.manifest["files"]) == 64
    assert sorted(item_ids) == sorted(FIRST)


def test_a_file_of_other_items_in_the_way_is_not_overwritten(in_process, tiny_encoder, tmp_path):
    config = settings(write_catalogue(tmp_path / "items", FIRST), tiny_encoder, tmp_path / "root")
    run_embed(config)
    snapshot = Snapshot.open(config.output)
    folder = tmp_path / "other" / snapshot.snapshot_id
    folder.mkdir(parents=True)
    (folder / "part-00000.parquet").write_bytes((Path(snapshot.uri) / "part-00001.parquet").read_bytes())
    with pytest.raises(InputError, match=r"part-00000\.parquet: a file of other items is in the way"):
        run_embed(config.model_copy(update={"output": str(tmp_path / "other")}))


def test_a_tampered_encoder_is_noticed(in_process, tiny_encoder, tmp_path):
    encoder = Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))
    (encoder / "encoder.json").write_text(json.dumps({"fingerprint": EncoderFolder.read(encoder).fingerprint()}))
    config = settings(write_catalogue(tmp_path / "items", FIRST), encoder, tmp_path / "root")
    run_embed(config)
    before = latest_id(config.output)
    (encoder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=r"a file was changed or is missing"):
        run_embed(config.model_copy(update={"dtype": "float32"}))
    assert latest_id(config.output) == before


def test_a_full_disk_is_one_clear_line_and_latest_stays(in_process, tiny_encoder, tmp_path, monkeypatch):
    root = tmp_path / "root"
    run_embed(settings(write_catalogue(tmp_path / "first", FIRST), tiny_encoder, root))
    before, written = latest_id(str(root)), Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "part-00005.parquet" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(path, content)

    second = settings(write_catalogue(tmp_path / "second", SECOND), tiny_encoder, root)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"part-00005\.parquet: No space left on device"):
        run_embed(second)
    assert latest_id(str(root)) == before
    monkeypatch.undo()
    run_embed(second)
    assert Snapshot.open(str(root)).manifest["counts"]["total"] == len(SECOND)


@pytest.mark.parametrize("piece", ["", "/part-00005.parquet"])
def test_a_store_that_may_not_be_written_is_one_clear_line_and_latest_stays(
    in_process, object_stores, tiny_encoder, tmp_path, monkeypatch, piece
):
    root = f"s3://plain/{uuid.uuid4().hex}"
    catalogues = [write_catalogue(tmp_path / name, items) for name, items in (("a", FIRST), ("b", SECOND))]
    first, second = (settings(dataset, tiny_encoder, tmp_path) for dataset in catalogues)
    run_embed(first.model_copy(update={"output": root}))
    before = latest_id(root)
    monkeypatch.setattr(object_stores, "read_only", {piece or storage.name(root)})
    with pytest.raises(InputError, match=rf"{root}/.*{piece or 'writable-[0-9a-f]+'}: not permitted: "):
        run_embed(second.model_copy(update={"output": root}))
    assert latest_id(root) == before
    monkeypatch.undo()
    assert Snapshot.open(root).vectors(sorted(FIRST))[1].all()


def test_wrong_credentials_are_one_clear_line_before_any_work(object_stores, tiny_encoder, tmp_path):
    root = f"s3://plain/{uuid.uuid4().hex}"
    config = settings(write_catalogue(tmp_path / "items", FIRST), tiny_encoder, tmp_path / "root")
    (tmp_path / "embed.yaml").write_text(config.model_copy(update={"output": root}).to_yaml())
    command = [sys.executable, "jobs/embed.py", "--config", str(tmp_path / "embed.yaml")]
    environment = os.environ | {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {root}")
    assert result.stderr.count("\n") == 1
    assert "wrong-secret" not in result.stderr


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b", "..", "", "s3://bucket/x"])
def test_latest_cannot_lead_outside_of_its_root(tmp_path, name):
    storage.write_bytes(f"{tmp_path}/LATEST", name.encode())
    with pytest.raises(InputError, match="expected the name of a snapshot's folder"):
        Snapshot.open(str(tmp_path))
