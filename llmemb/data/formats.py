"""The formats that ``prepare`` reads: a user's own tables, and public data sets in the layout they are published in.

A format says how each of its two kinds of file is cut into records, what its fields are called here, and how a
catalogue record becomes attributes: numbers, texts and lists of texts, without what no prompt can use.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmemb.data.records import Delimited, JsonDocument, JsonLines, Record, Syntax, UserLines

FormatName = Literal[
    "table",
    "amazon-2014",
    "amazon-2018",
    "amazon-2023",
    "yelp",
    "yelp-challenge-2013",
    "movielens-1m",
    "movielens-20m",
    "steam",
    "recbole",
    "llmemb",
]


@dataclass(frozen=True)
class TableFormat:
    """One of a format's two kinds of file.

    Attributes:
        syntaxes: By the file's suffix; Parquet has none and is read by columns.
        names: What the file calls ``user_id``, ``item_id``, ``timestamp`` and ``rating``, where it differs.
    """

    syntaxes: Mapping[str, Syntax | None]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def suffixes(self) -> tuple[str, ...]:
        return tuple(self.syntaxes)


@dataclass(frozen=True)
class Format:
    """A format's interactions and items.

    Attributes:
        attributes: A catalogue record's attributes, and ``item_id``.
        timestamp_unit: What whole-number timestamps count.
        has_order: Whether rows carry what orders them; else their place does.
        id_map: A file beside the interactions that says which ids its numbers stand for.
    """

    interactions: TableFormat
    items: TableFormat
    attributes: Callable[[Record], Record] = dict
    timestamp_unit: Literal["s", "ms"] = "s"
    has_order: bool = True
    id_map: str | None = None


def _flat_categories(paths: Any) -> list[str]:
    """``[["A", "B"], ["A", "C"]]`` as ``A, B, C``."""
    if not isinstance(paths, (list, tuple)):
        return [paths] if isinstance(paths, str) else []
    names = [name for path in paths for name in (path if isinstance(path, (list, tuple)) else [path])]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _price(value: Any) -> float | None:
    """``$1,234.50`` as a number; None for ranges and words."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if isinstance(value, float) or abs(value) < 10**300 else None
    found = re.fullmatch(r"\s*\$?\s*(\d[\d,]{0,15}(?:\.\d+)?)\s*", value) if isinstance(value, str) else None
    return float(found[1].replace(",", "")) if found else None


def _rank(value: Any) -> int | None:
    """The first number of a sales rank: ``{"Toys": 5}``, ``5,120 in Toys (``, ``[">#5 in Toys"]``."""
    if isinstance(value, dict):
        return next((rank for rank in value.values() if isinstance(rank, int)), None)
    if isinstance(value, list):
        return _rank(value[0]) if value else None
    found = re.search(r"\d[\d,]{0,15}", value) if isinstance(value, str) else None
    return int(found[0].replace(",", "")) if found else None


def _only(record: Record, *names: str) -> Record:
    return {name: record[name] for name in names if name in record}


def _amazon_2014(record: Record) -> Record:
    return _only(record, "item_id", "title", "brand") | {
        "categories": _flat_categories(record.get("categories")),
        "price": _price(record.get("price")),
        "description": record.get("description"),
        "sales_rank": _rank(record.get("salesRank")),
    }


def _amazon_2018(record: Record) -> Record:
    brand = record.get("brand")
    return _only(record, "item_id", "title") | {
        "brand": re.sub(r"^by\s+", "", brand).strip() if isinstance(brand, str) else brand,
        "categories": _flat_categories(record.get("category")),
        "price": _price(record.get("price")),
        "features": record.get("feature"),
        "description": record.get("description"),
        "main_category": record.get("main_cat"),
        "sales_rank": _rank(record.get("rank")),
    }


def _amazon_2023(record: Record) -> Record:
    names = ("item_id", "title", "store", "main_category", "categories", "features", "description", "details")
    return (
        _only(record, *names)
        | {"price": _price(record.get("price"))}
        | _only(record, "average_rating", "rating_number")
    )


def _yelp(record: Record) -> Record:
    categories = record.get("categories")
    names = ("item_id", "name", "address", "city", "state", "postal_code", "attributes", "latitude", "longitude")
    return _only(record, *names, "is_open", "stars", "review_count") | {
        "categories": [name.strip() for name in categories.split(",")] if isinstance(categories, str) else categories
    }


