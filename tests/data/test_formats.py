"""Each declared format, on files written as the data set is published, down to quotes and quirks."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmemb import storage
from llmemb.data.config import PrepareConfig
from llmemb.data.dataset import Dataset
from llmemb.data.prepare import run_prepare
from llmemb.errors import InputError


def _amazon_2014(folder: Path) -> tuple[str, str]:
    """Reviews are JSON; metadata are Python literals with single quotes."""
    review = (
        '{"reviewerID": "%s", "asin": "%s", "reviewerName": "J. \\"M\\"", "helpful": [2, 3], "reviewText": "Nice.", '
        '"overall": %.1f, "summary": "Good", "unixReviewTime": %d, "reviewTime": "09 13, 2009"}'
    )
    rows = [("U1", "0000031852", 5.0, 1252800000), ("U1", "B00002", 4.0, 1252800001), ("U1", "B00003", 1.0, 1252800002)]
    with gzip.open(folder / "reviews_Toys.json.gz", "wt") as file:
        file.write("\n".join(review % row for row in rows) + "\n")
    items = [
        "{'asin': '0000031852', 'title': 'Girls Ballet Tutu Zebra Hot Pink', 'price': 3.17, "
        "'imUrl': 'http://ecx.images-amazon.com/images/I/51fAmVkTbyL._SY300_.jpg', "
        "'related': {'also_bought': ['B00JHONN1S'], 'bought_together': ['B002BZX8Z6']}, "
        "'salesRank': {'Toys & Games': 211836}, 'brand': 'Coxlures', "
        "'categories': [['Sports & Outdoors', 'Dance'], ['Sports & Outdoors', 'Girls']]}",
        "{'asin': 'B00002', 'title': \"Mum's mug\", 'salesRank': {}, 'categories': [['Home']]}",
        "{'asin': 'B00003', 'description': 'It\\'s plain', 'categories': [[]]}",
    ]
    with gzip.open(folder / "meta_Toys.json.gz", "wt") as file:
        file.write("\n".join(items))
    return "reviews_Toys.json.gz", "meta_Toys.json.gz"


AMAZON_2014_ITEMS = {
    "0000031852": {
        "title": "Girls Ballet Tutu Zebra Hot Pink",
        "brand": "Coxlures",
        "categories": ["Sports & Outdoors", "Dance", "Girls"],
        "price": 3.17,
        "sales_rank": 211836,
    },
    "B00002": {"title": "Mum's mug", "categories": ["Home"]},
    "B00003": {"categories": [], "description": "It's plain"},
}


def _amazon_2014_ratings(folder: Path) -> tuple[str, str]:
    """The ratings-only file: user, item, rating, time, and no first line of names."""
    (folder / "ratings_Toys.csv").write_text(
        "U1,0000031852,5.0,1252800000\nU1,B00002,4.0,1252800001\nU1,B00003,1.0,1252800002\n"
    )
    return "ratings_Toys.csv", _amazon_2014(folder)[1]


def _amazon_2018(folder: Path) -> tuple[str, str]:
    reviews = [
        {"overall": 5.0, "verified": True, "reviewTime": "10 4, 2014", "reviewerID": "U1", "asin": asin,
         "style": {"Size:": " 7"}, "reviewText": "ok", "summary": "ok", "unixReviewTime": 1412380800 + at}
        for at, asin in enumerate(["B1", "B2", "B1"])
    ]  # fmt: skip
    (folder / "AMAZON_FASHION.json").write_text("\n".join(map(json.dumps, reviews)))
    items = [
        {"category": ["Clothing", "Shoes"], "tech1": "", "description": ["Soft", ""], "fit": "", "title": "Slippers",
         "also_buy": ["B9"], "image": [], "tech2": "", "brand": "by\n    Flip", "feature": ["Warm"],
         "rank": "13,052,976inClothing,Shoesamp;Jewelry(", "also_view": [], "details": {}, "main_cat": "Fashion",
         "similar_item": "", "date": "", "price": "$1,012.99", "asin": "B1"},
        {"category": [], "description": [], "title": "Hat", "brand": "", "feature": [],
         "rank": [">#5,120 in Toys (See top 100)"], "price": "$5.00 - $9.00", "asin": "B2"},
    ]  # fmt: skip
    (folder / "meta_AMAZON_FASHION.json").write_text("\n".join(map(json.dumps, items)))
    return "AMAZON_FASHION.json", "meta_AMAZON_FASHION.json"


def _amazon_2023(folder: Path) -> tuple[str, str]:
    """Times are milliseconds; an item is its parent_asin."""
    reviews = [
        {"rating": 5.0, "title": "Such a lovely scent", "text": "...", "images": [], "asin": "B00YQ6X8EO",
         "parent_asin": item, "user_id": "AGKHLEW2", "timestamp": 1588687728923 + 1000 * at, "helpful_vote": 0,
         "verified_purchase": True}
        for at, item in enumerate(["P1", "P2", "P1"])
    ]  # fmt: skip
    (folder / "All_Beauty.jsonl").write_text("\n".join(map(json.dumps, reviews)))
    items = [
        {"main_category": "All Beauty", "title": "Cream", "average_rating": 4.2, "rating_number": 15,
         "features": ["Formulation: Cream"], "description": [], "price": None, "images": [{"thumb": "x"}], "videos": [],
         "store": "Bissport", "categories": ["Skin Care"], "details": {"Brand": "Bissport", "Unit Count": "1.00"},
         "parent_asin": "P1", "bought_together": None},
        {"main_category": None, "title": "Soap", "average_rating": 3.0, "rating_number": 2, "features": [],
         "description": ["Clean"], "price": 9.99, "store": None, "categories": [], "details": {}, "parent_asin": "P2"},
    ]  # fmt: skip
    (folder / "meta_All_Beauty.jsonl").write_text("\n".join(map(json.dumps, items)))
    return "All_Beauty.jsonl", "meta_All_Beauty.jsonl"


def _yelp(folder: Path) -> tuple[str, str]:
    reviews = [
        {"review_id": f"r{at}", "user_id": "U1", "business_id": item, "stars": 4.0, "useful": 0, "funny": 0, "cool": 0,
         "text": "Good.", "date": f"2016-03-09 12:30:0{at}"}
        for at, item in enumerate(["b1", "b2", "b1"])
    ]  # fmt: skip
    (folder / "yelp_academic_dataset_review.json").write_text("\n".join(map(json.dumps, reviews)))
    items = [
        {"business_id": "b1", "name": "Garaje", "address": "475 3rd St", "city": "San Francisco", "state": "CA",
         "postal_code": "94107", "latitude": 37.78, "longitude": -122.39, "stars": 4.5, "review_count": 1198,
         "is_open": 1, "attributes": {"RestaurantsTakeOut": "True", "WiFi": "u'free'"},
         "categories": "Mexican, Burgers", "hours": {"Monday": "10:00-21:00"}},
        {"business_id": "b2", "name": "Bar", "stars": 3.0, "review_count": 3, "is_open": 0, "attributes": None,
         "categories": None, "hours": None},
    ]  # fmt: skip
    (folder / "yelp_academic_dataset_business.json").write_text("\n".join(map(json.dumps, items)))
    return "yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"


def _yelp_2013(folder: Path) -> tuple[str, str]:
    reviews = [
        {"votes": {"funny": 0, "useful": 5, "cool": 2}, "user_id": "U1", "review_id": f"r{at}", "stars": 5,
         "date": f"2011-01-2{at}", "text": "Yum", "type": "review", "business_id": item}
        for at, item in enumerate(["b1", "b2", "b1"])
    ]  # fmt: skip
    (folder / "yelp_training_set_review.json").write_text("\n".join(map(json.dumps, reviews)))
    items = [
        {"business_id": "b1", "full_address": "8466 W Peoria Ave\nPeoria, AZ 85345", "open": True,
         "categories": ["Accountants"], "city": "Peoria", "review_count": 3, "name": "Peoria Tax",
         "neighborhoods": [], "longitude": -112.2, "state": "AZ", "stars": 5.0, "latitude": 33.5, "type": "business"},
        {"business_id": "b2", "name": "Bagels", "categories": [], "open": False, "type": "business"},
    ]  # fmt: skip
    (folder / "yelp_training_set_business.json").write_text("\n".join(map(json.dumps, items)))
    return "yelp_training_set_review.json", "yelp_training_set_business.json"


def _movielens_1m(folder: Path) -> tuple[str, str]:
    """Double colons, Latin-1, no first line of names."""
    (folder / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n1::1193::4::978302268\n")
    movies = "661::James and the Giant Peach (1996)::Animation|Children's\n1193::Mis\u00e9rables, Les (1995)::Drama\n"
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    return "ratings.dat", "movies.dat"


def _movielens_20m(folder: Path) -> tuple[str, str]:
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,1193,5.0,978300760\n1,661,3.5,978302109\n1,1193,4.0,978302268\n"
    )
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n661,"American President, The ""(1995)""",Comedy|Drama\n1193,Toy,(no genres listed)\n'
    )
    return "ratings.csv", "movies.csv"


