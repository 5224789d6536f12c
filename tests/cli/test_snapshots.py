import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmemb import storage
from llmemb.cli import app
from llmemb.embed import verification
from llmemb.errors import TemporaryError
from tests.snapshots import write_snapshot


@pytest.fixture
def root(tmp_path: Path) -> str:
    prompts = {f"i{number}": f"thing {number}" for number in range(30)}
    for night in range(4):
        write_snapshot(str(tmp_path), prompts | {"i0": f"night {night}"}, night=night)
    return str(tmp_path)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["snapshots", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_ls_marks_latest_and_as_json_is_a_value(root):
    lines = run("ls", root).stdout.splitlines()
    assert len(lines) == 5
    assert "LATEST" in lines[1]
    listed = json.loads(run("ls", root, "--json").stdout)
    assert [entry["counts"]["total"] for entry in listed["snapshots"]] == [30] * 4
    assert listed["latest"] == f"{3:016x}"


def test_show_opens_a_root_or_a_snapshot(root):
    assert f"{3:016x}" in run("show", root).stdout
    assert json.loads(run("show", f"{root}/{1:016x}", "--json").stdout)["snapshot_id"] == f"{1:016x}"


def test_verify_exits_with_one_where_something_is_wrong(root):
    assert "as the manifest says" in run("verify", root).stdout
    storage.write_bytes(f"{root}/{3:016x}/part-00001.parquet", b"x")
    result = run("verify", root, code=1)
    assert "part-00001.parquet: its checksum is not the manifest's" in result.stdout
    assert list(json.loads(run("verify", root, "--json", code=1).stdout)["problems"]) == ["part-00001.parquet"]


def test_verify_names_a_file_that_is_missing_beside_other_problems(tmp_path):
    refused = {"file": "refused.parquet", "rows": 0, "bytes": 1, "sha256": "0"}
    snapshot = write_snapshot(str(tmp_path), {"i0": "thing"}, refused_file=refused)
    storage.write_bytes(f"{snapshot.uri}/part-00001.parquet", b"x")
    problems = json.loads(run("verify", snapshot.uri, "--json", code=1).stdout)["problems"]
    assert problems["refused.parquet"] == ["no such file"]
    assert list(problems) == ["part-00001.parquet", "refused.parquet"]


def test_a_store_that_does_not_answer_is_no_broken_file(root, monkeypatch):
    def fails(*_: object) -> None:
        raise TemporaryError("s3://bucket: no answer")

    monkeypatch.setattr(verification.vectors, "read", fails)
    assert run("verify", root, code=75).stderr == "error: s3://bucket: no answer\n"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_verify_names_a_manifest_without_files(tmp_path, arguments):
    snapshot = write_snapshot(str(tmp_path), {"i0": "thing"})
    del snapshot.manifest["files"]
    storage.write_json(f"{snapshot.uri}/manifest.json", snapshot.manifest)
    assert "has no files" in run("verify", snapshot.uri, *arguments, code=1).stdout


@pytest.mark.parametrize("old", [[], [f"{1:016x}"]])
def test_diff_is_against_the_parent_or_a_named_one(root, old):
    assert "i0" in run("diff", root, *old).stdout
    found = json.loads(run("diff", root, *old, "--json").stdout)
    assert found["counts"] == {"new": 0, "changed": 1, "kept": 29, "deleted": 0}
    assert found["old"].endswith(old[0] if old else f"{2:016x}")


def test_gc_deletes_only_when_told(root):
    assert "would go" in run("gc", root, "--keep", "2").stdout
    assert len(storage.list_folders(root)) == 4
    assert "deleted" in run("gc", root, "--keep", "2", "--delete").stdout
    assert len(storage.list_folders(root)) == 2


@pytest.mark.parametrize("command", ["ls", "show", "verify", "diff", "gc"])
def test_a_snapshot_of_another_format_is_one_line(tmp_path, command):
    snapshot = write_snapshot(str(tmp_path), {"i0": "thing"}, format=1)
    result = run(command, str(tmp_path), code=2)
    assert result.stderr == (
        f"error: embeddings: {snapshot.uri}/manifest.json is of format 1; expected 2, as embed writes it now\n"
    )


def test_an_older_snapshot_of_another_format_is_listed_with_the_reason_and_stays(root):
    reason = f"embeddings: {root}/{0:016x}/manifest.json is of format 1; expected 2, as embed writes it now"
    storage.write_json(f"{root}/{0:016x}/manifest.json", {"format": 1})
    lines = run("ls", root).stdout.splitlines()
    assert lines[4].split() == [f"{0:016x}", "unreadable"]
    assert lines[5:] == [f"unreadable  {reason}"]
    listed = json.loads(run("ls", root, "--json").stdout)
    assert listed["unreadable"] == [{"uri": f"{root}/{0:016x}", "reason": reason}]
    assert f"{0:016x}  stays: cannot be read" in run("gc", root, "--keep", "1", "--delete").stdout
    assert [storage.name(uri) for uri in storage.list_folders(root)] == [f"{n:016x}" for n in (0, 2, 3)]


@pytest.mark.parametrize("command", ["ls", "show", "verify", "diff", "gc"])
def test_bad_input_is_one_line(tmp_path, command):
    result = run(command, str(tmp_path), code=2)
    assert result.stderr.startswith("error: embeddings: ")
    assert len(result.stderr.splitlines()) == 1
