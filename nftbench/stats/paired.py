"""Two tables of scored images, image by image: what changed, with the error of pairs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nftbench.stats.estimates import Estimate, Significance, clustered_mean, significance, task_mean

PAIR = ("prompt_id", "tag", "image_index")
"""Two images that agree in these are paired."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A metric before and after, on the same prompts."""

    benchmark: str
    metric: str
    aggregate: str
    before: Estimate
    after: Estimate
    difference: Estimate
    """Of pairs; `n_failed` counts the pairs of which either image was not scored."""


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


def change(pairs: pd.DataFrame, benchmark: str, metric: str, *, by_task: bool) -> Change:
    """What became of one metric.

    Args:
        pairs: as `paired_samples` makes them.
        benchmark: its name.
        metric: a column of both tables.
        by_task: whether tasks weigh alike, as GenEval's do.
    """
    before, after = (pairs[f"{metric} {when}"] for when in ("before", "after"))
    return Change(
        benchmark=benchmark,
        metric=metric,
        aggregate="task mean" if by_task else "image mean",
        before=mean(pairs, before, by_task=by_task),
        after=mean(pairs, after, by_task=by_task),
        difference=mean(pairs, difference(pairs, metric), by_task=by_task),
    )


def changes(
    before: pd.DataFrame, after: pd.DataFrame, by_task: Mapping[str, Mapping[str, bool]]
) -> list[Change]:
    """Every metric of every benchmark before and after: the one comparison that training and reports show.

    Args:
        before: `benchmark`, `PAIR` and a column a metric, NaN where an image was not scored; one row an image.
        after: the same of the same images.
        by_task: benchmark -> metric -> whether tasks weigh alike; what is compared, in this order.

    Returns:
        One a metric, failed images counted in each of its estimates.
    """
    pairs = paired_samples(before, after, ("benchmark", *PAIR))
    found = []
    for benchmark, metrics in by_task.items():
        mine = pairs[pairs["benchmark"] == benchmark]
        found += [change(mine, benchmark, m, by_task=tasks) for m, tasks in metrics.items()]
    return found


def difference(pairs: pd.DataFrame, metric: str) -> pd.Series:
    """After less before, pair by pair, float64; NaN where either was not scored."""
    old, new = (pairs[f"{metric} {when}"].astype(np.float64) for when in ("before", "after"))
    return new - old


def mean(table: pd.DataFrame, values: pd.Series, *, by_task: bool) -> Estimate:
    """Mean of values that stand beside a table's prompts: of the tasks' means, or over images."""
    prompts, tags = table["prompt_id"].to_numpy(), table["tag"].to_numpy()
    numbers = values.to_numpy(np.float64)
    return task_mean(numbers, prompts, tags) if by_task else clustered_mean(numbers, prompts)


def chance(pairs: pd.DataFrame, metric: str, *, by_task: bool) -> Significance:
    """How a metric's change stands to 0; `mean` gives its interval."""
    tags = pairs["tag"].to_numpy() if by_task else None
    return significance(difference(pairs, metric).to_numpy(), pairs["prompt_id"].to_numpy(), tags)


def tally(pairs: pd.DataFrame, metric: str) -> Tally:
    """Prompts whose images, on average over scored pairs, have more, less or as much of a metric after."""
    gained = difference(pairs, metric).groupby(pairs["prompt_id"]).mean().dropna()
    signs = np.sign(gained.to_numpy().round(9))  # sums of decimals that cancel leave a speck
    higher, lower = int((signs > 0).sum()), int((signs < 0).sum())
    return Tally(higher=higher, lower=lower, same=len(signs) - higher - lower)
