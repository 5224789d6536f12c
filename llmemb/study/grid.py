"""From a study's config to its trials, and from a trial to the configs of the jobs that it is made of."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, TypeVar

from llmemb import storage
from llmemb.config import JobConfig
from llmemb.embed.config import EmbedConfig
from llmemb.errors import InputError
from llmemb.rat.config import READS, RatConfig
from llmemb.rat.item_vectors import vectors_identity
from llmemb.rat.methods import METHODS
from llmemb.scft.config import ScftConfig
from llmemb.study.config import Settings, StudyConfig

ConfigT = TypeVar("ConfigT", bound=JobConfig)
MODEL = "rat.model."
MADE_HERE = ("encoders", "embeddings", "trials")
CONTENT_MAPS = "content_maps"


@dataclass(frozen=True)
class Trial:
    """One recommender of the study.

    Attributes:
        settings: What differs from the study's own config, by dotted path.
    """

    method: str
    backbone: str
    seed: int
    settings: Settings = field(default_factory=dict)

    @property
    def described(self) -> str:
        changed = ", ".join(f"{path}={value}" for path, value in sorted(self.settings.items()))
        return f"{self.method} on {self.backbone}, seed {self.seed}" + (f", {changed}" if changed else "")


class Grid:
    """The study's trials and where each one's parts are.

    Everything is named by the fingerprint of what it is made from, so that trials that agree in a part share it, and a
    study with another grid finds what is finished.

    Args:
        dataset: The dataset's fingerprint.
    """

    def __init__(self, config: StudyConfig, dataset: str) -> None:
        self.config, self._dataset = config, dataset
        self._chosen: dict[tuple[str, str], Settings] = {}

    def choose(self, method: str, backbone: str, settings: Settings) -> None:
        """Makes settings those of a method on a backbone, in the tables and wherever it is started from."""
        self._chosen[method, backbone] = settings

    def before_choosing(self) -> Iterator["Grid"]:
        """The study as it will be, for each choice that the search may make for the method of the details."""
        backbone = self.config.for_details
        for settings in [trial.settings for trial in self.candidates("llmemb", backbone)] or [{}]:
            grid = Grid(self.config, self._dataset)
            grid.choose("llmemb", backbone, settings)
            yield grid

    def trial(self, method: str, backbone: str, seed: int, changed: Mapping[str, Any] | None = None) -> Trial:
        """The method with its chosen settings, and what an experiment changes in them."""
        return Trial(method, backbone, seed, {**self._chosen.get((method, backbone), {}), **(changed or {})})

    def candidates(self, method: str, backbone: str) -> list[Trial]:
        """What is tried to choose a method's settings, with the first seed; nothing where there is no choice."""
        space = self.config.search.get(method, {})  # type: ignore[call-overload]
        combinations = [dict(zip(space, values, strict=True)) for values in product(*space.values())] if space else []
        return [Trial(method, backbone, self.config.seeds[0], combination) for combination in combinations]

    def table(self, method: str, backbone: str) -> list[Trial]:
        """A row of the comparison: a trial for every seed."""
        return [self.trial(method, backbone, seed) for seed in self.config.seeds]

    def ablations(self) -> dict[str, list[Trial]]:
        """By name, a trial for every seed; the whole method first."""
        changes: dict[str, Settings] = {METHODS["llmemb"].label: {}, **self.config.ablations}
        wanted = self.config.ablations and self.config.has_details
        return {name: self._detail(change) for name, change in changes.items()} if wanted else {}

    def sensitivity(self) -> dict[str, dict[float, list[Trial]]]:
        """By path and value, rising, a trial for every seed; the chosen value among them."""
        return {
            path: {value: self._detail({path: value}) for value in sorted({*values, self._present(path)})}
            for path, values in self.config.sensitivity.items()
            if self.config.has_details
        }

    def all_trials(self) -> Iterator[Trial]:
        """All but those of the search; some more than once."""
        for backbone, method in product(self.config.backbones, self.config.methods):
            yield from self.table(method, backbone)
        for trials in self.ablations().values():
            yield from trials
        for by_value in self.sensitivity().values():
            for trials in by_value.values():
                yield from trials

    def ids_alone(self) -> list[Trial]:
        """The ID-only trials: those of the table, and those that others start from."""
        backbones = self.config.backbones if "none" in self.config.methods else ()
        of_table = [trial for backbone in backbones for trial in self.table("none", backbone)]
        pairs = product(self.config.methods, self.config.backbones)
        others = [*self.all_trials(), *(trial for pair in pairs for trial in self.candidates(*pair))]
        started = [self.started_from(trial) for trial in others]
        return [*of_table, *(trial for trial in started if trial is not None)]

    def purposes(self) -> dict[str, tuple[str, Trial]]:
        """By the URI of its recommender, what a trial is for (the first, where there are several), and the trial."""
        groups = [("methods", self.table(*pair)) for pair in product(self.config.methods, self.config.backbones)]
        groups += [("what others start from", self.ids_alone())]
        groups += [(f"ablation: {name}", trials) for name, trials in self.ablations().items()]
        for path, by_value in self.sensitivity().items():
            groups += [(f"sensitivity: {path}", trials) for trials in by_value.values()]
        for pair in product(self.config.searched, self.config.backbones):
            groups.append(("search", self.candidates(*pair)))
        found: dict[str, tuple[str, Trial]] = {}
        for purpose, trials in groups:
            for trial in trials:
                found.setdefault(self.rat_config(trial).output, (purpose, trial))
        return found

    def rests_on_ids(self, method: str) -> bool:
        """Whether what is tried for a method depends on the settings of the ID-only recommenders."""
        tried = (trial for backbone in self.config.backbones for trial in self.candidates(method, backbone))
        return any(map(self.started_from, tried))

    def started_from(self, trial: Trial) -> Trial | None:
        """The ID-only trial that one starts from; it has the same model."""
        config = _parse("rat", RatConfig, self._rat_values(trial) | {"dataset": "", "output": ""})
        if not config.needs_collaborative:
            return None
        settings = {path: value for path, value in trial.settings.items() if path.startswith(MODEL)}
        of_ids = self._chosen.get(("none", trial.backbone), {})
        settings |= {path: value for path, value in of_ids.items() if not path.startswith(MODEL)}
        return Trial("none", trial.backbone, trial.seed, settings)

    def scft_config(self, trial: Trial) -> ScftConfig | None:
        """How the trial's encoder is fine-tuned; None where it is given."""
        if "encoder" in self._values("embed", trial):
            return None
        return self._complete("scft", ScftConfig, self._values("scft", trial), folder="encoders")

    def embed_config(self, trial: Trial) -> EmbedConfig:
        """How the trial's embeddings are made."""
        scft, values = self.scft_config(trial), self._values("embed", trial)
        if scft is None:
            values = {"prompt": self.config.scft.get("prompt")} | values
        else:
            values = values | {"encoder": scft.output}
        return self._complete("embed", EmbedConfig, values, folder="embeddings")

    def rat_config(self, trial: Trial) -> RatConfig:
        """What the trial trains."""
        values, collaborative = self._rat_values(trial), self.started_from(trial)
        if collaborative is not None:
            values["collaborative"] = self.rat_config(collaborative).output
        prefix = f"{trial.method}-{trial.backbone.rpartition(':')[2]}-{trial.seed}-"
        config = self._complete("rat", RatConfig, values, folder="trials", prefix=prefix)
        if "item_vectors" in config.reads:  # all that they are made from is in its name already
            config = config.model_copy(update={"item_vectors": self._item_vectors(config)})
        if not config.learns_content:
            return config
        # One for all backbones, methods and settings that have no part in it; it lives and dies with the embeddings.
        assert config.embeddings is not None
        name = storage.fingerprint([self._dataset, config.content_identity()])
        maps = storage.join(config.embeddings, CONTENT_MAPS, f"{name}.safetensors")
        return config.model_copy(update={CONTENT_MAPS: maps})

    def _item_vectors(self, config: RatConfig) -> str:
        """Where the vectors are that a method's language model learns: named by what they depend on."""
        base_model, collaborative = self._named(config.base_model), self._named(config.collaborative)
        name = vectors_identity(config, dataset=self._dataset, base_model=base_model, collaborative=collaborative)
        return storage.join(self.config.output, "item_vectors", name)

    @cached_property
    def needs_embeddings(self) -> bool:
        return any("embeddings" in READS[trial.method] for trial in self.all_trials())

    def _detail(self, changed: Mapping[str, Any]) -> list[Trial]:
        return [self.trial("llmemb", self.config.for_details, seed, changed) for seed in self.config.seeds]

    def _present(self, path: str) -> float:
        """The value that a setting has in the tables."""
        stage, *keys = path.split(".")
        trial = self.trial("llmemb", self.config.for_details, self.config.seeds[0])
        configs = {"scft": self.scft_config, "embed": self.embed_config, "rat": self.rat_config}
        value: Any = configs[stage](trial)
        if value is None:
            others = [other for other in self.config.sensitivity if other.startswith("scft.")]
            raise InputError(
                f"sensitivity: {path}: embed.encoder is given, so that nothing is fine-tuned: expected none of scft's "
                f"settings; leave out {', '.join(others)}"
            )
        try:
            for key in keys:
                value = getattr(value, key)
        except AttributeError as error:
            raise InputError(f"sensitivity: {path}: there is no such setting") from error
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"sensitivity: {path}: expected a setting that is a number, this one is {value!r}")
        return value

    def _values(self, stage: str, trial: Trial) -> dict[str, Any]:
        """A stage's settings: the study's, over them those of the backbone, and over them the trial's."""
        values = copy.deepcopy(getattr(self.config, stage))
        for path, value in {**self.config.per_backbone.get(trial.backbone, {}), **trial.settings}.items():
            if path.split(".")[0] == stage:
                _set(values, path, value)
        return values

    def _rat_values(self, trial: Trial) -> dict[str, Any]:
        """What is said of a trial's recommender, without what it starts from."""
        values = self._values("rat", trial) | {"method": trial.method, "backbone": trial.backbone, "seed": trial.seed}
        reads = READS[trial.method]
        if "embeddings" in reads:
            values["embeddings"] = self.embed_config(trial).output
        for key in ("base_model", "prompt"):
            if key in reads:
                values.setdefault(key, self.config.scft.get(key))
        return values

    def _complete(
        self, stage: str, config_class: type[ConfigT], values: dict[str, Any], *, folder: str, prefix: str = ""
    ) -> ConfigT:
        """A stage's config with its output, which is named by what the output is made from, wherever the study is."""
        root = storage.join(self.config.output, folder)
        config = _parse(stage, config_class, values | {"dataset": self.config.dataset, "output": root})
        made_from = {key: self._named(value) for key, value in config.identity().items() if key != "dataset"}
        name = prefix + storage.fingerprint([self._dataset, made_from])
        return config.model_copy(update={"output": storage.join(root, name)})

    def _named(self, value: Any) -> Any:
        """A value of a config as it counts for names: what the study itself has made is known by its own name."""
        if not isinstance(value, str):
            return value
        folder, _, name = value.rpartition("/")
        return name if folder in {storage.join(self.config.output, made) for made in MADE_HERE} else value


def _parse(stage: str, config_class: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    try:
        return config_class.parse(values)
    except InputError as error:
        raise InputError(f"config: {stage}.{str(error).removeprefix('config: ')}") from error


def _set(values: dict[str, Any], path: str, value: Any) -> None:
    """Changes a stage's settings at a path, which begins with the stage."""
    stage, *parents, last = path.split(".")
    for number, key in enumerate(parents, start=1):
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            parent = ".".join([stage, *parents[:number]])
            raise InputError(f"config: {parent}: expected settings, of which {path} is one, got {values!r}")
    values[last] = value
