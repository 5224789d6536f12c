"""A generated marketplace: real words, drifting tastes, a long tail. For demos and tests, where no real data may go.

What it holds is what recommenders live on: an item's text says what its buyers like (category, brand, style);
sequences say what is bought after what (categories that go together); popularity follows Zipf's law, so that most
items have few interactions, and items launched lately have none in the training part.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmemb import storage
from llmemb.data.vocabulary import BRANDS, CATEGORIES, STYLES, Category

TABLES = ITEMS, INTERACTIONS = "items.parquet", "interactions.parquet"
NUM_BRANDS_IN_DEPARTMENT = 7
NUM_FAVOURITE_BRANDS = 2
START = 1_640_995_200  # 2022-01-01 in UTC
DURATION_SECONDS = 2 * 365 * 86_400
LATE_SHARE = 0.06
"""Of the items, launched in the last tenth of the time."""
MIN_LENGTH, MEAN_LENGTH, MAX_LENGTH = 5, 9, 40
STAY, FOLLOW = 0.45, 0.40
"""Chances that the next purchase is in the same category, or in one that goes with it; else in one the user likes."""
DRIFT = 0.08
"""Chance, at each purchase, that the user comes to like another style, and the same for brands."""
BRAND_WEIGHT, STYLE_WEIGHT, REPEAT_WEIGHT = 2.2, 2.2, -6.0
"""Log odds of an item of a favourite brand, of the liked style, and of one that the user has already."""


@dataclass(frozen=True)
class _Catalogue:
    """Integer attributes per item, the hidden truth behind the text."""

    category: NDArray[np.int64]
    brand: NDArray[np.int64]
    style: NDArray[np.int64]
    log_popularity: NDArray[np.float64]
    launch: NDArray[np.float64]


def write_sample(output: str, *, num_items: int = 2000, num_users: int = 3000, seed: int = 0) -> dict[str, int]:
    """Writes :data:`TABLES`; returns how many rows each has."""
    items, interactions = generate_sample(num_items=num_items, num_users=num_users, seed=seed)
    storage.write_table(storage.join(output, ITEMS), items.to_arrow())
    storage.write_table(storage.join(output, INTERACTIONS), interactions.to_arrow())
    return {"items": items.height, "interactions": interactions.height}


def generate_sample(
    *, num_items: int = 2000, num_users: int = 3000, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A catalogue and its interactions, the same for the same seed.

    Returns:
        Items with ``item_id, title, brand, categories, price, description``, and interactions with ``user_id,
        item_id, timestamp`` (seconds).
    """
    rng = np.random.default_rng(seed)
    catalogue = _catalogue(rng, num_items)
    return _describe(rng, catalogue), _interactions(rng, catalogue, num_users)


