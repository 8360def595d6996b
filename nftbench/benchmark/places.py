"""Where benchmarks and suites are looked for: those that ship with the project, then a user's own folders.

A folder of a user's own looks like `benchmarks/`: a TOML a benchmark, prompt files in `prompts/`, suites in `suites/`
or beside the benchmarks. An own name never stands for a shipped one.
"""

import functools
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from nftbench.parsing import parse_toml
from nftbench.resources import data_folder
from rewards.base import ConfigError

ENVIRONMENT = "NFTBENCH_BENCHMARKS"
"""Names folders of benchmarks, parted as in `PATH`."""
LARGEST = 1 << 20
"""Bytes of a TOML that is looked at."""
Kind = Literal["generating", "ranking", "suite"]

_added: list[Path] = []


def shipped() -> Path:
    """Where the project's own lie, in a checkout and in an installed wheel alike."""
    return data_folder("benchmarks")


def add(folder: Path) -> None:
    """Look in a folder too, before those that were added earlier.

    Raises:
        ConfigError: it is not a folder.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"not a folder: {folder}; expected one with a TOML a benchmark and prompt files in prompts/"
        )
    whole = folder.resolve()
    if whole in _added:
        _added.remove(whole)
    _added.insert(0, whole)


@contextmanager
def kept_if_sound(folder: Path) -> Iterator[None]:
    """Look in a folder too (`add`), from then on only where what is done with it succeeds."""
    before = [*_added]
    add(folder)
    try:
        yield
    except ConfigError:
        _added[:] = before
        raise


def own() -> list[Path]:
    """The user's folders, the first one wins."""
    named = [Path(p).expanduser() for p in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if p]
    for folder in named:
        if not folder.is_dir():
            raise ConfigError(f"{ENVIRONMENT} names {folder}, which is not a folder")
    return [*_added, *named]


def find(kind: Kind) -> dict[str, Path]:
    """Name and file of everything of a kind.

    Raises:
        ConfigError: a user's own has the name of a shipped one.
    """
    home = shipped()
    files = (home / "suites").glob("*.toml") if kind == "suite" else home.glob("*.toml")
    found = {p.stem: p for p in files if kind == "suite" or kind_of(p) == kind}
    mine = [p for folder in reversed(own()) for p in _tomls(folder) if kind_of(p) == kind]
    for path in mine:
        if path.stem in found and found[path.stem].is_relative_to(home):
            raise ConfigError(
                f"{path} has the name of a benchmark or suite that ships with the project; rename it"
            )
        found[path.stem] = path
    return dict(sorted(found.items()))


def neither(name: str) -> Path | None:
    """A user's file of a name that is neither a benchmark nor a suite, where nothing else has the name."""
    if any(name in find(kind) for kind in get_args(Kind)):
        return None
    files = (path for folder in own() for path in _tomls(folder) if path.stem == name)
    return next((path for path in files if not kind_of(path)), None)


def _tomls(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.toml"))
    yield from sorted((folder / "suites").glob("*.toml"))


def kind_of(path: Path) -> str:
    """What a TOML describes; empty for what is neither a benchmark nor a suite."""
    about = path.stat()
    return _kind(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=1024)
def _kind(path: Path, changed: int, size: int) -> str:
    try:
        found = parse(path)
    except ConfigError:  # said when it is read by name
        return "suite" if path.parent.name == "suites" else "generating"
    if found.get("kind") in get_args(Kind):
        return str(found["kind"])
    if "benchmarks" in found:
        return "suite"
    return "generating" if "prompts" in found else ""


def parse(path: Path) -> dict[str, Any]:
    """A TOML's content.

    Raises:
        ConfigError: it cannot be read, is no UTF-8 or no TOML, or is far too long for one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ConfigError(f"{path}: expected a TOML of at most {LARGEST} bytes")
        data = data.removeprefix(b"\xef\xbb\xbf")  # a mark that Windows' editors write
        return parse_toml(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
