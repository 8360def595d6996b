"""One recipe with several seeds, one run folder a seed under one parent, read as one result."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nftbench.generation.sources.packaged import POLICY_FILE
from nftbench.runs.io import write_atomic
from nftbench.runs.seeds import counted, folder_of, is_parent, seeds_of
from nftbench.stats.intervals import UNBOUNDED, MetricRange
from nftbench.stats.paired import Change
from nftbench.stats.seeds import mean_curve, over_seeds
from nftbench.training.callbacks.metrics_log import (
    ENDS,
    HELD_OUT,
    held_out_columns,
    held_out_table,
    is_measured,
    read_averaging,
    read_metrics,
    stop_of,
)
from nftbench.training.config.recipe import Recipe
from nftbench.training.config.record import (
    RECIPE,
    as_chosen,
    refuse_other_digests,
    refuse_other_recipe,
    refuse_other_seed,
    refuse_other_way,
    stored_recipe,
    stored_record,
)
from rewards.base import ConfigError


def runs_of(parent: Path) -> list[Path]:
    """The runs of a parent that are finished, in the order of the seeds.

    Raises:
        ConfigError: one of them is of another seed.
    """
    runs = [f for seed in seeds_of(parent) if is_finished(f := folder_of(parent, seed))]
    refuse_misplaced(runs)
    return runs


def left_out(parent: Path, seeds: Sequence[int]) -> list[str]:
    """Why some seeds of a parent are in no mean of it, in words: a mean of those that held flatters the recipe."""
    stopped = [seed for seed in seeds if stop_of(folder_of(parent, seed))]
    others = [seed for seed in seeds if seed not in stopped]
    told = ((stopped, "stopped by a guard"), (others, "missing or not finished"))
    return [f"{counted('seed', of)} {why}, left out" for of, why in told if of]


def went_on(parent: Path, seeds: Sequence[int]) -> list[str]:
    """Which seeds of a mean a guard had stopped, in words: by the guards of the others they would not be in it."""
    past = [seed for seed in seeds if stop_of(folder_of(parent, seed), anywhere=True)]
    return [f"{counted('seed', past)} trained on after a guard's stop"] if past else []


def unfinished(parent: Path) -> list[str]:
    """The seeds of a parent that are in no mean of it, as `left_out` has them, and those that `went_on`."""
    done, seeds = runs_of(parent), seeds_of(parent)
    kept = [seed for seed in seeds if folder_of(parent, seed) in done]
    return [*left_out(parent, [s for s in seeds if s not in kept]), *went_on(parent, kept)]


def refuse_misplaced(runs: Iterable[Path]) -> None:
    """Refuse runs of a parent that stand where another seed's belong: a copy would count as a seed of its own.

    Raises:
        ConfigError: names the run and its seed.
    """
    for run in runs:
        if (run / RECIPE).is_file():
            _refuse_seed(run, stored_recipe(run).seed)


def _refuse_seed(run: Path, seed: int) -> None:
    if run != folder_of(run.parent, seed):
        raise ConfigError(
            f"{run} is a run of seed {seed}, which belongs in {folder_of(run.parent, seed).name}: put back what was "
            "there, or remove it and train that seed again"
        )


def is_finished(run: Path) -> bool:
    """Whether a run's last iteration was done, and validated where its recipe asks for that."""
    measured = is_measured(run)
    if measured or not (run / POLICY_FILE).is_file():
        return measured
    recipe = stored_recipe(run)
    validated = recipe.evaluation.every and recipe.evaluation.benchmarks
    done = int(read_metrics(run).loc[:, "iteration"].max())
    return not validated and done >= sum(stage.iterations for stage in recipe.stages)


def begun_runs(parent: Path) -> list[Path]:
    """The runs of a parent of which it is known what they do, in the order of the seeds."""
    return [f for seed in seeds_of(parent) if ((f := folder_of(parent, seed)) / RECIPE).is_file()]


def refuse_other_recipes(parent: Path, recipe: Recipe) -> None:
    """Refuse to add seeds to a parent whose runs do something else.

    Raises:
        ConfigError: names the run and the setting.
    """
    refuse_misplaced(begun_runs(parent))
    for folder in begun_runs(parent):
        refuse_other_recipe(folder, stored_recipe(folder), recipe)
        refuse_other_way(folder, begun_runs(parent)[0])


def as_begun(recipe: Recipe, folder: Path) -> Recipe:
    """A seed's recipe with what it leaves to the machine as its own run has it, or else the first one of its parent.

    So seeds that are trained on other days, with other memory free, stay one training.
    """
    begun = sorted(begun_runs(folder.parent), key=lambda run: run != folder)
    return as_chosen(recipe, stored_recipe(begun[0])) if begun else recipe