def _steam(folder: Path) -> tuple[str, str]:
    """Python literals with u'' strings; a game's id is `id` in one file and `product_id` in the other."""
    review = (
        "{u'username': u'Chaos \\'Syren\\'', u'hours': %.1f, u'products': 41.0, u'product_id': u'%s', "
        "u'date': u'2017-12-1%d', u'text': u\"It would not be a good idea\", u'early_access': False, u'page': 1}"
    )
    rows = [(0.1, "725280", 7), (51.1, "328100", 8), (3.0, "725280", 9)]
    (folder / "steam_reviews.json").write_text("\n".join(review % row for row in rows))
    games = [
        "{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Indie'], u'app_name': u'Lost Summoner Kitty', "
        "u'title': u'Lost Summoner Kitty', u'url': u'http://store.steampowered.com/app/761140/', "
        "u'release_date': u'2018-01-04', u'tags': [u'Strategy'], u'discount_price': 4.49, "
        "u'reviews_url': u'http://steamcommunity.com/app/761140/reviews/', u'specs': [u'Single-player'], "
        "u'price': 4.99, u'early_access': False, u'id': u'725280', u'developer': u'Kotoshiro'}",
        "{u'genres': [u'Free to Play'], u'app_name': u'Ironbound', u'price': u'Free To Play', u'id': u'328100', "
        "u'metascore': u'NA'}",
    ]
    (folder / "steam_games.json").write_text("\n".join(games))
    return "steam_reviews.json", "steam_games.json"


