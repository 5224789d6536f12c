"""Job configuration: YAML and ``key=value`` overrides, validated before any work starts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from llmemb import storage
from llmemb.errors import InputError
from llmemb.settings import meant

_UNSHOWN = "unshown"
LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^!?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
NodeLabels = dict[LabelKey, LabelValue]
"""Labels of the Ray nodes that work may run on; ``!value`` is any other value, or none."""


Uri = Annotated[str, AfterValidator(storage.absolute)]
"""A URI, or a local path, which becomes absolute, so that every node means the same place."""


def _absolute_where_it_is_local(uri: str) -> str:
    return str(Path(uri).absolute()) if "://" not in uri and Path(uri).exists() else uri


ModelUri = Annotated[str, AfterValidator(_absolute_where_it_is_local)]
"""A model folder: local, in a store, ``package://NAME/FOLDER``, or a name on the Hugging Face hub. A local one becomes
absolute: workers run in other directories, where its relative path would be looked up on the hub."""


class Config(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class JobConfig(Config):
    """The settings of one job."""

    execution_keys: ClassVar[frozenset[str]] = frozenset()
    """Top-level keys that say how a job runs, not what it makes: a resumption may differ in them."""

    @classmethod
    def load(cls, path: str, overrides: Sequence[str] = ()) -> Self:
        """Reads a YAML file, merges ``section.key=value`` overrides over it and validates.

        Raises:
            InputError: naming the dotted path of every wrong key and what was expected there.
        """
        return cls.parse(read_yaml(path, overrides))

    @classmethod
    def parse(cls, values: dict[Any, Any]) -> Self:
        for value in _texts(values):
            storage.check_no_password(value)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            told = [_describe(each, cls) for each in error.errors()]
            raise InputError("config: " + "; ".join(told)) from error

    def identity(self) -> dict[str, Any]:
        """The settings that determine what the job makes, as plain JSON values."""
        return self.model_dump(mode="json", exclude={"output", *self.execution_keys})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def unshown(message: str) -> PydanticCustomError:
    """For a validator: an error that does not show the value, which may be a secret."""
    return PydanticCustomError(_UNSHOWN, message)


def read_yaml(path: str, overrides: Sequence[str] = ()) -> dict[Any, Any]:
    """A job's YAML file over the one that it names as its ``base``, with overrides merged over both and references
    resolved, not validated yet.

    A mapping is merged key by key; an override ``section={}`` leaves nothing of the files'.

    Raises:
        InputError: no such file, not keys and values in YAML, a base that is none, or an override that is none.
    """
    if not Path(path).is_file():
        raise InputError(f"config: no such file: {path}")
    for override in overrides:
        if "=" not in override:
            raise InputError(f"config: override {override!r}: expected section.key=value")
    try:
        merged = _over_base(path)
        for override in overrides:
            merged = _overridden(merged, override)
        return cast(dict[Any, Any], OmegaConf.to_container(merged, resolve=True))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(f"config: {path}: {' '.join(str(error).split())}") from error


def _over_base(path: str, read: frozenset[Path] = frozenset()) -> Any:
    """A file's settings merged over those of its base, which lies relative to it and may have one too."""
    with Path(path).open("rb") as file:  # of a stream, an error tells the line without showing it
        written = yaml.safe_load(file) or {}
    if not isinstance(written, dict):
        raise InputError(f"config: {path}: expected keys and values, got a {type(written).__name__}")
    settings: Any = OmegaConf.load(path)
    named = settings.pop("base", None)
    if named is None:
        return settings
    if not isinstance(named, str):
        raise InputError(f"config: {path}: base: expected another YAML file, got {named!r}")
    storage.check_no_password(named)
    base, read = Path(path).parent / named, read | {Path(path).resolve()}
    if not base.is_file():
        raise InputError(f"config: {path}: base: no such file: {base}")
    if base.resolve() in read:
        raise InputError(f"config: {path}: base: {base} starts from this file: expected another")
    return OmegaConf.merge(_over_base(str(base), read), settings)


def _overridden(settings: Any, override: str) -> Any:
    key, _, value = override.partition("=")
    try:
        if value.strip() != "{}":
            return OmegaConf.merge(settings, OmegaConf.from_dotlist([override]))
        OmegaConf.update(settings, key, {}, merge=False)
        return settings
    except OmegaConfBaseException:
        raise
    except (TypeError, ValueError) as error:  # of a key inside a list
        raise InputError(
            f"config: override {key}: the file has a list there; expected the whole of it, [a, b]"
        ) from error


def _texts(value: object) -> Iterator[str]:
    """All strings in it, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _describe(error: Any, config_class: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    at = f"{where}: " if where else ""
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        other = meant(where, config_class)
        return f"{at}unknown key" + (f"; expected {other}?" if other else "")
    if kind == "missing":
        return f"{at}missing"
    if kind == "union_tag_not_found":
        return f"{at}expected {error['ctx']['discriminator']}, which says what kind it is"
    message = error["msg"].removeprefix("Value error, ")
    if kind == "tuple_type":
        message = "expected a list, such as [a, b]"
    names_it = isinstance(error.get("ctx", {}).get("error"), InputError)
    # A check of several keys names them, and all of them are too many to show.
    if isinstance(given, dict) or kind == _UNSHOWN or names_it:
        return f"{at}{message}"
    shown = repr(given)
    return f"{at}{message}, got {shown if len(shown) <= 60 else shown[:57] + '...'}"
