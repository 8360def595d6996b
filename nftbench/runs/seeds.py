"""Several seeds of one thing: a run folder a seed under one parent.

PARENT/seeds.json            the seeds that were asked for: [0, 1, 2]
PARENT/seed-0, seed-1, ...   a run each, of `nftbench train --seeds` or of `nftbench eval PARENT`
"""

import json
from collections.abc import Sequence
from pathlib import Path

from nftbench.parsing import parse_json
from nftbench.runs.io import write_atomic
from rewards.base import ConfigError

SEEDS = "seeds.json"
"""In a parent: the seeds that were asked for."""


def is_parent(folder: Path) -> bool:
    """Whether it holds the runs of several seeds."""
    return (folder / SEEDS).is_file()


def folder_of(parent: Path, seed: int) -> Path:
    """A seed's run."""
    return parent / f"seed-{seed}"


def write_parent(parent: Path, seeds: Sequence[int]) -> list[Path]:
    """Note the seeds of a parent, beside those that it has; the run folders of the new ones.

    Raises:
        ConfigError: the folder belongs to something else.
    """
    if parent.exists() and not is_parent(parent) and any(parent.iterdir()):
        raise ConfigError(f"{parent} holds other files; choose another --out for the seeds")
    known = seeds_of(parent) if is_parent(parent) else []
    everything = [*known, *(seed for seed in seeds if seed not in known)]
    write_atomic(parent / SEEDS, f"{json.dumps(everything)}\n".encode())
    return [folder_of(parent, seed) for seed in seeds]


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