def _yelp_2013(record: Record) -> Record:
    names = ("item_id", "name", "categories", "neighborhoods", "full_address", "city", "state", "latitude", "longitude")
    return _only(record, *names, "open", "stars", "review_count")


def _movielens(record: Record) -> Record:
    genres = record.get("genres")
    names = genres.split("|") if isinstance(genres, str) else []
    return _only(record, "item_id", "title") | {"genres": [name for name in names if name != "(no genres listed)"]}


def _steam(record: Record) -> Record:
    names = ("genres", "tags", "specs", "developer", "publisher", "release_date", "early_access", "sentiment")
    price = record.get("price")
    is_free = isinstance(price, str) and price.strip().lower().startswith("free")
    return {
        **_only(record, "item_id"),
        "title": record.get("title") or record.get("app_name"),
        **_only(record, *names),
        "price": 0.0 if is_free else _price(price),
        "metascore": _price(record.get("metascore")),
    }


_JSON, _LOOSE = JsonLines(), JsonLines(loose=True)
_OWN = {".parquet": None, ".csv": Delimited(), ".tsv": Delimited(delimiter="\t")} | dict.fromkeys(
    (".jsonl", ".ndjson", ".json"), _JSON
)
_YELP_NAMES = {"item_id": "business_id", "rating": "stars", "timestamp": "date"}
_AMAZON_REVIEW = {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"}


def _amazon_ratings(*names: str) -> Delimited:
    """The ratings-only files, which have no first line of names; the reviews' names, so that both read alike."""
    return Delimited(names=tuple(_AMAZON_REVIEW[name] for name in names))


def _movielens_dat(*names: str) -> Delimited:
    return Delimited(delimiter="::", names=names, quoted=False, encoding="latin-1")


def _json_table(syntax: Syntax, names: Mapping[str, str], **others: Syntax) -> TableFormat:
    return TableFormat(
        {".json": syntax, ".jsonl": syntax} | {f".{name}": other for name, other in others.items()}, names
    )


FORMATS: Mapping[FormatName, Format] = {
    "table": Format(TableFormat(_OWN), TableFormat(_OWN)),
    "amazon-2014": Format(
        _json_table(_LOOSE, _AMAZON_REVIEW, csv=_amazon_ratings("user_id", "item_id", "rating", "timestamp")),
        _json_table(_LOOSE, {"item_id": "asin"}),
        _amazon_2014,
    ),
    "amazon-2018": Format(
        _json_table(_JSON, _AMAZON_REVIEW, csv=_amazon_ratings("item_id", "user_id", "rating", "timestamp")),
        _json_table(_JSON, {"item_id": "asin"}),
        _amazon_2018,
    ),
    "amazon-2023": Format(
        _json_table(_JSON, {"item_id": "parent_asin"}, csv=Delimited()),
        _json_table(_JSON, {"item_id": "parent_asin"}),
        _amazon_2023,
        timestamp_unit="ms",
    ),
    "yelp": Format(_json_table(_JSON, _YELP_NAMES), _json_table(_JSON, {"item_id": "business_id"}), _yelp),
    "yelp-challenge-2013": Format(
        _json_table(_JSON, _YELP_NAMES), _json_table(_JSON, {"item_id": "business_id"}), _yelp_2013
    ),
    "movielens-1m": Format(
        TableFormat({".dat": _movielens_dat("user_id", "item_id", "rating", "timestamp")}),
        TableFormat({".dat": _movielens_dat("item_id", "title", "genres")}),
        _movielens,
    ),
    "movielens-20m": Format(
        TableFormat({".csv": Delimited()}, {"user_id": "userId", "item_id": "movieId"}),
        TableFormat({".csv": Delimited()}, {"item_id": "movieId"}),
        _movielens,
    ),
    "steam": Format(
        _json_table(_LOOSE, {"user_id": "username", "item_id": "product_id", "timestamp": "date", "rating": "hours"}),
        _json_table(_LOOSE, {"item_id": "id"}),
        _steam,
    ),
    "recbole": Format(
        TableFormat({".inter": Delimited(delimiter="\t", quoted=False, typed=True)}),
        TableFormat({".item": Delimited(delimiter="\t", quoted=False, typed=True)}),
    ),
    "llmemb": Format(
        TableFormat({".txt": UserLines()}),
        TableFormat({".json": JsonDocument(key="item_id")}),
        has_order=False,
        id_map="id_map.json",
    ),
}
