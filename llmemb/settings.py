"""Every setting of a job, told by its config classes: dotted path, type, default, and what it does."""

import json
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

WIDTH = 100


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        default: As YAML would have it; None where there has to be a value.
    """

    path: str
    type: str
    default: str | None
    description: str


def settings_of(config_class: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """All settings of a config class, depth first, in the order of its source."""
    for name, field in config_class.model_fields.items():
        path = f"{prefix}{name}"
        groups = [each for each in _alternatives(field.annotation) if _is_config(each)]
        if len(groups) == 1 and field.description is None:
            yield from settings_of(groups[0], f"{path}.")
            continue
        yield Setting(path, _type(field), _default(field), " ".join((field.description or "").split()))
        for group in groups:
            yield from settings_of(group, f"{path}.")


def as_text(config_class: type[BaseModel]) -> str:
    """The settings for a terminal: a line each, and what it does below it."""
    lines = []
    for setting in settings_of(config_class):
        default = "needed" if setting.default is None else setting.default
        lines.append(f"{setting.path}: {setting.type} = {default}")
        lines += textwrap.wrap(setting.description, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def meant(path: str, config_class: type[BaseModel]) -> str | None:
    """The setting that somebody who wrote an unknown one may have meant: of that name in another group, or alike."""
    known = list(dict.fromkeys(setting.path for setting in settings_of(config_class)))
    name = path.rpartition(".")[2]
    same_name = [each for each in known if each.rpartition(".")[2] == name]
    return next(iter(same_name or get_close_matches(path, known, n=1, cutoff=0.75)), None)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _type(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [f"{signs[key]} {getattr(limit, key)}" for limit in field.metadata for key in signs if hasattr(limit, key)]
    name = _name(field.annotation)
    return f"{name} ({', '.join(limits)})" if limits else name


def _name(annotation: Any) -> str:
    """As somebody who writes YAML would call it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is types.NoneType:
        return "null"
    if origin is Annotated:
        return _name(arguments[0])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(map(_name, arguments))
    if origin in (list, tuple):
        return f"list of {_name(arguments[0])}"
    if origin is dict:
        return f"{_name(arguments[1])} by {_name(arguments[0])}"
    return str(getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    return "as below" if isinstance(value, BaseModel) else _shown(value)


def _shown(value: Any) -> str:
    """In YAML, on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, str):
        return value if value.strip() == value and value else repr(value)
    return json.dumps(value)
