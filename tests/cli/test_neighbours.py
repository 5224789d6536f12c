import json

import pytest
from typer.testing import CliRunner, Result

from llmemb.cli import app
from llmemb.data.dataset import Dataset
from tests.snapshots import write_snapshot


@pytest.fixture(scope="module")
def root(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("root"))
    write_snapshot(folder, {item_id: f"thing {item_id}" for item_id in Dataset.open(tiny_dataset).item_ids})
    return folder


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["neighbours", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_titles_stand_beside_the_ids(root, tiny_dataset):
    found = json.loads(run("i5", "--embeddings", root, "--dataset", tiny_dataset, "-k", "3", "--json").stdout)
    titles = dict(Dataset.open(tiny_dataset).items(["item_id", "title"]).to_pandas().itertuples(index=False))
    assert len(found["neighbours"]) == 3
    for neighbour in found["neighbours"]:
        assert neighbour["title"] == titles[neighbour["item_id"]]
    shown = run("i5", "--embeddings", root, "--dataset", tiny_dataset, "-k", "3").stdout
    assert titles["i5"] in shown
    assert len(shown.splitlines()) == 5


def test_an_index_says_how_much_it_finds(root):
    lines = run("i5", "--embeddings", root, "-k", "3", "--index", "flat").stdout.splitlines()
    assert "flat index of 40 items" in lines[0]
    assert "finds 100.00% of the exact 3 nearest" in lines[0]
    assert lines[1:] == run("i5", "--embeddings", root, "-k", "3").stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nope"], "has no vector of item 'nope'"), (["i5", "--attributes", "colour"], "has no 'colour'; it has item_id")],
)
def test_bad_input_is_one_line(root, tiny_dataset, arguments, message):
    result = run(*arguments, "--embeddings", root, "--dataset", tiny_dataset, code=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["faiss", "npy", "lance"])
def test_export_says_what_it_wrote(root, tmp_path, kind):
    result = CliRunner().invoke(app, ["export", kind, root, str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"export: 40 items: {tmp_path}/out")
    assert list((tmp_path / "out").iterdir())