def _recbole(folder: Path) -> tuple[str, str]:
    """Types in the first line; no quoting, so a quote is a letter."""
    (folder / "ml.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n196\t302\t3\t891717742.0\n"
        "196\t242\t3\t9e8\n"
    )
    (folder / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tprice:float\tclass:token_seq\n"
        '242\t"Kolya"\t1996\t\tComedy\n302\tL.A. Confidential\t1997\t2.50\tCrime Film-Noir\n'
    )
    return "ml.inter", "ml.item"


def _llmemb(folder: Path) -> tuple[str, str]:
    """Numbers in order, and the true ids in id_map.json; attributes go by true id."""
    (folder / "inter.txt").write_text("1 1\n1 2\n1 1\n2 2\n")
    (folder / "id_map.json").write_text(
        json.dumps(
            {
                "user2id": {"A": "1", "B": "2"},
                "item2id": {"x": "1", "y": "2"},
                "id2user": {"1": "A", "2": "B"},
                "id2item": {"1": "x", "2": "y"},
            }
        )
    )
    (folder / "item2attributes.json").write_text(
        json.dumps({"x": {"asin": "x", "title": "X", "categories": [["Home", "Lamps"]]}, "y": {"title": "Y"}})
    )
    return "inter.txt", "item2attributes.json"


def _llmemb_sequences(folder: Path) -> tuple[str, str]:
    """`data_process.py` of the published code writes a user's whole sequence in a line."""
    _llmemb(folder)
    (folder / "inter_seq.txt").write_text("1 1 2 1\n2 2\n")
    return "inter_seq.txt", "item2attributes.json"


