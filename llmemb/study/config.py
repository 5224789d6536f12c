"""Settings of the study job."""

from math import prod
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from llmemb.config import Config, JobConfig, Uri
from llmemb.evaluation.config import EmbeddingMap, Sampled, TextSimilarity, Uncertainty
from llmemb.rat.config import MethodName
from llmemb.rat.methods import METHODS
from llmemb.srs.backbone import BACKBONES

Settings = dict[str, Any]
"""Values by dotted path, the stage first: ``rat.alignment.weight``, ``scft.views.drop_ratio``, ``embed.encoder``."""
STAGES = ("scft", "embed", "rat")
SET_BY_THE_STUDY = {
    "scft": ("dataset", "output"),
    "embed": ("dataset", "output"),
    "rat": (
        *("dataset", "embeddings", "collaborative", "item_vectors", "content_maps", "output"),
        *("backbone", "method", "seed"),
    ),
}


class TrialsConfig(Config):
    """How trials are run."""

    max_concurrent: int = Field(default=1, ge=1)
    """At the same time."""
    cpus: int | None = Field(default=None, ge=1)
    """Of one trial; the cluster's shared out by default. Where the cluster has GPUs a trial has one."""


class StudyConfig(JobConfig):
    """Compares methods on every backbone over seeds, takes the method apart, and varies its settings."""

    dataset: Uri
    output: Uri
    """What is finished there is never done again, also by a study of another grid."""
    backbones: tuple[str, ...] = ("sasrec", "gru4rec", "bert4rec")
    methods: tuple[MethodName, ...] = ("none", "melt", "llm2x", "said", "tslrec", "text_sum", "llmemb")
    """In the order of the tables."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the recommenders and of what ``said`` and ``tslrec`` learn; the encoder is the same for all."""
    scft: dict[str, Any]
    """As for the scft job, without ``dataset`` and ``output``."""
    embed: dict[str, Any] = Field(default_factory=dict)
    """As for the embed job; with an ``encoder`` nothing is fine-tuned."""
    rat: dict[str, Any] = Field(default_factory=dict)
    """As for the rat job: what all methods share. ``base_model`` and ``prompt`` are those of ``scft`` by default."""
    per_backbone: dict[str, Settings] = Field(default_factory=dict)
    """By backbone, settings of ``rat`` that all methods have on it, by dotted path: BERT4Rec trains longer, say."""
    search: dict[MethodName, dict[str, tuple[Any, ...]]] = Field(default_factory=dict)
    """Settings tried for a method, by dotted path: all combinations, on every backbone, with the first seed. The best
    by validation NDCG@10 is what the tables have. Every method gets as many combinations, so that none wins by being
    tried more often; so does ``none`` where it is not among the methods and others start from it."""
    ablations: dict[str, Settings] = Field(default_factory=dict)
    """By what a table calls it, what is changed in ``llmemb``."""
    sensitivity: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """By dotted path, values that ``llmemb`` is tried with beside the chosen one."""
    details_backbone: str | None = None
    """That of ablations and sensitivity; the first by default. A part of a study without it leaves them out."""
    text_similarity: TextSimilarity = TextSimilarity()
    sampled: Sampled | None = Sampled()
    uncertainty: Uncertainty = Uncertainty()
    embedding_map: EmbeddingMap = EmbeddingMap(max_items=1000)
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of candidates, resamples and maps."""
    trials: TrialsConfig = TrialsConfig()
    num_workers: int = Field(default=1, ge=1)
    """Ray workers that share the users out when recommenders are ranked; with 1 the driver ranks them itself."""

    @field_validator("backbones", "methods", "seeds")
    @classmethod
    def _different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values or len(set(values)) < len(values):
            raise ValueError("expected one or more, each once")
        return values

    @field_validator("ablations", "sensitivity")
    @classmethod
    def _known_stages(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name, value in settings.items():
            for path in value if isinstance(value, dict) else [name]:
                check_path(path)
        return settings

    @field_validator("ablations")
    @classmethod
    def _none_is_called_like_the_whole(cls, ablations: dict[str, Settings]) -> dict[str, Settings]:
        if (whole := METHODS["llmemb"].label) in ablations:
            raise ValueError(f"{whole} is what the whole method is called: expected another name")
        return ablations

    @field_validator("details_backbone")
    @classmethod
    def _details_backbone_exists(cls, name: str | None) -> str | None:
        if name is not None:
            _check_backbone(name)
        return name

    @field_validator("per_backbone")
    @classmethod
    def _of_the_recommender(cls, settings: dict[str, Settings]) -> dict[str, Settings]:
        for backbone, values in settings.items():
            _check_backbone(backbone)
            for path in values:
                check_path(path)
                if not path.startswith("rat."):
                    raise ValueError(
                        f"{path}: expected a setting of rat: what is embedded is the same for all backbones"
                    )
        return settings

    @field_validator("search")
    @classmethod
    def _known_paths(cls, search: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for space in search.values():
            for path in space:
                check_path(path)
        return search

    @model_validator(mode="after")
    def _same_effort(self) -> Self:
        sizes = {method: prod(map(len, self.search.get(method, {}).values())) for method in self.searched}
        if len(set(sizes.values())) > 1:
            shown = ", ".join(f"{method} {size}" for method, size in sizes.items())
            raise ValueError(f"search: expected as many combinations for every method, got {shown}")
        for stage, keys in SET_BY_THE_STUDY.items():
            if written := [key for key in keys if key in getattr(self, stage)]:
                raise ValueError(f"{stage}.{written[0]} is set by the study itself: expected no value")
        return self

    @property
    def searched(self) -> tuple[MethodName, ...]:
        """The methods whose settings are searched: those of the tables, and ``none`` where others start from it."""
        others = ("none",) if "none" in self.search and "none" not in self.methods else ()
        return (*others, *self.methods)

    @property
    def for_details(self) -> str:
        return self.backbones[0] if self.details_backbone not in self.backbones else self.details_backbone

    @property
    def has_details(self) -> bool:
        """Whether ``llmemb`` is among the methods, whose settings the search chooses, and the backbone among these."""
        return "llmemb" in self.methods and self.details_backbone in (None, *self.backbones)


def _check_backbone(name: str) -> None:
    if name not in BACKBONES and ":" not in name:
        raise ValueError(f"{name}: expected one of {', '.join(BACKBONES)}, or a path such as my.module:Class")


def check_path(path: str) -> None:
    """Raises ValueError unless a dotted path begins with a stage and is none that the study sets."""
    stage, _, key = path.partition(".")
    if stage not in STAGES or not key or key in SET_BY_THE_STUDY[stage]:
        raise ValueError(f"{path}: expected a setting of {', '.join(STAGES)}, such as rat.alignment.weight")
