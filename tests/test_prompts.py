"""How an item reads."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmemb import storage
from llmemb.errors import InputError
from llmemb.prompts import PromptTemplate, prompt_hash

TEMPLATE = PromptTemplate.model_validate(
    {"attributes": ["title", {"name": "categories", "label": "category", "max_characters": 12}, "price"]}
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


def test_clauses_follow_the_template_not_the_item() -> None:
    item = {"price": 9.99, "brand": "unused", "categories": ["Tea", "Green"], "title": "Sencha"}
    assert TEMPLATE.render(item) == "title is Sencha; category is Tea, Green; price is 9.99"


@pytest.mark.parametrize("empty", [None, "", "  \n", float("nan"), [], ["", None, " "]])
def test_attribute_without_a_value_gives_no_clause(empty: object) -> None:
    assert TEMPLATE.render({"title": empty, "price": 1}) == "price is 1"
    assert TEMPLATE.render({"title": empty}) is None


def test_value_is_capped_without_a_trailing_space() -> None:
    assert TEMPLATE.clauses({"categories": "Green tea   leaves"}) == ["category is Green tea le"]
    assert TEMPLATE.clauses({"categories": "Green green leaves"}) == ["category is Green green"]


@pytest.mark.parametrize(
    ("value", "text"), [(5.0, "5"), (5.04, "5.04"), (1e9, "1e+09"), (0, "0"), (False, "False"), ("a\n b", "a b")]
)
def test_value_reads_as(value: object, text: str) -> None:
    assert TEMPLATE.clauses({"title": value}) == [f"title is {text}"]


def test_shape_of_the_prompt_is_configuration() -> None:
    template = PromptTemplate.model_validate(
        {"attributes": ["a", "b"], "instruction": "Item: ", "clause": "{label}={value}", "clause_separator": " | "}
    )
    assert template.render({"a": ["x", "y"], "b": "{value}"}) == "Item: a=x, y | b={value}"


@pytest.mark.parametrize(
    "clause", ["{name}: {value}", "{label}", "{value", "{} {value}", "{value:d}", "{value[a]}", "{value.upper}"]
)
def test_clause_must_show_the_value(clause: str) -> None:
    with pytest.raises(ValueError, match=r"expected text with .*{value}"):
        PromptTemplate.model_validate({"attributes": ["a"], "clause": clause})


def test_clauses_may_stand_without_a_separator() -> None:
    template = PromptTemplate.model_validate(
        {"attributes": ["a", "b"], "clause": "{label} is {value}. ", "clause_separator": ""}
    )
    assert template.render({"a": "Green tea", "b": 1}) == "a is Green tea. b is 1. "


def test_absent_column_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match="catalogue has no column 'price'; it has item_id, title, categories"):
        TEMPLATE.check_columns(["item_id", "title", "categories"], "catalogue")


def test_an_attribute_may_be_shown_twice_and_is_read_once() -> None:
    template = PromptTemplate.model_validate({"attributes": ["title", "brand", {"name": "title", "label": "called"}]})
    items = pa.table({"brand": ["Ito"], "title": ["Sencha"]}).select(template.columns)
    assert items.column_names == ["title", "brand"]
    assert template.render_batch(items) == ["title is Sencha; brand is Ito; called is Sencha"]


def test_hash_depends_on_the_text_alone() -> None:
    # printf 'title is Sencha' | sha256sum | cut -c-32
    assert prompt_hash("title is Sencha") == "4a33e5555071cb99d163fa0068b1cad3"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Salt &amp; Pepper&#39;s&nbsp;mill", "Salt & Pepper's mill"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("a\x00b\x1b[31m", "ab[31m"),
        ("Mug; brand is Fake", "Mug, brand is Fake"),
        ({"Brand": "X", "Size": None, "Count": 2.0}, "Brand: X, Count: 2"),
        ([["a"], [], ["b", 1]], "a, b, 1"),
    ],
)
def test_text_is_cleaned(value: object, text: str) -> None:
    assert TEMPLATE.clauses({"title": value}) == [f"title is {text}"]


def test_cleaning_can_be_turned_off() -> None:
    raw = TEMPLATE.model_copy(update={"html_entities": "keep", "unicode": "keep", "separators_in_values": "keep"})
    assert raw.render({"title": "Cafe\u0301 &amp; Bar; x"}) == "title is Cafe\u0301 &amp; Bar; x"


def test_attributes_say_how_they_read() -> None:
    template = PromptTemplate.model_validate(
        {
            "attributes": [
                {"name": "tags", "max_entries": 2},
                {"name": "price", "number_format": ".2f", "missing": "unknown"},
                {"name": "stock", "number_format": ",.0f"},
            ]
        }
    )
    assert (
        template.render({"tags": ["a", "", "b", "c"], "stock": 12000})
        == "tags is a, b; price is unknown; stock is 12,000"
    )
    assert template.render({"tags": [], "price": 3}) == "price is 3.00"
    assert template.render({"tags": None}) is None  # what is said of a missing value is no value


def test_cap_in_tokens_counts_by_the_templates_tokenizer(tiny_encoder: Path) -> None:
    attributes = [{"name": "title", "max_tokens": 3}]
    template = PromptTemplate.model_validate({"attributes": attributes, "tokenizer": str(tiny_encoder)})
    assert template.clauses({"title": "red, table very long"}) == ["title is red, table"]  # red | , | table
    assert template.clauses({"title": "red table"}) == ["title is red table"]
    with pytest.raises(ValueError, match="expected a tokenizer"):
        PromptTemplate.model_validate({"attributes": attributes})


def test_a_tokenizer_in_a_store_comes_without_the_weights(
    tiny_encoder: Path, object_stores: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "s3://plain/tokenizer-of-a-template"
    storage.upload(tiny_encoder, uri)
    read: list[str] = []
    whole = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda file: read.append(storage.name(file)) or whole(file))
    attributes = [{"name": "title", "max_tokens": 1}]
    template = PromptTemplate.model_validate({"attributes": attributes, "tokenizer": uri})
    assert template.clauses({"title": "red table"}) == ["title is red"]
    assert "tokenizer.json" in read
    assert "model.safetensors" not in read


def test_zero_has_no_sign_alone_and_in_a_batch() -> None:
    template = PromptTemplate.model_validate({"attributes": ["price", {"name": "cost", "number_format": ".1f"}]})
    prompt = "price is 0; cost is 0.0"
    for zeros in ([0.0, -0.0], [-0.0, 0.0]):
        assert template.render_batch(pa.table({"price": zeros, "cost": zeros})) == [prompt, prompt]
    assert template.render({"price": -0.0, "cost": -0.0}) == prompt


@given(
    items=st.lists(
        st.fixed_dictionaries(
            {
                "title": st.none() | st.text(),
                "categories": st.none() | st.lists(st.none() | st.text(max_size=4), max_size=3),
                "price": st.none() | st.floats(),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_batches_read_as_their_rows_and_values_never_look_like_clauses(items: list[dict[str, Any]]) -> None:
    types = {"title": pa.string(), "categories": pa.list_(pa.string()), "price": pa.float64()}
    table = pa.Table.from_pylist(items, pa.schema(types.items()))
    prompts = TEMPLATE.render_batch(table)
    assert prompts == [TEMPLATE.render(item) for item in items]
    for clauses, prompt in zip(TEMPLATE.clauses_batch(table), prompts, strict=True):
        assert (prompt or "").split("; ") == (clauses or [""])


@given(item=st.dictionaries(st.sampled_from(["title", "categories", "price", "other"]), VALUES))
def test_any_item_reads_as_one_line_or_not_at_all(item: dict[str, object]) -> None:
    prompt = TEMPLATE.render(item)
    assert prompt is None or ("\n" not in prompt and " is " in prompt)
    assert (prompt is None) == (TEMPLATE.clauses(item) == [])
