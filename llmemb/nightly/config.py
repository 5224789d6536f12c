"""Settings of the nightly job."""

import re
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from llmemb import storage
from llmemb.config import Config, JobConfig, Uri, unshown
from llmemb.embed.config import EmbedConfig
from llmemb.errors import InputError
from llmemb.evaluation.config import EvaluateConfig
from llmemb.metrics.measure import metric_names
from llmemb.rat.config import RatConfig

EMBEDDINGS_FOLDER, RECOMMENDERS_FOLDER, EVALUATIONS_FOLDER = "embeddings", "recommenders", "evaluations"
FILLED = {
    "embed": ("dataset",),
    "rat": ("dataset", "embeddings", "collaborative", "item_vectors", "content_maps", "output"),
    "evaluate": ("dataset", "embeddings", "models", "rankings", "output", "across_datasets"),
}
"""The keys of each step that the night sets itself."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class RetrainConfig(Config):
    """When a recommender is trained: at the first of these."""

    every_nights: int = Field(default=7, ge=1)
    """So many nights after the last training; 1 is every night."""
    changed_share: float = Field(default=0.05, gt=0, allow_inf_nan=True)
    """Since the last training, so many items are new, changed or deleted, as a share of the catalogue."""


class PublishConfig(Config):
    """What a new recommender must reach to become the live one."""

    metric: str = "ndcg@10"
    protocol: Literal["full", "filtered"] = "full"
    slices: tuple[Literal["overall", "head", "tail", "cold"], ...] = ("overall", "tail")
    margin: float = Field(default=0.02, ge=0, lt=1)
    """It is published with at least ``1 - margin`` times the live one's figure, in each slice."""

    @field_validator("slices")
    @classmethod
    def _some_slice(cls, slices: tuple[str, ...]) -> tuple[str, ...]:
        if not slices:
            raise ValueError("expected one slice or more")
        return slices


class KeepConfig(Config):
    """What cleaning up leaves, beside whatever is live or was live before that, is LATEST, or still being made."""

    snapshots: int = Field(default=7, ge=1)
    recommenders: int = Field(default=3, ge=1)
    """And as many evaluations."""
    unfinished_hours: float = Field(default=48, ge=0)
    """What was never finished goes once nothing has been written into it for so long."""


class NightlyConfig(JobConfig):
    """One night: embeds what changed, trains when it is due, and publishes what is not worse than what is live."""

    model_config = ConfigDict(hide_input_in_errors=True)

    dataset: Uri
    """A dataset, or ``FOLDER/*`` for the last by name of those in a folder that are finished: what prepare writes
    there, one a night, named by its day."""
    output: Uri
    """The root of all nights: ``LIVE``, ``recommenders/``, ``evaluations/``, ``nights/`` and, by default,
    ``embeddings/``."""
    embed: EmbedConfig
    """As for the embed job, without ``dataset``; its ``output`` may be another root."""
    rat: RatConfig
    """As for the rat job, without its inputs and ``output``."""
    evaluate: EvaluateConfig
    """As for the evaluate job, without its inputs and ``output``."""
    retrain: RetrainConfig = RetrainConfig()
    publish: PublishConfig = PublishConfig()
    keep: KeepConfig = KeepConfig()
    lease_seconds: float = Field(default=120, gt=0)
    """The lease is renewed all the time; so long after its night was killed, another may begin."""
    webhook_variable: str | None = None
    """The environment variable that holds a URL to which the summary is posted. The URL itself is a secret, and has no
    place in a config."""

    @field_validator("webhook_variable", mode="before")
    @classmethod
    def _is_a_name(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, str) and _VARIABLE.fullmatch(value)):
            raise unshown("expected the name of an environment variable, such as NIGHT_HOOK, not the URL itself")
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Gives each step its inputs and outputs, so that they are checked as what they are."""
        if not isinstance(values, dict) or not {"dataset", "output"} <= values.keys():
            return values
        dataset, output = (_absolute(values[key], key) for key in ("dataset", "output"))
        steps = {step: values.get(step) or {} for step in FILLED}
        for step, keys in FILLED.items():
            if not isinstance(steps[step], dict):
                return values
            if written := [key for key in keys if key in steps[step]]:
                raise ValueError(f"{step}.{written[0]} is set by the night itself: expected no value")
        steps["embed"] = {"output": storage.join(output, EMBEDDINGS_FOLDER)} | steps["embed"] | {"dataset": dataset}
        recommenders = storage.join(output, RECOMMENDERS_FOLDER)
        inputs = {"dataset": dataset, "embeddings": _absolute(steps["embed"]["output"], "embed.output")}
        steps["rat"] = steps["rat"] | inputs | {"output": recommenders}
        evaluate = inputs | {"models": [recommenders], "across_datasets": True}
        steps["evaluate"] = steps["evaluate"] | evaluate | {"output": storage.join(output, EVALUATIONS_FOLDER)}
        return values | steps

    def on_dataset(self, dataset: str) -> Self:
        """The same with another dataset, in all steps."""
        steps = {step: getattr(self, step).model_copy(update={"dataset": dataset}) for step in FILLED}
        return self.model_copy(update={"dataset": dataset, **steps})

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Self:
        known = metric_names(self.evaluate.ks)
        if self.publish.metric not in known:
            raise ValueError(f"publish.metric: expected one of {', '.join(known)}, got {self.publish.metric!r}")
        return self

    def to_yaml(self) -> str:
        """Without what the night fills in, so that it can be read again."""
        import yaml

        values = self.model_dump(mode="json")
        for step, keys in FILLED.items():
            for key in keys:
                del values[step][key]
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _absolute(uri: object, key: str) -> str:
    """What steps are given; one that is wrong is told once, by its own key, and not by theirs too."""
    try:
        return storage.absolute(str(uri))
    except InputError as error:
        raise ValueError(f"{key}: {error}") from error