def refuse_other_seeds(runs: Sequence[Path]) -> None:
    """Refuse runs that have no mean: of several recipes, or trained on what is another thing under one name.

    Raises:
        ConfigError: names the run, and what differs.
    """
    for run in runs[1:]:
        refuse_other_seed(run, runs[0])


def refuse_other_siblings(folder: Path, seed: int, digests: Mapping[str, str]) -> None:
    """Refuse to train a seed's run with another one, or on what its parent's others were not; of a run alone, nothing.

    Raises:
        ConfigError: names what differs.
    """
    parent = folder.parent
    places = [folder_of(parent, s) for s in seeds_of(parent)] if is_parent(parent) else []
    if folder in places:
        _refuse_seed(folder, seed)
        others = [run for run in begun_runs(parent) if run != folder]
        for other in others[:1]:
            refuse_other_digests(folder, digests, stored_record(other).digests)
            if not (folder / RECIPE).is_file():
                refuse_other_way(other)


def read_seeds(parent: Path) -> list[Change]:
    """Held-out metrics before and after, the mean over a parent's finished runs; empty where none was validated.

    Raises:
        ConfigError: the runs are of several recipes.
    """
    runs = [run for run in runs_of(parent) if is_measured(run)]
    if not runs:
        return []
    refuse_other_seeds(runs)
    before, after = (
        [held_out_table(run / HELD_OUT / f"{when}.parquet") for run in runs]
        for when in ("before", "after")
    )
    return over_seeds(before, after, read_averaging(runs[0], before[0]))


def curve_of(
    tables: Sequence[pd.DataFrame], column: str, along: str, within: MetricRange = UNBOUNDED
) -> pd.DataFrame:
    """A metric of one training, or the mean of several seeds', with its band.

    Args:
        tables: a seed's metrics each, as `read_metrics` reads them.
        column: of those tables.
        along: `iteration` or `minutes`, of several seeds their mean.
        within: what the metric can be.

    Returns:
        `along`, `value`, `low` and `high`, a row an iteration that all seeds have logged. The band is the 95% interval
        of prompts and seeds where the metric has one, else from the lowest seed to the highest; NaN of one seed.
    """
    ends = [f"{column}{end}" for end in ENDS]
    if not all({column, along} <= set(table) for table in tables):
        return pd.DataFrame(columns=[along, "value", "low", "high"], dtype=float)
    rows = [t.loc[t[column].notna()].drop_duplicates("iteration", keep="last") for t in tables]
    rows = [table.set_index("iteration", drop=False) for table in rows]
    shared = rows[0].index
    for table in rows[1:]:
        shared = shared[shared.isin(table.index)]

    def of(name: str) -> np.ndarray:
        return np.stack([t.loc[shared, name].to_numpy(np.float64) for t in rows], axis=1)

    values = of(column)
    if all(set(ends) <= set(table) for table in tables):
        mean, low, high = mean_curve(values, of(ends[0]), of(ends[1]), within)
    else:
        several = np.nan if len(tables) == 1 else 1.0
        mean, low, high = values.mean(1), values.min(1) * several, values.max(1) * several
    return pd.DataFrame({along: of(along).mean(1), "value": mean, "low": low, "high": high})


def curves(parent: Path) -> None:
    """Draw `curve.png`: every held-out metric of the finished seeds, their mean and its 95% interval."""
    from matplotlib.figure import Figure

    tables = [read_metrics(run) for run in runs_of(parent)]
    columns = sorted({c for t in tables for c in held_out_columns(t)})
    if not columns:
        return
    figure = Figure(figsize=(6, 2.6 * len(columns)), layout="constrained")
    axes = figure.subplots(len(columns), 1, squeeze=False)[:, 0]
    for axis, column in zip(axes, columns, strict=True):
        _draw_curve(axis, [t for t in tables if column in t], column)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    write_atomic(parent / "curve.png", buffer.getvalue())


def _draw_curve(axis: Any, tables: Sequence[pd.DataFrame], column: str) -> None:
    for table in tables:
        known = table[table[column].notna()]
        axis.plot(known["iteration"], known[column], linewidth=0.8, alpha=0.6)
    mean = curve_of(tables, column, "iteration")
    axis.fill_between(mean["iteration"], mean["low"], mean["high"], alpha=0.2)
    axis.plot(mean["iteration"], mean["value"], marker="o", markersize=3, color="black")
    axis.set_title(column.removeprefix("held_out/"), loc="left", fontsize=10)
    several = f"{len(tables)} seeds, their mean and its 95% interval"
    alone = "one seed and its 95% interval, of prompts alone"
    axis.set_xlabel(f"iteration; {several if len(tables) > 1 else alone}")
    axis.grid(alpha=0.3)
