"""Prompt files of others, which are never shipped: fetched once, checked, kept in the data cache.

They go through the machinery of `rewards.weights.pull`: resumed downloads, mirrors, digests, files that appear whole or
not at all.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rewards.base import ConfigError, Progress, Weight
from rewards.weights import pull as weights
from rewards.weights.sources import known_digest


def cache() -> Path:
    """Where fetched data lie: `NFTBENCH_DATA`, else `data` in the cache of weights."""
    given = os.environ.get("NFTBENCH_DATA")
    return Path(given).expanduser() if given else weights.cache() / "data"


def found(name: str, *, remedy: str) -> Path:
    """A file of the data cache.

    Args:
        name: its path in the cache.
        remedy: the command that fetches it.

    Raises:
        ConfigError: it is not there.
    """
    path = cache() / name
    if not path.is_file():
        raise ConfigError(f"{path} is missing; run: {remedy}")
    return path


def digest(asset: Weight) -> str:
    """sha256 of a file in the data cache: the pinned or recorded one, else its own; empty where it is missing."""
    path = cache() / asset.name
    if not path.is_file():
        return ""
    return known_digest(asset, path) or own_digest(path)


def own_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state(asset: Weight) -> Literal["cached", "partial", "missing"]:
    """Whether a file is in the data cache, by its size alone."""
    return weights.state(asset, folder=cache())


def pull(
    asset: Weight,
    *,
    offline: bool,
    mirrors: Sequence[str],
    accept: bool,
    progress: Progress = lambda name, done, total: None,
) -> weights.Pulled:
    """Bring a file into the data cache: see `rewards.weights.pull`."""
    return weights.pull(
        asset, folder=cache(), offline=offline, mirrors=mirrors, accept=accept, progress=progress
    )


def set_aside(name: str) -> Path:
    """Take a file that turned out to be another one from under its name; where it lies now."""
    path = cache() / name
    path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
    return path.replace(path.with_name(f"{path.name}.wrong"))
