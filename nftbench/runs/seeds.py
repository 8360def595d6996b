"""Several seeds of one thing: a run folder a seed under one parent.

PARENT/seeds.json            the seeds that were asked for: [0, 1, 2]
PARENT/seed-0, seed-1, ...   a run each, of `nftbench train --seeds` or of `nftbench eval PARENT`
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nftbench.parsing import parse_json
from nftbench.runs.io import write_atomic
from nftbench.runs.lock import hold
from nftbench.runs.manifest import strangers
from rewards.base import ConfigError

SEEDS = "seeds.json"
"""In a parent: the seeds that were asked for."""


def is_parent(folder: Path) -> bool:
    """Whether it holds the runs of several seeds."""
    return (folder / SEEDS).is_file()


def refuse_parent(folder: Path, remedy: str = "") -> None:
    """Refuse the runs of several seeds where one is meant.

    Args:
        folder: what was named.
        remedy: what else to do than to name one of them.

    Raises:
        ConfigError: it is a parent; names one of its runs.
    """
    if is_parent(folder):
        raise ConfigError(
            f"{folder} holds a run a seed; {remedy}name one of its runs: {folder_of(folder, seeds_of(folder)[0])}"
        )


def folder_of(parent: Path, seed: int) -> Path:
    """A seed's run."""
    return parent / f"seed-{seed}"


def counted(word: str, numbers: Sequence[int]) -> str:
    """`seed 0`, or `seeds 0, 1, 2`."""
    return f"{word}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def write_parent(parent: Path, seeds: Sequence[int]) -> list[Path]:
    """Note the seeds of a parent, beside those that it has; the run folders of the new ones.

    Raises:
        ConfigError: the folder belongs to something else.
    """
    _add(parent, seeds)
    return [folder_of(parent, seed) for seed in seeds]


@contextmanager
def noted(parent: Path, seeds: Sequence[int]) -> Iterator[list[Path]]:
    """As `write_parent`; a block that is refused leaves none of its seeds noted of which nothing was begun.

    Such a seed would be missing from every mean, and nobody could say why.
    """
    added = _add(parent, seeds)
    try:
        yield [folder_of(parent, seed) for seed in seeds]
    except ConfigError:
        _forget(parent, [seed for seed in added if not folder_of(parent, seed).exists()])
        raise


def _add(parent: Path, seeds: Sequence[int]) -> list[int]:
    """Note seeds; those that were not noted before."""
    if parent.exists() and not parent.is_dir():
        raise ConfigError(f"{parent} is a file; seeds need a folder")
    with hold(parent, part="seeds", brief=True):  # two commands may add theirs at once
        if not is_parent(parent) and strangers(parent):
            raise ConfigError(f"{parent} holds other files; choose another --out for the seeds")
        known = seeds_of(parent) if is_parent(parent) else []
        added = [seed for seed in seeds if seed not in known]
        _note(parent, [*known, *added])
    return added


def _forget(parent: Path, seeds: Sequence[int]) -> None:
    with hold(parent, part="seeds", brief=True):
        known = seeds_of(parent) if is_parent(parent) else []
        kept = [seed for seed in known if seed not in seeds]
        if kept != known:
            _note(parent, kept)
        if not kept:
            (parent / SEEDS).unlink(missing_ok=True)
    with suppress(OSError):  # of a folder that holds anything
        parent.rmdir()


def _note(parent: Path, seeds: Sequence[int]) -> None:
    write_atomic(parent / SEEDS, f"{json.dumps(seeds)}\n".encode())


def seeds_of(parent: Path) -> list[int]:
    """The seeds that were asked for.

    Raises:
        ConfigError: the note is broken, or names a seed twice.
    """
    path = parent / SEEDS
    try:
        seeds = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is broken: {error}; expected a list such as [0, 1, 2]") from None
    whole = isinstance(seeds, list) and all(type(s) is int and s >= 0 for s in seeds)
    if not whole or not seeds:
        raise ConfigError(f"{path}: expected a list of seeds such as [0, 1, 2], got {seeds!r}")
    twice = sorted({s for s in seeds if seeds.count(s) > 1})
    if twice:
        raise ConfigError(f"{path} names seed {twice[0]} twice; a run a seed is enough")
    return seeds
