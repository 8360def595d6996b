"""A recipe as it is named and overridden: found, read, changed by `--set`, compared; near names where one is wrong."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nftbench.benchmark.faults import in_words
from nftbench.parsing import parse_toml, whole_number
from nftbench.training.config.recipe import Recipe
from nftbench.training.config.unused import refuse_unused
from rewards.base import ConfigError, did_you_mean

NUMBERED = re.compile(r"\.([0-9]+)(?=\.)")
"""One of several sections as faults name it, `stages.0.lr`; beside `stages[0].lr`."""


def folder() -> Path:
    """Where the shipped recipes lie."""
    return Path(str(files("nftbench"))) / "recipes"


def names() -> list[str]:
    """All shipped recipes."""
    return sorted(p.stem for p in folder().glob("*.toml"))


def load_recipe(name: str, settings: Iterable[str] = (), **top: Any) -> Recipe:
    """Read a recipe and apply what the command line changes.

    Args:
        name: a shipped recipe or a TOML file.
        settings: `section.key=value` each, the value in TOML or bare text; `stages.key` means every stage,
            `stages[0].key` or `stages.0.key` the first.
        top: values of top-level keys; None leaves one as it is.

    Raises:
        ConfigError: no such recipe, not a TOML file, an unknown key (the near one is named), a value out of range, or a
            setting that would change nothing.
    """
    fields = _toml(name)
    fields |= {k: v for k, v in top.items() if v is not None}
    return _with(fields, settings, name)


def refuse_twice(flags: Mapping[str, Any], settings: Iterable[str]) -> None:
    """Refuse a setting that a command line names by a flag of its own and by `--set`, and not alike.

    Args:
        flags: value of each flag, by the setting that it means; None where it was left out.
        settings: `section.key=value` each, of which a later one replaces an earlier one.

    Raises:
        ConfigError: names it, and both values.
    """
    for name, _, text in (setting.partition("=") for setting in settings):
        value = flags.get(name.strip())
        if value is not None and str(value) != text.strip():
            raise ConfigError(
                f"{name.strip()} is set twice, as {value} and as {text.strip()}; leave one of them out"
            )


def changed(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """A recipe with single settings changed, as `load_recipe` takes them.

    Raises:
        ConfigError: an unknown key, a value out of range, or a setting that would change nothing.
    """
    return _with(recipe.model_dump(mode="json"), settings, recipe.name)


def difference(one: Recipe, other: Recipe) -> list[str]:
    """Dotted names of the settings in which two recipes differ."""
    mine, theirs = flat(one.model_dump(mode="json")), flat(other.model_dump(mode="json"))
    return sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))


def _with(fields: dict[str, Any], settings: Iterable[str], name: str) -> Recipe:
    named: dict[str, Any] = {}
    for setting in settings:
        named |= flat(_set(fields, setting))
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"recipe {name}: {in_words(error, Recipe)}") from None
    refuse_unused(recipe, named)
    return recipe


def _toml(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith(".toml") else folder() / f"{name}.toml"
    if not path.is_file() and name.endswith(".toml"):
        what = "a folder" if path.is_dir() else "not there"
        raise ConfigError(f"no recipe file {path}: it is {what}")
    if not path.is_file():
        expected = f"expected one of {', '.join(names())}, or a .toml file"
        raise ConfigError(f"unknown recipe {name!r}{did_you_mean(name, names(), expected)}")
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not a valid TOML file: {path}: {error}") from None


def _set(fields: dict[str, Any], setting: str) -> dict[str, Any]:
    """Set it; what was set, by its dotted name."""
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise ConfigError(f"expected --set section.key=value, got {setting!r}")
    *sections, key = NUMBERED.sub(r"[\1]", path.strip()).split(".")
    value = _value(text.strip())
    for target in _targets(fields, sections, setting):
        target[key] = value
    return {path.strip(): value}


def _targets(fields: dict[str, Any], sections: list[str], setting: str) -> list[dict[str, Any]]:
    """The tables that a dotted name means: one, or every stage."""
    tables: list[Any] = [fields]
    for section in sections:
        tables = [_inner(table, section, setting) for table in tables]
        tables = [t for table in tables for t in (table if isinstance(table, list) else [table])]
    return tables


def _inner(table: dict[str, Any], section: str, setting: str) -> Any:
    name, bracket, index = section.partition("[")
    inner = table.get(name)
    if inner in (None, "off"):  # one key begins a section, also one that was switched off
        inner = table[name] = {}
    if bracket:
        number = whole_number(index.removesuffix("]"))
        if not isinstance(inner, list) or number is None or number >= len(inner):
            raise ConfigError(f"--set {setting}: there is no {section}")
        inner = inner[number]
    if not isinstance(inner, (dict, list)):
        raise ConfigError(f"--set {setting}: {name} is a value, not a section")
    return inner


def _value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string: --set policy.method=full


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        pairs = enumerate(value)
    else:
        return {name: value}
    inner = [flat(v, f"{name}.{k}" if name else str(k)) for k, v in pairs]
    return {k: v for part in inner for k, v in part.items()}