@pytest.mark.parametrize(
    ("format_name", "write", "sequence", "times", "items"),
    [
        ("amazon-2014", _amazon_2014, "U1: 0000031852 B00002 B00003", [1252800000, 1252800001, 1252800002],
         AMAZON_2014_ITEMS),
        ("amazon-2014", _amazon_2014_ratings, "U1: 0000031852 B00002 B00003", [1252800000, 1252800001, 1252800002],
         AMAZON_2014_ITEMS),
        ("amazon-2018", _amazon_2018, "U1: B1 B2 B1", [1412380800, 1412380801, 1412380802], {
            "B1": {"title": "Slippers", "brand": "Flip", "categories": ["Clothing", "Shoes"], "price": 1012.99,
                   "features": ["Warm"], "description": ["Soft"], "main_category": "Fashion", "sales_rank": 13052976},
            "B2": {"title": "Hat", "categories": [], "features": [], "description": [], "sales_rank": 5120},
        }),
        ("amazon-2023", _amazon_2023, "AGKHLEW2: P1 P2 P1", [1588687728, 1588687729, 1588687730], {
            "P1": {"title": "Cream", "store": "Bissport", "main_category": "All Beauty", "categories": ["Skin Care"],
                   "features": ["Formulation: Cream"], "description": [], "average_rating": 4.2, "rating_number": 15,
                   "details": ["Brand: Bissport", "Unit Count: 1.00"]},
            "P2": {"title": "Soap", "categories": [], "features": [], "description": ["Clean"], "price": 9.99,
                   "details": [], "average_rating": 3.0, "rating_number": 2},
        }),
        ("yelp", _yelp, "U1: b1 b2 b1", [1457526600, 1457526601, 1457526602], {
            "b1": {"name": "Garaje", "address": "475 3rd St", "city": "San Francisco", "state": "CA",
                   "postal_code": "94107", "attributes": ["RestaurantsTakeOut: True", "WiFi: u'free'"],
                   "latitude": 37.78, "longitude": -122.39, "is_open": 1, "stars": 4.5, "review_count": 1198,
                   "categories": ["Mexican", "Burgers"]},
            "b2": {"name": "Bar", "is_open": 0, "stars": 3.0, "review_count": 3},
        }),
        ("yelp-challenge-2013", _yelp_2013, "U1: b1 b2 b1", [1295481600, 1295568000, 1295654400], {
            "b1": {"name": "Peoria Tax", "categories": ["Accountants"], "neighborhoods": [],
                   "full_address": "8466 W Peoria Ave\nPeoria, AZ 85345", "city": "Peoria", "state": "AZ",
                   "latitude": 33.5, "longitude": -112.2, "open": True, "stars": 5.0, "review_count": 3},
            "b2": {"name": "Bagels", "categories": [], "open": False},
        }),
        ("movielens-1m", _movielens_1m, "1: 1193 661 1193", [978300760, 978302109, 978302268], {
            "661": {"title": "James and the Giant Peach (1996)", "genres": ["Animation", "Children's"]},
            "1193": {"title": "Misérables, Les (1995)", "genres": ["Drama"]},
        }),
        ("movielens-20m", _movielens_20m, "1: 1193 661 1193", [978300760, 978302109, 978302268], {
            "661": {"title": 'American President, The "(1995)"', "genres": ["Comedy", "Drama"]},
            "1193": {"title": "Toy", "genres": []},
        }),
        ("steam", _steam, "Chaos 'Syren': 725280 328100 725280", [1513468800, 1513555200, 1513641600], {
            "725280": {"title": "Lost Summoner Kitty", "genres": ["Action", "Indie"], "tags": ["Strategy"],
                       "specs": ["Single-player"], "developer": "Kotoshiro", "publisher": "Kotoshiro",
                       "release_date": "2018-01-04", "early_access": False, "price": 4.99},
            "328100": {"title": "Ironbound", "genres": ["Free to Play"], "price": 0.0},
        }),
        ("recbole", _recbole, "196: 242 302 242", [881250949, 891717742, 900000000], {
            "242": {"movie_title": '"Kolya"', "release_year": "1996", "class": "Comedy"},
            "302": {"movie_title": "L.A. Confidential", "release_year": "1997", "price": 2.5,
                    "class": "Crime Film-Noir"},
        }),
        ("llmemb", _llmemb, "A: x y x", None, {
            "x": {"asin": "x", "title": "X", "categories": ["Home", "Lamps"]}, "y": {"title": "Y"}}),
        ("llmemb", _llmemb_sequences, "A: x y x", None, {
            "x": {"asin": "x", "title": "X", "categories": ["Home", "Lamps"]}, "y": {"title": "Y"}}),
    ],
)  # fmt: skip
def test_published_layout_is_read(
    tmp_path: Path,
    format_name: str,
    write: Callable[[Path], tuple[str, str]],
    sequence: str,
    times: list[int] | None,
    items: dict[str, dict[str, Any]],
) -> None:
    interactions, catalogue = write(tmp_path)
    dataset = _prepare(tmp_path, format_name, interactions, catalogue)
    user, _, item_ids = sequence.partition(": ")
    expected: dict[str, Any] = {"user_id": user, "item_ids": item_ids.split()}
    read = pl.read_parquet(storage.list_files(f"{dataset.uri}/sequences"))
    assert read.to_dicts() == [expected if times is None else expected | {"timestamps": times}]
    found = {item.pop("item_id"): item for item in dataset.items().to_pylist()}
    assert {item_id: {k: v for k, v in item.items() if v is not None} for item_id, item in found.items()} == items
    assert all(not table["counts"] for table in dataset.info["refused_rows"].values())


