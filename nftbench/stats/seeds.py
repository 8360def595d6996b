"""Several trainings of one recipe as one result: the mean over seeds, with the error of seeds and of prompts in it.

Seeds and prompts are crossed: every seed was asked every prompt. So the variance of the mean has a part of prompts, a
part of seeds, and a part of both together; the prompts' part is measured on the seeds' mean image, the seeds' part on
their means, and the part of both is counted in each, which makes the interval a little too wide.

The two are put together by their intervals, not by their variances: each part brings Student's t of its own degrees of
freedom, as Zou & Donner do. Three seeds have two degrees, and their t is 4.3, not 2. Satterthwaite's degrees of
freedom, the usual way, hold the truth in 88% of cases with two seeds and 93% with three
(`tests/performance/seed_coverage.py`).

Source: Zou & Donner, Construction of confidence limits about effect measures, Statist. Med. 27, 2008; the crossed
design: Cameron, Gelbach & Miller, Robust inference with multiway clustering, J. Bus. Econ. Stat. 29, 2011.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import t as student

from nftbench.stats.estimates import Estimate
from nftbench.stats.intervals import LEVEL, UNBOUNDED, MetricRange
from nftbench.stats.paired import PAIR, Averaging, Change, change, mean
from nftbench.stats.significance import ALPHA, POWER, Significance

LEAST_P = 1e-12
"""Smaller ones are told as this."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What seeds add to the error of a mean."""

    variance: float
    """Of the mean over seeds, in squared units of the metric."""
    freedom: float
    """Degrees of freedom of that variance."""


def spread(means: Sequence[float]) -> list[Spread]:
    """The part of the seeds; nothing with one seed, whose variance nobody knows.

    Args:
        means: (S,) each seed's own mean.
    """
    known = [m for m in means if math.isfinite(m)]
    if len(known) < 2:
        return []
    return [Spread(float(np.var(known, ddof=1)) / len(known), len(known) - 1)]


def with_seeds(
    prompts: Estimate, parts: Sequence[Spread], within: MetricRange = UNBOUNDED
) -> Estimate:
    """Add the variance of seeds to an estimate whose error is that of prompts alone.

    Args:
        prompts: of the seeds' mean image by image.
        parts: of the seeds: one of each set of trainings in it.
        within: what the metric can be; the interval stays inside.

    Returns:
        The same value with the wider interval; the prompts' own where there are no seeds to tell.
    """
    if not parts or not math.isfinite(prompts.value):
        return prompts
    added = sum(part.variance * student.ppf(LEVEL, part.freedom) ** 2 for part in parts)
    below, above = prompts.value - prompts.low, prompts.high - prompts.value
    return replace(
        prompts,
        stderr=math.sqrt(prompts.stderr**2 + sum(part.variance for part in parts)),
        low=max(prompts.value - math.sqrt(below**2 + added), min(within.low, prompts.value)),
        high=min(prompts.value + math.sqrt(above**2 + added), max(within.high, prompts.value)),
    )


