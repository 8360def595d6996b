"""One recipe with several seeds, one run folder a seed under one parent, read as one result."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nftbench.generation.sources.packaged import POLICY_FILE
from nftbench.runs.seeds import folder_of, is_parent, seeds_of
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
)
from nftbench.training.config.recipe import Recipe
from nftbench.training.config.record import (
    RECIPE,
    as_chosen,
    refuse_other_digests,
    refuse_other_recipe,
    refuse_other_seed,
    stored_recipe,
    stored_record,
)


def runs_of(parent: Path) -> list[Path]:
    """The runs of a parent that are finished, in the order of the seeds."""
    return [f for seed in seeds_of(parent) if is_finished(f := folder_of(parent, seed))]


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
    for folder in begun_runs(parent):
        refuse_other_recipe(folder, stored_recipe(folder), recipe)


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


def refuse_other_siblings(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse to train a seed on what its parent's other seeds were not trained on; of a run alone, nothing.

    Raises:
        ConfigError: names what differs.
    """
    parent = folder.parent
    others = [run for run in begun_runs(parent) if run != folder] if is_parent(parent) else []
    if others and folder in [folder_of(parent, seed) for seed in seeds_of(parent)]:
        refuse_other_digests(folder, digests, stored_record(others[0]).digests)


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
    """Draw `curve.png`: every held-out metric of all seeds, their mean and its 95% interval."""
    from matplotlib.figure import Figure

    tables = [read_metrics(run) for run in runs_of(parent)]
    columns = sorted({c for t in tables for c in held_out_columns(t)})
    if not columns:
        return
    figure = Figure(figsize=(6, 2.6 * len(columns)), layout="constrained")
    axes = figure.subplots(len(columns), 1, squeeze=False)[:, 0]
    for axis, column in zip(axes, columns, strict=True):
        for table in (t for t in tables if column in t):
            known = table[table[column].notna()]
            axis.plot(known["iteration"], known[column], linewidth=0.8, alpha=0.6)
        mean = curve_of(tables, column, "iteration")
        axis.fill_between(mean["iteration"], mean["low"], mean["high"], alpha=0.2)
        axis.plot(mean["iteration"], mean["value"], marker="o", markersize=3, color="black")
        axis.set_title(column.removeprefix("held_out/"), loc="left", fontsize=10)
        axis.set_xlabel(f"iteration; {len(tables)} seeds, their mean and its 95% interval")
        axis.grid(alpha=0.3)
    temporary = parent / ".curve.png"
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(parent / "curve.png")
