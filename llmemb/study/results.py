"""From finished trials to the study's figures: rows of runs that differ in their seed, measured as evaluate does it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmemb import progress, storage
from llmemb.data.dataset import Dataset
from llmemb.embed.snapshot import Snapshot
from llmemb.errors import InputError
from llmemb.evaluation import stored
from llmemb.evaluation.config import HEADLINE_K
from llmemb.evaluation.entrants import baseline_entrants, load_recommender
from llmemb.evaluation.question import draw_question
from llmemb.evaluation.results import comparisons, rank_figures
from llmemb.evaluation.sharding import answer
from llmemb.metrics.ranking import Ranking, Scorer
from llmemb.metrics.slices import Slice, slices_of
from llmemb.rat.config import FusionConfig
from llmemb.rat.recommender import read_info
from llmemb.study.config import StudyConfig
from llmemb.study.trials import reason_of

KS = (5, HEADLINE_K, 20)
SHOWN_SLICES = ("overall", "head", "tail", "cold", "tail_users")


@dataclass(frozen=True)
class Row:
    """What a table has a row of.

    Attributes:
        uris: Finished recommenders, one for each seed that did not fail.
        seeds: Theirs, in the same order.
        load: Makes the scorer of a baseline, which has no URI.
        num_failed: Seeds that did.
    """

    label: str
    uris: tuple[str, ...] = ()
    load: Callable[[], Scorer] | None = None
    num_failed: int = 0
    seeds: tuple[int, ...] = ()


class Measure:
    """Ranks every recommender once, keeps the rankings in the study's folder, and measures groups of rows.

    Args:
        config: The study's.

    Attributes:
        fusion: How *content alone* is scored.

    Raises:
        InputError: no user has a test target, or somebody too few unseen items to sample from.
    """

    def __init__(self, config: StudyConfig, dataset: Dataset) -> None:
        self._config, self._dataset = config, dataset
        self.fusion = FusionConfig.model_validate(config.rat.get("fusion") or {})
        sampled, seed = config.sampled, config.seed
        self._question = draw_question(dataset, "test", sampled=sampled, seed=seed, depth=0)  # no figure is of lists
        self.slices: list[Slice] = slices_of(dataset.popularity, self._question.targets)
        self._rankings: dict[str, Ranking] = {}

    def baselines(self, snapshot: Snapshot | None) -> list[Row]:
        """Popularity, and where there are embeddings the likeness of texts."""
        last_items = self._config.text_similarity.last_items
        entrants = baseline_entrants(self._dataset, snapshot, last_items=last_items, fusion=self.fusion)
        return [Row(entrant.label, load=entrant.runs[0].load) for entrant in entrants]

    def group(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Rows that are compared with each other, as :mod:`llmemb.evaluation.report` reads them.

        Returns:
            ``models``, ``comparisons`` (every two rows, users paired), ``slices``, and ``failed``: the labels of rows
            without any run.
        """
        rankings = {row.label: self._runs(row) for row in rows if row.uris or row.load}
        uncertainty, seed = self._config.uncertainty, self._config.seed
        models = [
            {"label": row.label, "kind": "recommender" if row.uris else "baseline", "runs": list(row.uris)}
            | {"num_failed": row.num_failed}
            | rank_figures(rankings[row.label], self.slices, ks=KS, uncertainty=uncertainty, seed=seed)
            for row in rows
            if row.label in rankings
        ]
        shown = [part for part in self.slices if part.name in SHOWN_SLICES]
        seeds = {row.label: row.seeds for row in rows if len(row.uris) + row.num_failed > 1}
        return {
            "models": models,
            "slices": [part.info for part in self.slices],
            "failed": [row.label for row in rows if row.label not in rankings],
            "comparisons": comparisons(rankings, shown, uncertainty=uncertainty, seed=seed, seeds=seeds),
        }

    def rank_all(self, uris: Sequence[str]) -> dict[str, str]:
        """Ranks all that is not ranked yet.

        Returns:
            By URI, why a recommender cannot be ranked: it is damaged or of an older format, or scores are not finite.
        """
        reasons = {}
        with progress.bar("study: rank", len(uris), "recommenders") as bar:
            for number, uri in enumerate(uris, start=1):
                try:
                    self._remembered(uri, partial(self._stored, uri))
                except InputError as error:
                    reasons[uri] = f"cannot be ranked; remove it to have it trained again: {reason_of(error)}"
                bar.update(number)
        return reasons

    def _runs(self, row: Row) -> list[Ranking]:
        if row.load is not None:
            return [self._remembered(row.label, partial(self._answer, row.load))]
        return [self._remembered(uri, partial(self._stored, uri)) for uri in row.uris]

    def _remembered(self, name: str, make: Callable[[], Ranking]) -> Ranking:
        if name not in self._rankings:
            self._rankings[name] = make()
        return self._rankings[name]

    def _stored(self, recommender: str) -> Ranking:
        """A recommender's ranking: read where an earlier run has left it, else made and stored."""
        sampled = None if self._config.sampled is None else self._config.sampled.model_dump()
        info = read_info(recommender)  # it may have been trained again at the same place
        made_from = [storage.name(recommender), info, self._dataset.fingerprint, self._config.seed, sampled]
        uri = storage.join(self._config.output, "rankings", f"{storage.fingerprint(made_from)}.parquet")
        if storage.exists(uri):
            with suppress(InputError):  # a damaged one is made anew
                return stored.read_ranks(uri)
        ranking = self._answer(partial(load_recommender, recommender))
        user_ids, item_ids = self._dataset.user_ids, self._dataset.item_ids
        stored.write_ranking(uri, ranking, self._question.targets, user_ids=user_ids, item_ids=item_ids)
        return ranking

    def _answer(self, load: Callable[[], Scorer]) -> Ranking:
        return answer(load, self._question, num_workers=self._config.num_workers, on_progress=lambda done: None)


def difference(group: Mapping[str, Any], a: str, b: str, *, part: str, metric: str) -> dict[str, Any] | None:
    """The comparison of one row with a later one, full ranking; None where there is none."""
    wanted = {"protocol": "full", "slice": part, "metric": metric, "a": a, "b": b}
    found = (test for test in group["comparisons"] if all(test[key] == value for key, value in wanted.items()))
    return next(found, None)
