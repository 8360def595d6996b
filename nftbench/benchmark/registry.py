"""Benchmarks and suites by name: found, read, and turned into the protocols that are run."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nftbench.benchmark import own, places
from nftbench.benchmark.faults import in_words
from nftbench.benchmark.schema import Benchmark, Protocol, over
from nftbench.benchmark.suites import Suite
from rewards.base import ConfigError, Prompt, did_you_mean


def protocols_of(suite: Suite, **changes: Any) -> dict[Protocol, tuple[str, ...]]:
    """What must be generated, each protocol once, with the rewards that judge it.

    Args:
        suite: which.
        **changes: settings that the user changed, as in `Benchmark.protocol`; None leaves one as it is. A cell's
            own settings stay.

    Returns:
        Of every column's protocol the rewards of all columns that share it, in the order of the columns; of a
        benchmark without a column its own rewards.

    Raises:
        ConfigError: a value out of range.
    """
    changed = {k: v for k, v in changes.items() if v is not None}
    fixed = over(suite.settings.given, changed)
    found: dict[Protocol, list[str]] = {}
    for column in suite.columns:
        protocol = load_benchmark(column.benchmark).protocol(**over(fixed, column.settings.given))
        found.setdefault(protocol, []).append(column.reward)
    columned = {column.benchmark for column in suite.columns}
    for benchmark in (load_benchmark(n) for n in suite.benchmarks if n not in columned):
        found[benchmark.protocol(**fixed)] = list(benchmark.rewards)
    return {protocol: tuple(dict.fromkeys(keys)) for protocol, keys in found.items()}


def names(kind: places.Kind = "generating") -> list[str]:
    """All benchmarks of a kind: `generating`, or `ranking` for those that judge a scorer by ready images."""
    return list(places.find(kind))


def suite_names() -> list[str]:
    """All suites."""
    return list(places.find("suite"))


def load_benchmark(name: str) -> Benchmark:
    """Read a benchmark by name.

    Raises:
        ConfigError: no such benchmark (the near name is suggested), one that ranks ready images, or a broken file.
    """
    if name in names("ranking"):
        raise ConfigError(
            f"{name} ranks ready images and generates none; run: nftbench data rank {name} IMAGES"
        )
    _refuse_neither(places.neither(name))
    return read(Benchmark, known(name, names(), "benchmark"))


def load_suite(name: str) -> Suite:
    """Read a suite by name or by its TOML file; a benchmark's name is a suite of one.

    A file's benchmarks are looked for beside it, too.

    Raises:
        ConfigError: no such suite or benchmark; the near name is suggested.
    """
    if name.endswith(".toml"):
        return _suite_file(Path(name))
    if name in names():
        return Suite(name=name, title=load_benchmark(name).title, benchmarks=(name,))
    if name in names("ranking"):
        load_benchmark(name)
    _refuse_neither(places.neither(name))
    return read(Suite, known(name, suite_names() + names(), "suite or benchmark"), "suite")


DECIDING = ("benchmarks", "prompts")
"""Keys that tell a suite from a benchmark."""


def _suite_file(path: Path) -> Suite:
    """A suite, or a benchmark alone, of a user's own."""
    places.parse(path)  # said of the file itself where it cannot be read
    if not places.kind_of(path):
        _refuse_neither(path)
    folder = path.resolve().parent
    with places.kept_if_sound(folder.parent if folder.name == "suites" else folder):
        suite = load_suite(path.stem)
        for name in suite.benchmarks:
            load_benchmark(name)
        return suite


def _refuse_neither(path: Path | None) -> None:
    """Refuse a file that lacks what tells a suite from a benchmark."""
    if path is not None:
        found = places.parse(path)
        hint = "".join(did_you_mean(key, DECIDING) for key in found)
        raise ConfigError(
            f"{path} is neither a suite nor a benchmark: expected the key 'benchmarks' (of a suite) or the table "
            f"'prompts' (of a benchmark), got {', '.join(found) or 'nothing'}{hint}"
        )


def choose(prompts: list[Prompt], limit: int | None) -> list[Prompt]:
    """At most `limit` prompts, spread evenly over the file; a very small limit leaves out rare tasks."""
    if limit is None or limit >= len(prompts):
        return prompts
    if limit < 1:
        raise ConfigError(f"expected a limit of at least 1, got {limit}")
    return [prompts[i * len(prompts) // limit] for i in range(limit)]


def known(name: str, there: list[str], kind: str) -> str:
    """The name, or a refusal that suggests the near one, or else lists what there is."""
    if name in there:
        return name
    listed = did_you_mean(name, there, f"available: {', '.join(there)}")
    raise ConfigError(f"unknown {kind} {name!r}{listed}")


_Model = TypeVar("_Model", bound=BaseModel)


def read(model: type[_Model], name: str, kind: places.Kind = "generating") -> _Model:
    """One TOML as a model; a fault is named with file and field."""
    path = places.find(kind)[name]
    record = places.parse(path)
    if not path.is_relative_to(places.shipped()):
        record = own.completed(path, record)
    try:
        found = model.model_validate(record)
    except ValidationError as error:
        raise ConfigError(f"{path}: {in_words(error, model)}") from None
    if isinstance(found, Benchmark):
        found.lies_in(path.parent)
    return found
