"""Malformed rows, in every format: each row is used, or counted as refused with its reason; nothing else happens."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmemb.data.config import PrepareConfig
from llmemb.data.dataset import Dataset
from llmemb.data.files import find_files
from llmemb.data.interactions import InteractionReader
from llmemb.data.parts import parts_of
from llmemb.data.passes import Work, count_items, shuffled_catalogue, spill_items
from llmemb.data.prepare import run_prepare
from llmemb.data.refusals import Refusals
from llmemb.errors import InputError

BIG = "x" * 10_000_000


@dataclass(frozen=True)
class Layout:
    """A good row of each table as bytes, and where a value goes in it."""

    interaction: Callable[[Any, Any, Any], bytes]
    item: Callable[[Any, Any], bytes]
    interactions_name: str
    items_name: str
    header: bytes = b""
    items_header: bytes = b""


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _text(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def _joined(delimiter: bytes) -> Callable[..., bytes]:
    return lambda *values: delimiter.join(map(_text, values))


LAYOUTS = {
    "table csv": Layout(
        _joined(b","), _joined(b","), "log.csv", "items.csv", b"user_id,item_id,timestamp\n", b"item_id,title\n"
    ),
    "table jsonl": Layout(
        lambda user, item, at: _json(user_id=user, item_id=item, timestamp=at),
        lambda item, title: _json(item_id=item, title=title),
        "log.jsonl",
        "items.jsonl",
    ),
    "amazon-2014": Layout(
        lambda user, item, at: repr({"reviewerID": user, "asin": item, "unixReviewTime": at}).encode(),
        lambda item, title: repr({"asin": item, "title": title}).encode(),
        "reviews.json",
        "meta.json",
    ),
    "amazon-2018": Layout(
        lambda user, item, at: _json(reviewerID=user, asin=item, unixReviewTime=at),
        lambda item, title: _json(asin=item, title=title, price=title, rank=title, category=title),
        "reviews.json",
        "meta.json",
    ),
    "amazon-2023": Layout(
        lambda user, item, at: _json(user_id=user, parent_asin=item, timestamp=at),
        lambda item, title: _json(parent_asin=item, title=title, price=title, details=title),
        "reviews.jsonl",
        "meta.jsonl",
    ),
    "yelp": Layout(
        lambda user, item, at: _json(user_id=user, business_id=item, date=at),
        lambda item, title: _json(business_id=item, name=title, categories=title, attributes=title),
        "review.json",
        "business.json",
    ),
    "yelp-challenge-2013": Layout(
        lambda user, item, at: _json(user_id=user, business_id=item, date=at),
        lambda item, title: _json(business_id=item, name=title, neighborhoods=title),
        "review.json",
        "business.json",
    ),
    "movielens-1m": Layout(
        lambda user, item, at: _joined(b"::")(user, item, 5, at),
        lambda item, title: _joined(b"::")(item, title, "Drama"),
        "ratings.dat",
        "movies.dat",
    ),
    "movielens-20m": Layout(
        lambda user, item, at: _joined(b",")(user, item, 5, at),
        lambda item, title: _joined(b",")(item, title, "Drama"),
        "ratings.csv",
        "movies.csv",
        b"userId,movieId,rating,timestamp\n",
        b"movieId,title,genres\n",
    ),
    "steam": Layout(
        lambda user, item, at: repr({"username": user, "product_id": item, "date": at}).encode(),
        lambda item, title: repr({"id": item, "title": title, "price": title, "genres": title}).encode(),
        "reviews.json",
        "games.json",
    ),
    "recbole": Layout(
        _joined(b"\t"),
        _joined(b"\t"),
        "x.inter",
        "x.item",
        b"user_id:token\titem_id:token\ttimestamp:float\n",
        b"item_id:token\ttitle:token_seq\n",
    ),
}

USERS = st.sampled_from(["u", "v", "é"])
ITEMS = st.sampled_from(["a", "b", "007"])
ODD = st.sampled_from(
    [None, "", 7, -1, 1.5, True, [], ["x"], {"k": "v"}, "\x00", "\ud800", "x" * 2000, 10**30, float("nan"), "a,b", 'q"']
) | st.text(max_size=8)
TIMES = st.sampled_from([1, 2, "2020-01-01", -5, 10**15, "soon", None, "", 1e308, float("inf"), [1], 2**63]) | ODD
BROKEN = st.sampled_from(
    [b"{", b"[1, 2]", b"null", b"{'a': }", b'{"user_id": "u", "user_id": "v"}', b"\xff\xfe\x00", b"\x00", b'"', b"::",
     b'{"a": 1e999999}', b"{" * 5000, b"u", b",,,,,", b"\t", b'{"item_id": "\\ud800"}', b"__import__('os')", b"   "]
) | st.binary(max_size=30)  # fmt: skip


def _encoded(row: Callable[..., bytes], *values: Any) -> bytes:
    try:
        return row(*values)
    except (UnicodeEncodeError, TypeError):
        return b"\xed\xa0\x80"  # a surrogate's bytes, which no encoding of text allows


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=40)
@given(data=st.data())
def test_every_row_is_used_or_counted(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    layout, folder = LAYOUTS[name], tmp_path_factory.mktemp("rows")
    good = [layout.interaction(user, item, at) for user, item, at in [("u", "a", 1), ("u", "b", 2), ("w", "007", 3)]]
    values = st.tuples(USERS | ODD, ITEMS | ODD, TIMES).map(lambda values: _encoded(layout.interaction, *values))
    log = [*good, *data.draw(st.lists(values | BROKEN, max_size=6))]
    item_values = st.tuples(ITEMS | ODD, ODD).map(lambda values: _encoded(layout.item, *values))
    items = [layout.item(item, "T") for item in ("a", "b", "007")]
    items += data.draw(st.lists(item_values | BROKEN, max_size=4))
    work = _work(folder, name.split()[0], layout, log, items)

    (part,) = parts_of(find_files(work.config.interactions, []), bytes_per_part=2**20)
    reader = InteractionReader(work.config.format, work.config.interaction_columns)
    frame = pl.concat(reader.frames(part))
    _check(reader.refusals, frame.height, [layout.header, *log] if layout.header else log)
    assert frame.null_count().sum_horizontal()[0] == 0
    assert {("u", "a"), ("u", "b"), ("w", "007")} <= set(frame.select("user_id", "item_id").iter_rows())

    (part,) = parts_of(find_files(work.config.items, []), bytes_per_part=2**20)
    record = spill_items(0, [part], work)
    shuffle = shuffled_catalogue([record], work)
    again = count_items(0, shuffle, [work.config.items])
    refusals = Refusals.merge([record["refusals"], again["refusals"]])
    table = shuffle.table(0, 1)
    _check(refusals, table.num_rows, [layout.items_header, *items] if layout.items_header else items)
    assert table.num_rows == again["items"]
    assert {"a", "b", "007"} <= set(table["item_id"].to_pylist())  # what is good stays, whatever stands beside it


def _check(refusals: Refusals, used: int, lines: list[bytes]) -> None:
    assert used + refusals.total == refusals.rows
    assert all(refusals.counts.values())
    # Every reason has an example, and every example is a line of the file.
    num_lines = b"\n".join(lines).count(b"\n") + 1
    assert {example["reason"] for example in refusals.examples} == set(refusals.counts)
    assert all(1 <= example["row"] <= num_lines for example in refusals.examples)
    if not any(b'"' in line or b"\n" in line for line in lines):  # else a row may span lines
        header = lines[0].strip() and lines[0].endswith(b"\n")
        assert refusals.rows == sum(bool(line.strip()) for line in lines) - bool(header)


def _work(folder: Path, format_name: str, layout: Layout, interactions: list[bytes], items: list[bytes]) -> Work:
    (folder / layout.interactions_name).write_bytes(layout.header + b"\n".join(interactions))
    (folder / layout.items_name).write_bytes(layout.items_header + b"\n".join(items))
    values = {
        "format": format_name,
        "interactions": str(folder / layout.interactions_name),
        "items": str(folder / layout.items_name),
        "output": str(folder / "dataset"),
        "filters": {"min_user_interactions": 0},
        "refused_rows": {"max_share": 1.0},
    }
    return Work(str(folder / "work"), PrepareConfig.model_validate(values), 1)


def _prepare(folder: Path, format_name: str, layout: Layout, interactions: list[bytes], items: list[bytes]) -> Dataset:
    run_prepare(_work(folder, format_name, layout, interactions, items).config)
    return Dataset.open(str(folder / "dataset"))


@pytest.mark.parametrize("name", ["table csv", "table jsonl", "amazon-2014", "recbole"])
def test_huge_values_and_lines_are_used_or_counted(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    log = [layout.interaction("u", "a", 1), layout.interaction(BIG, "a", 2), layout.interaction("u", BIG, 3)]
    log += [b"x" * 17 * 2**20, layout.interaction("u", "b", 4)]
    items = [layout.item("a", BIG), layout.item(BIG, "T"), layout.item("b", "T")]
    dataset = _prepare(tmp_path, name.split()[0], layout, log, items)
    assert dataset.info["refused_rows"]["interactions"]["rows"] == 5
    reasons = Counter(dataset.info["refused_rows"]["interactions"]["counts"])
    assert reasons.pop("longer than 16 MiB") == 1
    assert sum(number for reason, number in reasons.items() if reason.endswith("longer than 1,024 bytes")) == 2
    assert sorted(dataset.item_ids) == ["a", "b"]
    assert len(dataset.sequences.items) == 2


@settings(max_examples=20)
@given(
    users=st.lists(st.sampled_from(["u", "", None, "\x00", "v" * 2000]), min_size=3, max_size=12),
    times=st.lists(st.sampled_from([1.0, -3.0, 1e300, float("nan"), None, 5e9, 2.0**63]), min_size=12, max_size=12),
)
def test_every_parquet_row_is_used_or_counted(
    tmp_path_factory: pytest.TempPathFactory, users: list[str | None], times: list[float | None]
) -> None:
    file = str(tmp_path_factory.mktemp("rows") / "log.parquet")
    users, times = ["u", *users[1:]], [1.0, *times[1 : len(users)]]
    log = pa.table({"user_id": users, "item_id": ["a"] * len(users), "timestamp": pa.array(times, pa.float64())})
    pq.write_table(log, file, row_group_size=3)
    values = {"items": "unused", "interactions": file, "output": "unused"}
    reader = InteractionReader("table", PrepareConfig.model_validate(values).interaction_columns)
    parts = parts_of(find_files(file, []), bytes_per_part=1)
    frame = pl.concat(frame for part in parts for frame in reader.frames(part))
    usable = [row for row, (user, at) in enumerate(zip(users, times, strict=True), start=1) if (user, at) == ("u", 1.0)]
    assert frame["__place__"].to_list() == [row - 1 for row in usable]
    assert reader.refusals.rows == len(users)
    assert reader.refusals.total == len(users) - len(usable)
    assert len(parts) == -(-len(users) // 3)


def test_time_at_the_end_of_the_integers_is_refused_beside_fractions(tmp_path: Path) -> None:
    layout = LAYOUTS["table jsonl"]
    log = [layout.interaction("u", "a", at) for at in (1.5, 2**63 - 1, 2)]
    dataset = _prepare(tmp_path, "table", layout, log, [layout.item("a", "T")])
    assert dataset.info["refused_rows"]["interactions"]["counts"] == {
        "timestamp after 2099: are these seconds (columns.timestamp_unit)?": 1
    }
    assert len(dataset.sequences.items) == 2


def test_price_beyond_all_floats_is_missing(tmp_path: Path) -> None:
    layout = LAYOUTS["amazon-2018"]
    items = [layout.item("a", 10**400), layout.item("b", 7)]
    dataset = _prepare(tmp_path, "amazon-2018", layout, [layout.interaction("u", "a", 1)], items)
    assert sorted(dataset.items()["price"].to_pylist(), key=str) == [7.0, None]


def test_parquet_text_that_is_not_utf8_costs_its_own_row(tmp_path: Path) -> None:
    def texts(*values: bytes) -> pa.Array:
        return pa.array(values).view(pa.string())

    log = {"user_id": texts(b"u", b"u\xff", b"u"), "item_id": ["a", "a", "b"], "timestamp": [1, 2, 3]}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    items = {"item_id": ["a", "b", "c", "d"], "title": texts(b"A", b"B", b"\xed\xa0\x80", b"D")}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    values = {
        "items": str(tmp_path / "items.parquet"),
        "interactions": str(tmp_path / "log.parquet"),
        "output": str(tmp_path / "dataset"),
        "filters": {"min_user_interactions": 0},
        "refused_rows": {"max_share": 0.5},
    }
    run_prepare(PrepareConfig.model_validate(values))
    dataset = Dataset.open(values["output"])
    for table, row in (("interactions", 2), ("items", 3)):
        report = dataset.info["refused_rows"][table]
        assert report["counts"] == {"not UTF-8": 1}
        assert report["examples"][0]["row"] == row
    assert (sorted(dataset.item_ids), len(dataset.sequences.items)) == (["a", "b", "d"], 2)


def test_quote_that_never_closes_costs_its_own_row(tmp_path: Path) -> None:
    layout = LAYOUTS["table csv"]
    log = [b"u,a,1", b'u,"a,2', *(b"u,a,%d" % at for at in range(3, 2000)), b'u,"b",2000']
    dataset = _prepare(tmp_path, "table", layout, log, [b"a,T", b'b,"two\nlines"'])
    assert dataset.info["refused_rows"]["interactions"]["counts"] == {"not a record: broken quotes": 1}
    assert len(dataset.sequences.items) == 1999
    assert dataset.items().filter(pa.compute.field("item_id") == "b")["title"].to_pylist() == ["two\nlines"]


def test_record_with_two_ids_is_refused(tmp_path: Path) -> None:
    items = [_json(asin="a", title="A"), _json(asin="b", item_id="z", title="B"), _json(asin="c", title="C")]
    layout = LAYOUTS["amazon-2018"]
    dataset = _prepare(tmp_path, "amazon-2018", layout, [layout.interaction("u", "a", 1)], items)
    refused = dataset.info["refused_rows"]["items"]
    assert refused["counts"] == {"item_id beside asin, which is the id (columns.item_id)": 1}
    assert refused["examples"][0]["row"] == 2
    assert sorted(dataset.item_ids) == ["a", "c"]


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        (r"u'\U0000d800'", "not valid Unicode"),
        ("{1, 2}", "username is neither text nor a whole number"),
        ("1j", "username is neither text nor a whole number"),
        ("...", "username is neither text nor a whole number"),
    ],
)
def test_python_literal_that_no_json_could_be_costs_its_own_row(tmp_path: Path, user: str, reason: str) -> None:
    layout = LAYOUTS["steam"]
    good, bad = layout.interaction("u", "a", 1), f"{{'username': {user}, 'product_id': 'a', 'date': 2}}".encode()
    dataset = _prepare(tmp_path, "steam", layout, [good, bad], [b"{'id': 'a'}", b"{'id': 'b', 'title': '\\U0000dfff'}"])
    refused = dataset.info["refused_rows"]
    assert (refused["interactions"]["counts"], refused["items"]["counts"]) == ({reason: 1}, {"not valid Unicode": 1})
    assert (dataset.item_ids, len(dataset.sequences.items)) == (["a"], 1)


def test_program_text_is_not_run(tmp_path: Path) -> None:
    layout = LAYOUTS["steam"]
    canary = tmp_path / "canary"
    attack = f"{{'username': __import__('pathlib').Path({str(canary)!r}).touch(), 'product_id': 'a'}}".encode()
    dataset = _prepare(tmp_path, "steam", layout, [layout.interaction("u", "a", 1), attack], [b"{'id': 'a'}"])
    assert dataset.info["refused_rows"]["interactions"]["counts"] == {"not a record: broken JSON": 1}
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table csv", b"\xff\xfeu\x00s\x00", "its first line does not name the fields: not UTF-8"),
        ("table csv", b"user_id,user_id\n", "names a field twice"),
        ("recbole", b"user_id\titem_id\nu\ta\n", "expected a first line of name:type fields"),
        ("table jsonl", b"", "no interactions; expected one row per interaction"),
        ("amazon-2023", b"PK\x03\x04 a zip\n", "1 of 1 rows cannot be used"),
    ],
)
def test_file_that_is_bad_as_a_whole_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    layout = LAYOUTS[name]
    (tmp_path / layout.interactions_name).write_bytes(content)
    (tmp_path / layout.items_name).write_bytes(layout.items_header + layout.item("a", "T"))
    values = {
        "format": name.split()[0],
        "interactions": str(tmp_path / layout.interactions_name),
        "items": str(tmp_path / layout.items_name),
        "output": str(tmp_path / "dataset"),
    }
    with pytest.raises(InputError, match=message) as caught:
        run_prepare(PrepareConfig.model_validate(values))
    assert "\n" not in str(caught.value)
