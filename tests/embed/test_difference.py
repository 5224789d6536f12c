import pytest

from llmemb import storage
from llmemb.embed.difference import difference
from llmemb.errors import InputError
from tests.snapshots import write_snapshot

OLD = {f"i{number}": f"thing {number}" for number in range(100)}
NEW = {item: prompt for item, prompt in OLD.items() if item != "i7"} | {"i8": "another thing", "j1": "a", "j2": "b"}


@pytest.mark.parametrize("num_files", [(1, 1), (4, 4), (2, 8), (8, 2)])
def test_every_item_is_new_changed_kept_or_deleted_whatever_the_cut(tmp_path, num_files):
    old = write_snapshot(str(tmp_path), OLD, night=0, num_files=num_files[0])
    new = write_snapshot(str(tmp_path), NEW, night=1, num_files=num_files[1])
    found = difference(old, new, num_examples=5)
    assert found.counts == {"new": 2, "changed": 1, "kept": 98, "deleted": 1}
    assert {kind: sorted(ids) for kind, ids in found.examples.items()} == {
        "new": ["j1", "j2"],
        "changed": ["i8"],
        "deleted": ["i7"],
    }
    assert found.settings == {}


def test_examples_are_few_and_another_encoder_is_said(tmp_path):
    old = write_snapshot(str(tmp_path), OLD, night=0)
    new = write_snapshot(str(tmp_path), {f"j{n}": "x" for n in range(50)}, night=1, encoder="f" * 16)
    found = difference(old, new, num_examples=3)
    assert found.counts == {"new": 50, "changed": 0, "kept": 0, "deleted": 100}
    assert [len(examples) for examples in found.examples.values()] == [3, 0, 3]
    assert found.settings == {"encoder": ("e" * 16, "f" * 16)}


def test_a_manifest_that_leads_outside_is_not_followed(tmp_path):
    old, new = (write_snapshot(str(tmp_path / name), OLD, num_files=1) for name in ("old", "new"))
    storage.copy(f"{old.uri}/part-00000.parquet", str(tmp_path / "outside.parquet"))
    new.manifest["files"][0] |= {"file": "../../outside.parquet", "sha256": "another"}
    with pytest.raises(InputError, match="expected a file of the folder itself"):
        difference(old, new, num_examples=3)
