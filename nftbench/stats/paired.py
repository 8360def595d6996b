"""Two tables of scored images, image by image: what changed, with the error of pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nftbench.stats.estimates import Estimate, clustered_mean, task_mean
from nftbench.stats.intervals import MetricRange
from nftbench.stats.significance import ALPHA, Significance, significance

PAIR = ("prompt_id", "tag", "image_index")
"""Two images that agree in these are paired."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Averaging:
    """How a metric's values become one number."""

    within: MetricRange
    """What a value can be."""
    by_task: bool = False
    """Whether tasks weigh alike, as GenEval's do; else images do."""
    higher_is_better: bool | None = None
    """Which way it runs; None where nobody noted it. No number depends on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A metric before and after, on the same prompts."""

    benchmark: str
    metric: str
    aggregate: str
    before: Estimate
    """Over the images that both could score, as the next."""
    after: Estimate
    difference: Estimate
    """Of pairs; `n_failed` counts the pairs of which either image was not scored. Its interval leaves out 0 only where
    the test does, too."""
    significance: Significance
    higher_is_better: bool | None = None
    """As `Averaging` has it."""

    @property
    def of(self) -> str:
        """What it is the mean of, in words, and where a gain is a loss."""
        return f"{self.aggregate}{', less is better' * (self.higher_is_better is False)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Prompts by the sign of their mean difference."""

    higher: int
    lower: int
    same: int


def paired_samples(
    before: pd.DataFrame, after: pd.DataFrame, on: tuple[str, ...] = PAIR
) -> pd.DataFrame:
    """One row a pair of images; every other column twice, as `NAME before` and `NAME after`."""
    suffixes = (" before", " after")
    return before.merge(after, on=list(on), suffixes=suffixes, validate="one_to_one")


def change(pairs: pd.DataFrame, benchmark: str, metric: str, how: Averaging) -> Change:
    """What became of one metric.

    Args:
        pairs: as `paired_samples` makes them.
        benchmark: its name.
        metric: a column of both tables.
        how: the metric's range before and after, and whether tasks weigh alike.
    """
    before, after = (pairs[f"{metric} {when}"] for when in ("before", "after"))
    values = np.concatenate([before.to_numpy(float), after.to_numpy(float)])
    gained = replace(how, within=how.within.holding(values).of_differences)
    differences = difference(pairs, metric)
    found, tested = mean_difference(pairs, differences, gained)
    both = differences.notna()
    return Change(
        benchmark=benchmark,
        metric=metric,
        aggregate="task mean" if how.by_task else "image mean",
        before=mean(pairs, before.where(both), how),
        after=mean(pairs, after.where(both), how),
        difference=found,
        significance=tested,
        higher_is_better=how.higher_is_better,
    )


def mean_difference(
    table: pd.DataFrame, differences: pd.Series, how: Averaging
) -> tuple[Estimate, Significance]:
    """Mean of paired differences that stand beside a table's prompts, and how it stands to 0.

    With few prompts no test can tell a mean from 0, though Student's interval may well leave it out; so the interval
    holds 0 wherever the test does not tell.

    Args:
        table: with `prompt_id` and `tag`.
        differences: one a row, NaN where unscored.
        how: range of a difference, and whether tasks weigh alike.
    """
    tags = table["tag"].to_numpy() if how.by_task else None
    values, prompts = differences.to_numpy(np.float64), clusters(table).to_numpy()
    tested = significance(values, prompts, tags, within=how.within)
    found = mean(table, differences, how)
    if tested.p > ALPHA:
        found = replace(found, low=min(found.low, 0.0), high=max(found.high, 0.0))
    return found, tested


def changes(
    before: pd.DataFrame, after: pd.DataFrame, metrics: Mapping[str, Mapping[str, Averaging]]
) -> list[Change]:
    """Every metric of every benchmark before and after: the one comparison that training and reports show.

    Args:
        before: `benchmark`, `PAIR` and a column a metric, NaN where an image was not scored; one row an image.
        after: the same of the same images.
        metrics: benchmark -> metric -> how it is averaged; what is compared, in this order.

    Returns:
        One a metric, failed images counted in each of its estimates.
    """
    pairs = paired_samples(before, after, ("benchmark", *PAIR))
    found = []
    for benchmark, compared in metrics.items():
        mine = pairs[pairs["benchmark"] == benchmark]
        found += [change(mine, benchmark, metric, how) for metric, how in compared.items()]
    return found


def difference(pairs: pd.DataFrame, metric: str) -> pd.Series:
    """After less before, pair by pair, float64; NaN where either was not scored."""
    old, new = (pairs.loc[:, f"{metric} {when}"].astype(np.float64) for when in ("before", "after"))
    return new - old


def clusters(table: pd.DataFrame) -> pd.Series:
    """What counts as one for error bars: the prompt, or the cluster of prompts where the table has such a column."""
    names = ("cluster", "cluster before")  # the latter of pairs
    return table.loc[:, next((n for n in names if n in table), "prompt_id")]


def mean(table: pd.DataFrame, values: pd.Series, how: Averaging) -> Estimate:
    """Mean of values that stand beside a table's prompts: of the tasks' means, or over images."""
    prompts, numbers = clusters(table).to_numpy(), values.to_numpy(np.float64)
    if how.by_task:
        return task_mean(numbers, prompts, table["tag"].to_numpy(), how.within)
    return clustered_mean(numbers, prompts, how.within)


def tally(pairs: pd.DataFrame, metric: str) -> Tally:
    """Prompts whose images, on average over scored pairs, have more, less or as much of a metric after."""
    gained = difference(pairs, metric).groupby(clusters(pairs)).mean().dropna()
    signs = np.sign(gained.to_numpy().round(9))  # sums of decimals that cancel leave a speck
    higher, lower = int((signs > 0).sum()), int((signs < 0).sum())
    return Tally(higher=higher, lower=lower, same=len(signs) - higher - lower)
