from types import SimpleNamespace

import pyarrow as pa
import pytest

from llmemb import storage
from llmemb.embed.changes import Changes, Item, parent_hashes, read_items
from llmemb.embed.plan import Parent
from llmemb.errors import InputError
from llmemb.prompts import PromptTemplate, prompt_hash


def test_items_are_sorted_into_fresh_kept_and_refused():
    changes = Changes({"same": prompt_hash("a"), "other": prompt_hash("a"), "gone": prompt_hash("a")})
    items = [Item("same", "a"), Item("other", "b"), Item("new", "a"), Item("empty", None, "why"), Item("new", "c")]
    assert [item.item_id for item in changes.fresh(items)] == ["other", "new"]
    assert changes.kept == ["same"]
    assert changes.refused == [("empty", "why"), ("new", "duplicate item id")]
    assert not changes.nothing_changed


def test_nothing_changed_only_if_every_vector_of_the_parent_is_wanted():
    hashes = {"a": prompt_hash("x"), "b": prompt_hash("y")}
    for items, unchanged in (("ax by", True), ("ax", False), ("ax bz", False), ("ax by cz", False)):
        changes = Changes(hashes)
        changes.fresh(Item(*item) for item in items.split())
        assert changes.nothing_changed is unchanged


def test_an_attribute_that_is_not_utf8_refuses_its_item_alone(tmp_path):
    titles = pa.array([b"red lamp", b"bad \xff", b"\xc3\xbc", None]).view(pa.string())
    file = str(tmp_path / "part-00000.parquet")
    storage.write_table(file, pa.table({"item_id": ["a", "b", "c", "d"], "title": titles}))
    template = PromptTemplate.model_validate({"attributes": ["title"]})
    plan = SimpleNamespace(item_files=[file], num_buckets=1, template=template)
    assert list(read_items(plan, 0)) == [
        [
            Item("a", "title is red lamp"),
            Item("b", None, "an attribute is not UTF-8"),
            Item("c", "title is ü"),
            Item("d", None, "no usable attribute"),
        ]
    ]


def test_a_parents_manifest_that_leads_outside_is_not_followed(tmp_path):
    outside = pa.table({"item_id": ["a"], "prompt_hash": [prompt_hash("x")]})
    entry = storage.write_table(str(tmp_path / "outside.parquet"), outside)
    parent = Parent(str(tmp_path / "parent"), (entry | {"file": "../outside.parquet"},), 4)
    with pytest.raises(InputError, match="expected a file of the folder itself"):
        parent_hashes(SimpleNamespace(parent=parent, num_buckets=1), 0)
