"""One recipe with several seeds, one run folder a seed under one parent, read as one result."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nftbench.runs.io import write_atomic
from nftbench.stats.paired import Change
from nftbench.stats.seeds import over_seeds
from nftbench.training.callbacks.metrics_log import (
    HELD_OUT,
    held_out_columns,
    read_averaging,
    read_metrics,
)
from rewards.base import ConfigError

SEEDS = "seeds.json"
"""In a parent: the seeds that were asked for."""


def parse(text: str) -> list[int]:
    """The seeds of `0,1,2`.

    Raises:
        ConfigError: no whole numbers, or one of them twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise ConfigError(
            f"expected --seeds as whole numbers with commas, such as 0,1,2, got {text!r}"
        )
    seeds = [int(part) for part in parts]
    twice = sorted({s for s in seeds if seeds.count(s) > 1})
    if twice:
        raise ConfigError(f"seed {twice[0]} stands twice in --seeds {text}; a run a seed is enough")
    return seeds


def write_parent(parent: Path, seeds: Sequence[int]) -> list[Path]:
    """Note the seeds of a parent; their run folders.

    Raises:
        ConfigError: the folder belongs to something else.
    """
    if parent.exists() and not (parent / SEEDS).is_file() and any(parent.iterdir()):
        raise ConfigError(f"{parent} holds other files; choose another --out for the seeds")
    write_atomic(parent / SEEDS, f"{json.dumps(list(seeds))}\n".encode())
    return [folder_of(parent, seed) for seed in seeds]


def folder_of(parent: Path, seed: int) -> Path:
    """A seed's run."""
    return parent / f"seed-{seed}"


def is_parent(folder: Path) -> bool:
    """Whether it holds the runs of several seeds."""
    return (folder / SEEDS).is_file()


def runs_of(parent: Path) -> list[Path]:
    """The runs of a parent that are finished, in the order of the seeds."""
    seeds = json.loads((parent / SEEDS).read_text(encoding="utf-8"))
    folders = [folder_of(parent, seed) for seed in seeds]
    return [f for f in folders if (f / HELD_OUT / "after.parquet").is_file()]


def read_seeds(parent: Path) -> list[Change]:
    """Held-out metrics before and after, the mean over a parent's finished runs; empty before the first is."""
    runs = runs_of(parent)
    if not runs:
        return []
    before, after = (
        [pd.read_parquet(run / HELD_OUT / f"{when}.parquet") for run in runs]
        for when in ("before", "after")
    )
    return over_seeds(before, after, read_averaging(runs[0], before[0]))


def curves(parent: Path) -> None:
    """Draw `curve.png`: every held-out metric of all seeds, their mean and the range between the lowest and highest."""
    from matplotlib.figure import Figure

    tables = [read_metrics(run).set_index("iteration") for run in runs_of(parent)]
    columns = sorted({c for t in tables for c in held_out_columns(t)})
    if not columns:
        return
    figure = Figure(figsize=(6, 2.6 * len(columns)), layout="constrained")
    axes = figure.subplots(len(columns), 1, squeeze=False)[:, 0]
    for axis, column in zip(axes, columns, strict=True):
        found = pd.concat([t[column].dropna() for t in tables if column in t], axis=1)
        for _, seed in found.items():
            axis.plot(seed.index, seed, linewidth=0.8, alpha=0.6)
        low, high = np.nanmin(found, axis=1), np.nanmax(found, axis=1)
        axis.fill_between(found.index, low, high, alpha=0.2)
        axis.plot(found.index, found.mean(axis=1), marker="o", markersize=3, color="black")
        axis.set_title(column.removeprefix("held_out/"), loc="left", fontsize=10)
        axis.set_xlabel(f"iteration; {found.shape[1]} seeds, their mean and range")
        axis.grid(alpha=0.3)
    temporary = parent / ".curve.png"
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(parent / "curve.png")