def mean_curve(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, within: MetricRange = UNBOUNDED
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and interval of several seeds at every point of a curve.

    The prompts' part is that of one seed, on average: a little more than that of the seeds' mean image, which is not
    known at every point.

    Args:
        values: (T, S) of S seeds.
        low: (T, S) end of each seed's interval, which is that of prompts.
        high: (T, S) the other end.
        within: what the metric can be.

    Returns:
        Mean, low and high, (T,) each.
    """
    mean, below, above = (
        values.mean(1),
        ((values - low) ** 2).mean(1),
        ((high - values) ** 2).mean(1),
    )
    seeds = values.shape[1]
    if seeds > 1:
        added = values.var(1, ddof=1) / seeds * student.ppf(LEVEL, seeds - 1) ** 2
        below, above = below + added, above + added
    reach = mean - np.sqrt(below), mean + np.sqrt(above)
    return mean, np.maximum(reach[0], within.low), np.minimum(reach[1], within.high)


# --- images of several seeds ----------------------------------------------------------------------


def mean_image(tables: Sequence[pd.DataFrame], metrics: Sequence[str]) -> pd.DataFrame:
    """The images that all seeds have, each with its mean over the seeds.

    Args:
        tables: a table a seed: `PAIR`, other columns, and a column a metric; one row an image.
        metrics: columns that are averaged; NaN where any seed's image was not scored, so that every seed stands for
            the same images.

    Returns:
        The first table's rows and columns, of images in all tables; the metrics are means, float64.
    """
    found = [t.set_index(list(PAIR)) for t in tables]
    assert all(t.index.is_unique for t in found), "an image stands twice in a table"
    first = found[0]
    for other in found[1:]:
        first = first.loc[first.index.isin(other.index)]
    means = {
        m: np.mean([t.loc[first.index, m].to_numpy(np.float64) for t in found], axis=0)
        for m in metrics
    }
    return first.assign(**means).reset_index()


def alike(
    tables: Sequence[pd.DataFrame], mean_table: pd.DataFrame, metrics: Sequence[str]
) -> list[pd.DataFrame]:
    """Each seed's table, of the images and scores that `mean_image` is made of alone."""
    found = []
    for table in tables:
        own = table.set_index(list(PAIR)).loc[pd.MultiIndex.from_frame(mean_table[list(PAIR)])]
        scored = {m: own[m].where(mean_table[m].notna().to_numpy()) for m in metrics}
        found.append(own.assign(**scored).reset_index())
    return found


# --- two sets of seeds ----------------------------------------------------------------------------


def change_over_seeds(
    before: Sequence[pd.DataFrame],
    after: Sequence[pd.DataFrame],
    benchmark: str,
    metric: str,
    how: Averaging,
    *,
    paired: bool,
) -> Change:
    """What became of one metric, on average over seeds, on the same prompts.

    Args:
        before: a table a seed; one of a model that was not trained, or of which there is one training.
        after: the same of the other model.
        benchmark: its name.
        metric: a column of all tables.
        how: the metric's range, and whether tasks weigh alike.
        paired: whether the tables of one place belong to one seed; else the two sets of seeds are independent.

    Returns:
        Estimates with the error of prompts and of seeds; with one table a side, that of prompts alone.
    """
    sides = [mean_image(tables, [metric]) for tables in (before, after)]
    pairs = sides[0].merge(sides[1][[*PAIR, metric]], on=list(PAIR), suffixes=(" before", " after"))
    whole = change(pairs, benchmark, metric, how)
    values = [pairs[f"{metric} {when}"].to_numpy(np.float64) for when in ("before", "after")]
    lost = np.any(np.isnan(values), axis=0)
    means = [_means(tables, pairs, metric, how, lost) for tables in (before, after)]
    own = [spread(found) for found in means]
    differences = [b - a for a, b in zip(*means, strict=paired)]
    gained = spread(differences) if paired else [*own[0], *own[1]]
    within = how.within.holding(np.concatenate(values))
    tested = _tested(whole, gained)
    gain = with_seeds(whole.difference, gained, within.of_differences)
    if tested.p > ALPHA:
        gain = replace(gain, low=min(gain.low, 0.0), high=max(gain.high, 0.0))
    return replace(
        whole,
        before=with_seeds(whole.before, own[0], within),
        after=with_seeds(whole.after, own[1], within),
        difference=gain,
        significance=tested,
    )


def over_seeds(
    before: Sequence[pd.DataFrame],
    after: Sequence[pd.DataFrame],
    averaging: Mapping[str, Mapping[str, Averaging]],
) -> list[Change]:
    """Every metric of every benchmark before and after several trainings, as `paired.changes` of one.

    Args:
        before: a table a seed, as `paired.changes` takes them.
        after: the same, in the same order.
        averaging: as `paired.changes` takes it.
    """
    found = []
    for benchmark, metrics in averaging.items():
        then, now = (
            [t.loc[t["benchmark"] == benchmark] for t in tables] for tables in (before, after)
        )
        found += [
            change_over_seeds(then, now, benchmark, metric, how, paired=True)
            for metric, how in metrics.items()
        ]
    return found


def _means(
    tables: Sequence[pd.DataFrame],
    pairs: pd.DataFrame,
    metric: str,
    how: Averaging,
    lost: np.ndarray,
) -> list[float]:
    """Each seed's own mean over the images that count; nothing where there is but one."""
    if len(tables) < 2:
        return [0.0] * len(tables)
    places = pd.MultiIndex.from_frame(pairs[list(PAIR)])
    columns = [t.set_index(list(PAIR))[metric].loc[places].reset_index(drop=True) for t in tables]
    return [mean(pairs, column.mask(lost), how).value for column in columns]


def _tested(whole: Change, parts: Sequence[Spread]) -> Significance:
    """The test of prompts, which cannot say more than the interval with the seeds in it."""
    tested = whole.significance
    if not parts:
        return tested
    own = Spread(whole.difference.stderr**2, max(whole.difference.n_prompts - 1, 1))
    p = p_value(whole.difference.value, [own, *parts])
    quantiles = [student.ppf([LEVEL, POWER], part.freedom).sum() for part in parts]
    added = sum(part.variance * q**2 for part, q in zip(parts, quantiles, strict=True))
    return Significance(p=max(tested.p, p), smallest=math.sqrt(tested.smallest**2 + added))


def p_value(value: float, parts: Sequence[Spread]) -> float:
    """Two-sided: the level at which the interval that is put together of the parts reaches 0.

    Args:
        value: a mean difference.
        parts: at least one; NaN variances give NaN.
    """
    known = [part for part in parts if part.variance != 0]
    if not math.isfinite(value) or any(math.isnan(part.variance) for part in parts):
        return math.nan
    if not known or value == 0:
        return float(value == 0)

    def beyond(log_p: float) -> float:
        quantiles = [student.isf(math.exp(log_p) / 2, part.freedom) for part in known]
        reach = sum(part.variance * q**2 for part, q in zip(known, quantiles, strict=True))
        return math.sqrt(reach) - abs(value)

    least = math.log(LEAST_P)
    return LEAST_P if beyond(least) < 0 else math.exp(brentq(beyond, least, 0.0))  # pyright: ignore[reportArgumentType]