def _catalogue(rng: np.random.Generator, num_items: int) -> _Catalogue:
    num_categories = min(len(CATEGORIES), max(1, num_items // 5))
    category = rng.permutation(np.arange(num_items) % num_categories)
    late = rng.random(num_items) < LATE_SHARE
    return _Catalogue(
        category=category,
        brand=rng.integers(NUM_BRANDS_IN_DEPARTMENT, size=num_items),
        style=rng.integers(len(STYLES), size=num_items),
        log_popularity=-np.log1p(_rank_within(category, rng)),
        launch=np.where(late, START + DURATION_SECONDS * rng.uniform(0.9, 1.0, num_items), START),
    )


def _rank_within(group: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random rank from 0 for each member of each group."""
    order = np.lexsort((rng.random(len(group)), group))
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - starts[group[order]]
    return rank


def _describe(rng: np.random.Generator, catalogue: _Catalogue) -> pl.DataFrame:
    choices = rng.random((len(catalogue.category), 4))
    prices = np.exp(rng.normal(0, 0.35, len(choices)))
    rows = []
    for index, (category_index, brand_index, style_index) in enumerate(
        zip(catalogue.category.tolist(), catalogue.brand.tolist(), catalogue.style.tolist(), strict=True)
    ):
        category, style = CATEGORIES[category_index], STYLES[style_index]
        adjective, colour, product, use = (
            words[int(share * len(words))]
            for words, share in zip(
                (style.adjectives, style.colours, category.products, category.uses), choices[index], strict=True
            )
        )
        brand = BRANDS[category.department][brand_index]
        rows.append(
            {
                "item_id": f"P{index:06d}",
                "title": f"{brand} {adjective} {product}, {colour}",
                "brand": brand,
                "categories": [category.department, category.name],
                "price": float(max(round(category.typical_price * prices[index]), 2)) - 0.01,
                "description": f"{adjective} {product.lower()} for {use}. {style.sentence}",
            }
        )
    return pl.DataFrame(rows)


def _interactions(rng: np.random.Generator, catalogue: _Catalogue, num_users: int) -> pl.DataFrame:
    """Walks all users at once, one purchase per step."""
    lengths = np.minimum(MIN_LENGTH + rng.geometric(1 / (MEAN_LENGTH - MIN_LENGTH + 1), num_users) - 1, MAX_LENGTH)
    times = _times(rng, lengths)
    shelves = _shelves(catalogue.category)
    taste = _Taste.draw(rng, num_users, num_categories=len(shelves))
    bought = np.full((num_users, MAX_LENGTH), -1)
    for step in range(lengths.max()):
        active = np.flatnonzero(step < lengths)
        taste.move(rng, active)
        shelf = shelves[taste.category[active]]  # [active, shelf size], -1 fills up
        log_odds = catalogue.log_popularity[shelf]
        log_odds += BRAND_WEIGHT * taste.likes_brand[active[:, None], catalogue.brand[shelf]]
        log_odds += STYLE_WEIGHT * (taste.style[active, None] == catalogue.style[shelf])
        log_odds += REPEAT_WEIGHT * (shelf[:, :, None] == bought[active, None, :step]).any(axis=2)
        on_sale = (shelf >= 0) & (catalogue.launch[shelf] <= times[active, step, None])
        log_odds = np.where(on_sale, log_odds + rng.gumbel(size=shelf.shape), -np.inf)
        bought[active, step] = shelf[np.arange(len(active)), log_odds.argmax(axis=1)]
    happened = np.arange(MAX_LENGTH) < lengths[:, None]
    users, _ = np.nonzero(happened)
    return pl.DataFrame(
        {
            "user_id": [f"U{user:06d}" for user in users.tolist()],
            "item_id": [f"P{item:06d}" for item in bought[happened].tolist()],
            "timestamp": times[happened].astype(np.int64),
        }
    ).sort("timestamp", maintain_order=True)


def _times(rng: np.random.Generator, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """``[users, MAX_LENGTH]`` seconds, rising; each user is active for a stretch of the two years."""
    first = rng.uniform(0, 0.8, len(lengths))
    last = rng.uniform(first + 0.05, 1.0)
    gaps = rng.exponential(size=(len(lengths), MAX_LENGTH)) * (np.arange(MAX_LENGTH) < lengths[:, None])
    share = gaps.cumsum(axis=1) / gaps.sum(axis=1, keepdims=True)
    return START + DURATION_SECONDS * (first[:, None] + (last - first)[:, None] * share)


def _shelves(category: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[categories, most items in one]``: each category's items, filled up with -1."""
    members = [np.flatnonzero(category == index) for index in range(category.max() + 1)]
    shelves = np.full((len(members), max(map(len, members))), -1)
    for row, items in zip(shelves, members, strict=True):
        row[: len(items)] = items
    return shelves


@dataclass
class _Taste:
    """What each user likes now; ``move`` takes some users on to their next purchase."""

    category: NDArray[np.int64]
    home_categories: NDArray[np.int64]
    style: NDArray[np.int64]
    likes_brand: NDArray[np.bool_]
    goes_with: NDArray[np.int64]

    @classmethod
    def draw(cls, rng: np.random.Generator, num_users: int, *, num_categories: int) -> "_Taste":
        weights = 1 / (3 + rng.permutation(num_categories))
        homes = rng.choice(num_categories, size=(num_users, 3), p=weights / weights.sum())
        return cls(
            category=homes[:, 0].copy(),
            home_categories=homes,
            style=rng.integers(len(STYLES), size=num_users),
            likes_brand=_favourites(rng, num_users),
            goes_with=_goes_with(CATEGORIES[:num_categories]),
        )

    def move(self, rng: np.random.Generator, users: NDArray[np.int64]) -> None:
        where = rng.random(len(users))
        follows = self.goes_with[self.category[users], rng.choice(2, size=len(users), p=(0.75, 0.25))]
        home = self.home_categories[users, rng.integers(self.home_categories.shape[1], size=len(users))]
        elsewhere = np.where(where < STAY + FOLLOW, follows, home)
        self.category[users] = np.where(where < STAY, self.category[users], elsewhere)
        restyled = users[rng.random(len(users)) < DRIFT]
        self.style[restyled] = rng.integers(len(STYLES), size=len(restyled))
        rebranded = users[rng.random(len(users)) < DRIFT]
        self.likes_brand[rebranded] = _favourites(rng, len(rebranded))


def _favourites(rng: np.random.Generator, num_users: int) -> NDArray[np.bool_]:
    """bool ``[users, brands of a department]``."""
    return rng.random((num_users, NUM_BRANDS_IN_DEPARTMENT)).argsort(axis=1) < NUM_FAVOURITE_BRANDS


def _goes_with(categories: tuple[Category, ...]) -> NDArray[np.int64]:
    """``[categories, 2]``: what is bought next, the likelier first; itself where a small catalogue lacks it."""
    index = {category.name: place for place, category in enumerate(categories)}
    return np.array([[index.get(name, place) for name in each.goes_with] for place, each in enumerate(categories)])
