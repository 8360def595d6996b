"""What a report shows of trainings: curves, before and after, warnings, grids. Nothing is written here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow

from nftbench.reporting.results import Result
from nftbench.runs.run_folder import folder_name
from nftbench.runs.seeds import counted
from nftbench.stats.intervals import UNBOUNDED, MetricRange
from nftbench.stats.paired import Change
from nftbench.stats.seeds import over_seeds
from nftbench.training.callbacks.metrics_log import (
    HELD_OUT,
    METRICS,
    held_out_table,
    is_measured,
    read_averaging,
    read_changes,
    read_metrics,
    without_ends,
)
from nftbench.training.config.record import RECIPE, recipe_fields
from nftbench.training.seeds import left_out, refuse_other_seeds
from rewards.base import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFolder:
    """One run folder of `nftbench train`."""

    seed: str
    """`seed 0` of a parent's run; empty of a run that stands for itself."""
    folder: Path
    recipe: dict[str, Any]
    metrics: pd.DataFrame
    """One row an iteration."""

    @property
    def iterations(self) -> int:
        """How many are done."""
        return int(self.metrics["iteration"].max())

    @property
    def finished(self) -> bool:
        """Whether its end was measured."""
        return is_measured(self.folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """One training, or several seeds' of one recipe."""

    letter: str
    result: Result
    parts: Sequence[TrainingFolder]
    """At least one."""

    @property
    def name(self) -> str:
        """As the user calls it, or the folder's name."""
        return self.result.name

    @property
    def recipe(self) -> dict[str, Any]:
        """Of the first seed; they differ in the seed alone."""
        return self.parts[0].recipe

    @property
    def done(self) -> str:
        """How far it is, in words."""
        counts = [part.iterations for part in self.parts]
        told = f"{counts[0]} iterations done"
        if len(self.parts) > 1:
            told = f"{len(counts)} seeds, {' + '.join(map(str, counts))} iterations done"
        known = [p.metrics["minutes"].max() for p in self.parts if "minutes" in p.metrics]
        return f"{told}, {sum(known):.1f} minutes" if known else told

    @property
    def measured(self) -> str:
        """Which seeds the table of before and after is of; empty where it is of all."""
        seeds = self.result.seeds
        kept = [seed for seed, part in zip(seeds, self.parts, strict=False) if part.finished]
        others = [seed for seed in (*seeds, *self.result.lacking) if seed not in kept]
        if not others:
            return ""
        why = ", ".join(left_out(self.result.folder, others))
        return f"; mean over {counted('seed', kept)}: {why}"

    @property
    def guards(self) -> list[tuple[str, str]]:
        """(where, a guard's warning)."""
        return [found for part in self.parts for found in _warnings(part)]

    @property
    def grids(self) -> Iterator[tuple[TrainingFolder, list[tuple[int, Path]]]]:
        """Of each seed that has any: (iterations done, picture of the same prompts)."""
        for part in self.parts:
            found = sorted((part.folder / "grids").glob("*.png"))
            listed = [(int(path.stem), path) for path in found if path.stem.isdecimal()]
            if listed:
                yield part, listed


def _warnings(part: TrainingFolder) -> Iterator[tuple[str, str]]:
    if "guards" not in part.metrics:
        return
    before = f"{part.seed}, " if part.seed else ""
    for iteration, words in part.metrics[["iteration", "guards"]].dropna().to_numpy():
        for text in words if isinstance(words, list) else [words]:
            yield f"{before}iteration {int(iteration)}", str(text)


def read_trained(letter: str, result: Result) -> Trained:
    """A training and its seeds.

    Raises:
        ConfigError: a broken file, or no iteration yet.
    """
    names = [f"seed {seed}" for seed in result.seeds] or [""]
    parts = [_part(folder, name) for folder, name in zip(result.runs, names, strict=True)]
    return Trained(letter=letter, result=result, parts=parts)


def _part(folder: Path, seed: str) -> TrainingFolder:
    recipe = folder / RECIPE
    try:
        metrics = read_metrics(folder)
        settings = recipe_fields(recipe) if recipe.is_file() else {}
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(
            f"{folder} holds a file that is not JSON: {error}; remove the broken line"
        ) from None
    if "iteration" not in metrics:
        raise ConfigError(f"{folder / METRICS} holds no iteration; train a little longer")
    return TrainingFolder(seed=seed, folder=folder, recipe=settings, metrics=metrics)


# --- held-out prompts -----------------------------------------------------------------------------


def changes(one: Trained) -> list[Change]:
    """Held-out metrics before and after, over the seeds that are finished; empty before the first is.

    Raises:
        ConfigError: its tables are broken, or its seeds, of which curves show the mean, are of several recipes.
    """
    parts = [part for part in one.parts if part.finished]
    refuse_other_seeds([part.folder for part in one.parts if part.recipe])
    return _careful(one, lambda: _changes(parts)) if parts else []


def _changes(parts: Sequence[TrainingFolder]) -> list[Change]:
    if len(parts) == 1:
        return read_changes(parts[0].folder)
    before, after = (
        [held_out_table(part.folder / HELD_OUT / f"{when}.parquet") for part in parts]
        for when in ("before", "after")
    )
    return over_seeds(before, after, read_averaging(parts[0].folder, before[0]))


def prompts_shown(one: Trained) -> list[str]:
    """Which prompts the table and the curves are of, a benchmark each, in words."""
    return _careful(one, lambda: list(_prompts_shown(one.parts[0].folder / HELD_OUT)))


def _prompts_shown(folder: Path) -> Iterator[str]:
    paths = {name: folder / f"{name}.parquet" for name in ("before", "first")}
    sizes = {n: _sizes(pd.read_parquet(p)) for n, p in paths.items() if p.is_file()}
    for benchmark, whole in sizes.get("before", {}).items():
        part = sizes.get("first", {}).get(benchmark, whole)
        same = " (the same)" if part == whole else ""
        yield (
            f"{benchmark}: the table is of {_count(whole)}, before and after; each point of a curve is of "
            f"{_count(part)}{same}"
        )


def _sizes(table: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Benchmark -> prompts and images."""
    groups = table.groupby("benchmark", sort=False)
    return {str(name): (t.loc[:, "prompt_id"].nunique(), len(t)) for name, t in groups}


def _count(size: tuple[int, int]) -> str:
    prompts, images = size
    return f"{prompts} prompts, {images} images"


def _careful(one: Trained, read: Callable[[], T]) -> T:
    try:
        return read()
    except (pyarrow.ArrowInvalid, OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{one.result.folder} holds broken held-out tables: {error}; leave this run out, or train again"
        ) from None


# --- curves ---------------------------------------------------------------------------------------


def columns(runs: Sequence[Trained], prefix: str) -> list[str]:
    """Metrics of numbers under a prefix that any training logged, in order."""
    tables = [part.metrics for one in runs for part in one.parts]
    found = [
        column
        for table in tables
        for column in without_ends(table.columns)
        if column.startswith(prefix) and pd.api.types.is_numeric_dtype(table[column])
    ]
    return list(dict.fromkeys(found))


def ranges(one: Trained) -> dict[str, MetricRange]:
    """What each held-out metric can be, by its name in the log."""
    folder = one.parts[0].folder
    path = folder / HELD_OUT / "before.parquet"
    if not path.is_file():
        return {}
    known = _careful(one, lambda: read_averaging(folder, pd.read_parquet(path)))
    return {
        f"{HELD_OUT}/{b}/{m}": how.within
        for b, metrics in known.items()
        for m, how in metrics.items()
    }


def range_of(known: dict[str, MetricRange], column: str) -> MetricRange:
    """Of one metric; of any other, nothing is known."""
    return known.get(column, UNBOUNDED)


def grid_folder(part: TrainingFolder) -> str:
    """What tells a seed's pictures from another's, as part of a path."""
    return folder_name(part.seed)
