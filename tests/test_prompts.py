"""How an item reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_absent_column_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match="catalogue has no column 'price'; it has item_id, title, categories"):
        TEMPLATE.check_columns(["item_id", "title", "categories"], "catalogue")


def test_hash_depends_on_the_text_alone() -> None:
    # printf 'title is Sencha' | sha256sum | cut -c-32
    assert prompt_hash("title is Sencha") == "4a33e5555071cb99d163fa0068b1cad3"


@given(item=st.dictionaries(st.sampled_from(["title", "categories", "price", "other"]), VALUES))
def test_any_item_reads_as_one_line_or_not_at_all(item: dict[str, object]) -> None:
    prompt = TEMPLATE.render(item)
    assert prompt is None or ("\n" not in prompt and " is " in prompt)
    assert (prompt is None) == (TEMPLATE.clauses(item) == [])
