"""Every key of a recipe in words, read off the models themselves: what it is, its default, what it means."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nftbench.training.config.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Key:
    """One key, as `--set` names it."""

    name: str
    """Dotted: `optimizer.lr`, `stages.beta`."""
    value: str
    """In the recipe at hand; of a key of several stages each stage's, where they differ."""
    default: str
    """Empty where a recipe must say it."""
    meaning: str


def keys(recipe: Recipe) -> list[Key]:
    """All keys of a recipe, in the order of the models."""
    return list(_keys(Recipe, [recipe], ""))


def _keys(model: type[BaseModel], values: list[Any], path: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        mine = [None if value is None else getattr(value, name) for value in values]
        inner = _model(field.annotation)
        if inner is None:
            yield Key(path + name, _shown(mine), _default(field), _meaning(field))
        else:
            flat = [one for some in mine for one in (some if isinstance(some, tuple) else [some])]
            yield from _keys(inner, flat, f"{path}{name}.")


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or a list of; None of a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model(a))), None)


def _shown(values: list[Any]) -> str:
    texts = [_text(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " | ".join(texts)


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_text, value))}]"
    return "not set" if value is None else str(value)


def _default(field: FieldInfo) -> str:
    return "" if field.is_required() else _text(field.get_default(call_default_factory=True))


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())