def test_handled_layout_needs_its_id_map(tmp_path: Path) -> None:
    interactions, catalogue = _llmemb(tmp_path)
    (tmp_path / "id_map.json").write_text("[]")
    with pytest.raises(InputError, match=r"id_map\.json: expected an object with id2user and id2item"):
        _prepare(tmp_path, "llmemb", interactions, catalogue)
    (tmp_path / "item2attributes.json").write_text('{"x": {}, "y": {}, "x": {}}')
    with pytest.raises(InputError, match=r"item2attributes\.json: a key occurs twice: x"):
        _prepare(tmp_path, "llmemb", interactions, catalogue)
    (tmp_path / "item2attributes.json").write_text("[1")
    with pytest.raises(InputError, match=r"item2attributes\.json: expected one JSON object"):
        _prepare(tmp_path, "llmemb", interactions, catalogue)


def test_handled_layout_of_another_id_map_is_another_dataset(tmp_path: Path) -> None:
    interactions, catalogue = _llmemb(tmp_path)
    first = _prepare(tmp_path, "llmemb", interactions, catalogue).fingerprint
    maps = {"id2user": {"1": "A", "2": "B"}, "id2item": {"1": "y", "2": "x"}}
    (tmp_path / "id_map.json").write_text(json.dumps(maps))
    with pytest.raises(InputError, match=r"belongs to another run \(inputs\.interactions"):
        _prepare(tmp_path, "llmemb", interactions, catalogue)
    (tmp_path / "id_map.json").unlink()
    with pytest.raises(InputError, match=r"id_map\.json: no such file"):
        _prepare(tmp_path, "llmemb", interactions, catalogue)
    _llmemb(tmp_path)
    assert _prepare(tmp_path, "llmemb", interactions, catalogue).fingerprint == first


def test_document_may_be_longer_than_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interactions, catalogue = _llmemb(tmp_path)
    monkeypatch.setattr("llmemb.data.parts.MAX_LINE_BYTES", 30)
    assert sorted(_prepare(tmp_path, "llmemb", interactions, catalogue).item_ids) == ["x", "y"]


def test_entry_nested_too_deep_is_refused(tmp_path: Path) -> None:
    interactions, catalogue = _llmemb(tmp_path)
    entries = [f'"{name}": {{"title": {"[" * depth}{"]" * depth}}}' for name, depth in (("x", 500), ("y", 50))]
    (tmp_path / catalogue).write_text("{" + ", ".join(entries) + "}")
    with pytest.raises(InputError, match=r"1 of 2 rows .* because of: nested too deep \(x\)"):
        _prepare(tmp_path, "llmemb", interactions, catalogue)


@pytest.mark.parametrize("in_lines", [False, True])
def test_document_that_is_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_lines: bool) -> None:
    interactions, catalogue = _llmemb(tmp_path)
    document = json.loads((tmp_path / catalogue).read_text())
    (tmp_path / catalogue).write_text(json.dumps(document, indent=1 if in_lines else None))
    for module in ("parts", "records"):
        monkeypatch.setattr(f"llmemb.data.{module}.MAX_DOCUMENT_BYTES", 60)
    with pytest.raises(InputError, match=r"item2attributes\.json: expected one JSON object: longer than"):
        _prepare(tmp_path, "llmemb", interactions, catalogue)


def _prepare(folder: Path, format_name: str, interactions: str, items: str) -> Dataset:
    settings = {
        "format": format_name,
        "interactions": str(folder / interactions),
        "items": str(folder / items),
        "output": str(folder / "dataset"),
    }
    run_prepare(PrepareConfig.model_validate(settings))
    return Dataset.open(settings["output"])
