"""Leaderboards: one CSV a benchmark, a row a number, never without its error and its protocol."""

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from nftbench.rows import Row
from nftbench.store import write_atomic
from rewards.base import ConfigError

IDENTITY = [
    "model",
    "checkpoint",
    "benchmark",
    "metric",
    "variant",
    "aggregate",
    "protocol",
    "source",
]
"""A new row replaces an old one that agrees in these."""


def folder() -> Path:
    """Where the leaderboards lie, in a checkout and in an installed wheel alike."""
    return Path(str(files("leaderboards")))


def publish(rows: Sequence[Row], where: Path | None = None) -> list[Path]:
    """Add rows to the leaderboards of their benchmarks.

    Args:
        rows: measured rows.
        where: the leaderboards' folder; the project's own when None.

    Returns:
        The CSV files written.

    Raises:
        ConfigError: a row that may not be published: from a limited run, without an error, with nothing scored;
            or a leaderboard whose columns are other ones. Nothing was written then.
    """
    for row in rows:
        _refuse(row)
    merged = {}  # all of them before any is written: a broken one leaves the others as they were
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        path = (where or folder()) / f"{benchmark}.csv"
        new = pd.DataFrame([r.model_dump(mode="json") for r in rows if r.benchmark == benchmark])
        merged[path] = _merge(path, new)
    for path, table in merged.items():
        write_atomic(path, table.to_csv(index=False, lineterminator="\n").encode())
    return list(merged)


def _refuse(row: Row) -> None:
    name = f"{row.benchmark} {row.metric} ({row.aggregate})"
    if row.limited:
        raise ConfigError(
            f"{name} is from a run with --limit and cannot be published; run it whole"
        )
    if row.n == 0 or not math.isfinite(row.stderr):
        raise ConfigError(
            f"{name} has no standard error (n = {row.n}, {row.n_failed} failed) and cannot be published"
        )


def _merge(path: Path, new: pd.DataFrame) -> pd.DataFrame:
    if not path.is_file():
        return new
    try:  # as text: a row that is kept is kept to the byte
        old = pd.read_csv(path, keep_default_na=False, dtype=str)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ConfigError(f"{path} is no table: {error}; mend or remove it") from None
    if list(old.columns) != list(new.columns):
        raise ConfigError(
            f"{path}: expected the columns {', '.join(new.columns)}; got {', '.join(old.columns)}"
        )
    known = new[IDENTITY].astype(str).agg("|".join, axis=1)
    kept = old[~old[IDENTITY].astype(str).agg("|".join, axis=1).isin(set(known))]
    return pd.concat([kept, new], ignore_index=True) if len(kept) else new
