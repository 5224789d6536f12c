import numpy as np
import pyarrow as pa
import pytest

from llmemb.data.dataset import Dataset
from llmemb.encoder.folder import EncoderFolder
from llmemb.encoder.torch_engine import load_tokenizer
from llmemb.prompts import PromptTemplate
from llmemb.scft.items import ItemTexts, survey, write_items

TEMPLATE = PromptTemplate.model_validate({"attributes": ["title", "brand"]})


@pytest.fixture(scope="module")
def dataset(tiny_dataset) -> Dataset:
    return Dataset.open(tiny_dataset)


@pytest.fixture(scope="module")
def items(dataset, tiny_encoder, tmp_path_factory) -> ItemTexts:
    path = tmp_path_factory.mktemp("items") / "items.arrow"
    write_items(dataset, TEMPLATE, path)
    tokenizer = load_tokenizer(EncoderFolder.read(tiny_encoder).path)
    return ItemTexts(path, TEMPLATE, tokenizer, max_seq_len=64)


def test_the_items_are_the_catalogues_that_have_a_clause_in_its_order(dataset, items):
    catalogue = dataset.items(["item_id", "title"])
    usable = [row for row, title in enumerate(catalogue["title"].to_pylist()) if title is not None]
    assert len(items) == len(usable) == 38
    assert items.catalogue_rows.tolist() == usable
    assert items.item_ids(np.array([0, 37, 5])) == [catalogue["item_id"][usable[at]].as_py() for at in (0, 37, 5)]


def test_prompts_and_survey_are_the_templates(dataset, items, tiny_encoder):
    expected = [text for text in TEMPLATE.render_batch(dataset.items(TEMPLATE.columns)) if text]
    assert survey(dataset, TEMPLATE, 3) == (38, expected[:3])
    tokenizer = load_tokenizer(tiny_encoder)
    assert items.prompts(np.array([4, 2])) == [tokenizer(expected[at])["input_ids"] for at in (4, 2)]


def test_views_are_the_same_whatever_items_are_asked_for_beside(items):
    def views(asked):
        both = items.views(np.array(asked), seed=1, epoch=3, drop_ratio=0.5)
        return dict(zip(asked, zip(both[: len(asked)], both[len(asked) :], strict=True), strict=True))

    together = views(list(range(38)))
    assert views([7, 30, 2]) == {item: together[item] for item in (7, 30, 2)}
    assert any(first != second for first, second in together.values())


def test_equal_are_items_whose_full_prompts_read_the_same(dataset, items):
    prompts = [text for text in TEMPLATE.render_batch(dataset.items(TEMPLATE.columns)) if text]
    equal = items.equal(np.arange(38))
    assert equal.tolist() == [[first == second for second in prompts] for first in prompts]
    assert equal.sum() > 38


def test_the_file_is_mapped_and_not_read(items):
    before = pa.total_allocated_bytes()
    items.prompts(np.array([0]))
    assert sum(column.nbytes for column in items._table.columns) > 1000
    assert pa.total_allocated_bytes() - before < 1000
