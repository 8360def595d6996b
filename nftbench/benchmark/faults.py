"""What is wrong with a file of settings, in the terms of the file: key, what was expected, what is there."""

import types
from collections import Counter
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rewards.base import did_you_mean

KINDS = {
    "tuple": "a list",
    "list": "a list",
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a table",
    "mapping": "a table",
    "model": "a table",
}
"""How the names of pydantic's faults begin, and what a TOML calls the value that was expected."""


def in_words(
    error: ValidationError, model: type[BaseModel] | None = None, section: tuple[str, ...] = ()
) -> str:
    """The fault that helps most, a misspelt key before one that is missing: key, what was expected, value.

    Args:
        error: as pydantic found it.
        model: whose keys are suggested; nothing is without one.
        section: of the file, where only that was read.
    """
    faults = error.errors(include_url=False)
    first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    where = ".".join(map(str, (*section, *first["loc"])))
    if first["type"] == "extra_forbidden":
        *path, key = first["loc"]
        there = _keys(model, path) if model else []
        expected = f"expected one of {', '.join(there)}" if there else ""
        return f"unknown key {where!r}{did_you_mean(str(key), there, expected)}"
    return f"{where}: {_fault(first)}" if where else _fault(first)


def _fault(fault: ErrorDetails) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "missing":
        return "expected a value, got none"
    if kind == "value_error":  # our own words
        shown = "" if isinstance(fault["input"], dict) else f", got {fault['input']!r}"
        return f"{context['error']}{shown}"
    return f"expected {_expected(fault)}, got {fault['input']!r}"


def _expected(fault: ErrorDetails) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "too_short":
        return f"a list of at least {context['min_length']}"
    if kind == "string_pattern_mismatch":
        return f"a text that matches {context['pattern']}"
    if kind.startswith(("greater", "less")):
        return f"a number {fault['msg'].removeprefix('Input should be ')}"
    named = KINDS.get(kind.partition("_")[0])
    return named or fault["msg"].removeprefix("Input should be ")


def _keys(model: type[BaseModel], section: Iterable[str | int]) -> list[str]:
    """Names of the fields of a section, given by the keys and indices that lead to it."""
    for name in section:
        if isinstance(name, str):
            model = _model_in(model.model_fields[name].annotation)
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation
    assert get_origin(annotation) is not None
    return next(_model_in(a) for a in get_args(annotation) if a is not Ellipsis)


def refuse_repeated(names: Iterable[str], what: str) -> None:
    """Refuse a list that names one thing twice.

    Args:
        names: as they are listed.
        what: one of them is, in words.

    Raises:
        ValueError: for pydantic, which adds the key.
    """
    (name, times), *_ = Counter(names).most_common(1) or [("", 0)]
    if times > 1:
        raise ValueError(f"expected each {what} once, got {name!r} {times} times; keep one")
