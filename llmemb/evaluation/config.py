"""Settings of the evaluate job."""

from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from llmemb.config import Config, JobConfig, Uri
from llmemb.data.sequences import SplitName
from llmemb.evaluation.candidates import Distribution
from llmemb.evaluation.imported import SeenItems

HEADLINE_K = 10
HEADLINE_METRICS = (f"hit_rate@{HEADLINE_K}", f"ndcg@{HEADLINE_K}")


class ImportedRanking(Config):
    """A table of ``user_id``, ``item_id``, ``rank`` made elsewhere."""

    label: str = Field(min_length=1)
    uri: Uri
    seen_items: SeenItems
    """Whether its lists may show items of the user's history."""


class Sampled(Config):
    """The sampled protocol: the target among a few items that the user has not seen."""

    num_negatives: int = Field(default=100, ge=1)
    distribution: Distribution = "uniform"
    """``popularity`` draws by training interactions, which makes negatives harder to tell from the target."""

    @property
    def title(self) -> str:
        return f"1 + {self.num_negatives:,} sampled"

    @property
    def described(self) -> str:
        drawn = {"uniform": "uniformly", "popularity": "by popularity"}[self.distribution]
        return f"the target among {self.num_negatives:,} items that the user has not seen, drawn {drawn}"


class TextSimilarity(Config):
    """The baseline that needs only ``embeddings``: cosine with the mean of the newest items."""

    last_items: int = Field(default=1, ge=1)


class Uncertainty(Config):
    """How intervals and tests are computed."""

    resamples: int = Field(default=1000, ge=100)
    """Of the bootstrap over users."""
    randomisations: int = Field(default=10_000, ge=100)
    """Of the paired tests; the smallest p-value is one over this, before correction. With fewer than 20 for each pair
    of models none can be told apart."""


class EmbeddingMap(Config):
    """The maps of item embeddings."""

    max_items: int = Field(default=1500, ge=10)
    """More items than this are sampled; t-SNE's time grows faster than their number, and beyond 5,000 it is a PCA."""
    perplexity: float = Field(default=30.0, gt=1)
    category: str | None = None
    """The attribute that colours the second row of maps; by default the first of ``categories``,
    ``category``, ``genres`` and ``genre`` that there is."""


class Examples(Config):
    """Users whose lists the report shows."""

    num_users: int = Field(default=6, ge=0)
    title: str | None = None
    """The attribute that names an item; ``title`` or ``name`` by default, or else the id."""


class EvaluateConfig(JobConfig):
    """Compares recommenders on a dataset."""

    execution_keys: ClassVar[frozenset[str]] = frozenset({"num_threads", "num_workers"})

    dataset: Uri
    models: tuple[Uri, ...] = ()
    """Recommenders, in the order of the report; their labels come from their ``recommender.json``. Those that differ
    only in their seed become one row: mean and deviation."""
    across_datasets: bool = False
    """Models may come from other datasets, such as last night's: they rank the items that they know, all others come
    last. Each is a row of its own then, whatever its seed."""
    rankings: tuple[ImportedRanking, ...] = ()
    """Lists made by other systems."""
    embeddings: Uri | None = None
    """A snapshot of LLM embeddings, or a root whose newest one is taken: for the text-similarity baseline, the
    similarity within lists and the LLM's map."""
    output: Uri
    split: SplitName = "test"
    ks: tuple[int, ...] = (5, 10, 20)
    """The report's tables show k = 10; all are in metrics.json."""
    sampled: Sampled | None = Sampled()
    """``null`` leaves the sampled protocol out."""
    text_similarity: TextSimilarity = TextSimilarity()
    uncertainty: Uncertainty = Uncertainty()
    embedding_map: EmbeddingMap = EmbeddingMap()
    examples: Examples = Examples()
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of candidates, resamples, samples of items and users, and maps."""
    num_workers: int = Field(default=1, ge=1)
    """Ray workers that share the users out; with 1 this process ranks them itself. No figure depends on it."""
    num_threads: int | None = Field(default=None, ge=1)
    """Threads of this process; every core by default."""

    @field_validator("ks")
    @classmethod
    def _usable_ks(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if min(ks, default=0) < 1 or HEADLINE_K not in ks:
            raise ValueError(f"expected numbers from 1 with {HEADLINE_K}, the report's, among them")
        return tuple(sorted(set(ks)))

    @model_validator(mode="after")
    def _something_to_compare(self) -> Self:
        if not (self.models or self.rankings):
            raise ValueError("expected models or rankings to compare")
        labels = [ranking.label for ranking in self.rankings]
        if len(set(labels)) < len(labels):
            raise ValueError("rankings: expected different labels")
        return self
