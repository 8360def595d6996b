"""95% confidence intervals of means of tasks' means: clustered by prompt, and inside what a metric can be. Pure.

Student's interval counts on a variance that is well known. A share near its end has none: 20 prompts that all pass
show no spread at all, and "1.000 to 1.000" holds the truth only where nothing can fail. So a metric whose values pile
up at its ends gets, task by task, the interval of a share of as many independent images as the prompts are worth
(their *effective* number), and the tasks' intervals are put together without leaving the range.

`tests/performance/interval_coverage.py` shows how often these intervals hold the truth, and which others were tried.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import beta, norm
from scipy.stats import t as student

LEVEL = 0.975
"""Quantile of a two-sided 95% interval."""
DOUBT = 0.1
"""How many failing prompts it is worth to suppose that the images of one prompt are all alike, which is the worst
case. Without it one failing image says the images are independent; see the table of `interval_coverage.py`."""
DOUBT_OF_DIFFERENCES = 0.25
"""The same where one value is taken from another: as much as one prompt whose images all went from end to end.

Source: Agresti & Min, Simple improved confidence intervals for comparing matched proportions, Statist. Med. 24, 2005.
"""
SPECK = 1e-12
"""Sums of decimals that cancel leave so much of the largest value."""


def half_width(low: float, high: float) -> float:
    """What stands behind a ±: half of an interval, which may lie more to one side of its mean than to the other."""
    return (high - low) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRange:
    """What a metric can be, in its own units."""

    low: float = -math.inf
    high: float = math.inf
    piles_up: bool = False
    """Whether values lie at the ends themselves, as right and wrong do, and marks; then both are finite."""
    doubt: float = DOUBT
    """In units of the squared width."""

    def __post_init__(self) -> None:
        assert self.low < self.high, f"expected low < high, got {self.low} and {self.high}"
        assert self.finite or not self.piles_up, "values pile up at ends that are finite"

    @property
    def finite(self) -> bool:
        """Whether both ends are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def width(self) -> float:
        """From end to end."""
        return self.high - self.low

    @property
    def of_differences(self) -> "MetricRange":
        """What one value less another can be."""
        return MetricRange(
            low=-self.width,
            high=self.width,
            piles_up=self.piles_up,
            doubt=self.doubt * DOUBT_OF_DIFFERENCES / DOUBT,
        )

    def holding(self, values: np.ndarray) -> "MetricRange":
        """Widened to values that lie outside; NaN is passed over.

        Args:
            values: (N,).
        """
        known = values[~np.isnan(values)]
        if not len(known):
            return self
        low, high = min(self.low, float(known.min())), max(self.high, float(known.max()))
        doubt = self.doubt * (self.width / (high - low)) ** 2 if self.finite else self.doubt
        return replace(self, low=low, high=high, doubt=doubt)


SHARE = MetricRange(low=0.0, high=1.0, piles_up=True)
"""Of right and wrong, and of partial credit."""
UNBOUNDED = MetricRange()


@dataclass(frozen=True, slots=True)
class Strata:
    """Tasks, S of them, with what their scored images say; all arrays float64 (S,)."""

    mean: np.ndarray
    variance: np.ndarray
    """Of the mean, clustered by prompt; NaN with one prompt."""
    images: np.ndarray
    prompts: np.ndarray
    alike: np.ndarray
    """Prompts of equal size that would be worth as much: images^2 / sum of squared images a prompt."""

    @property
    def freedom(self) -> np.ndarray:
        """Degrees of freedom of each variance."""
        return self.prompts - 1


def strata(values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray) -> Strata:
    """Mean and variance of each task, in order of appearance.

    Args:
        values: (N,), NaN where unscored; these are left out.
        prompts: (N,) the prompt of each image; a prompt belongs to one task.
        tasks: (N,) the task of each image.

    Source: Miller, Adding Error Bars to Evals, arXiv:2411.00640 Sec. 2.2, with the C/(C-1) small-sample factor.
    """
    values, prompts, tasks = (np.asarray(a) for a in (values, prompts, tasks))
    scored = ~np.isnan(values)
    found = [
        _stratum(values[chosen].astype(np.float64), prompts[chosen])
        for chosen in (scored & (tasks == task) for task in dict.fromkeys(tasks[scored].tolist()))
    ]
    return Strata(*np.array(found, dtype=np.float64).reshape(-1, 5).T)


def _stratum(values: np.ndarray, prompts: np.ndarray) -> tuple[float, ...]:
    mean, count = float(np.mean(values)), len(values)
    _, index, sizes = np.unique(prompts, return_inverse=True, return_counts=True)
    sums = np.bincount(index, weights=values - mean)
    sums[np.abs(sums) <= SPECK * sizes * np.abs(values).max()] = 0
    clusters = len(sizes)
    factor = clusters / (clusters - 1) if clusters > 1 else np.nan
    variance = factor * float(np.sum(sums**2)) / count**2
    return mean, variance, count, clusters, count**2 / float(np.sum(sizes**2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Of a weighted sum of tasks' means; NaN where nothing is known of the error."""

    stderr: float
    """Clustered; where prompts show no spread, that of the share with the same interval."""
    low: float
    high: float
    spread: float
    """Standard error that allows for a spread not seen: what a test's power is reckoned with, never 0."""
    freedom: float
    """Degrees of freedom of the spread; infinite where it is the largest possible, and so known."""


UNKNOWN = Interval(stderr=np.nan, low=np.nan, high=np.nan, spread=np.nan, freedom=np.nan)


def interval(tasks: Strata, weights: np.ndarray, within: MetricRange) -> Interval:
    """95% confidence interval of the sum of weight x mean.

    Args:
        tasks: S of them, at least one.
        weights: (S,), their sum is 1.
        within: what the metric can be; holds every value.

    Returns:
        An interval that lies in the range, and has a width. Of a metric that does not pile up at its ends it is
        unknown where no two prompts of a task differ: then no image says how far such values scatter, and what is left,
        the range itself, was stated and not measured.
    """
    if within.piles_up:
        return _share(tasks, weights, within)
    variance = _with_lonely(tasks)
    if np.sum(weights**2 * variance) > 0:
        return _student(tasks, weights, variance, within)
    return UNKNOWN


# --- values between the ends ----------------------------------------------------------------------


def _with_lonely(tasks: Strata) -> np.ndarray:
    """Variances (S,); of a task with one prompt, that of a prompt of the other tasks, on average.

    Source: T. Lumley, R package survey, option `survey.lonely.psu = "average"`.
    """
    known = tasks.prompts > 1
    if not known.any():
        return np.zeros_like(tasks.variance)
    usual = np.mean(tasks.variance[known] * tasks.alike[known])
    return np.where(known, tasks.variance, usual)


def _student(
    tasks: Strata, weights: np.ndarray, variance: np.ndarray, within: MetricRange
) -> Interval:
    """Student's interval with Satterthwaite's degrees of freedom, cut off at the ends of the range."""
    parts = weights**2 * variance
    stderr, value = float(np.sqrt(parts.sum())), float(np.sum(weights * tasks.mean))
    freedom = satterthwaite(parts, np.where(tasks.prompts > 1, tasks.freedom, np.inf))
    half = float(student.ppf(LEVEL, freedom)) * stderr
    return Interval(
        stderr=stderr,
        low=max(value - half, within.low),
        high=min(value + half, within.high),
        spread=stderr,
        freedom=freedom,
    )


def satterthwaite(parts: np.ndarray, freedom: np.ndarray) -> float:
    """Degrees of freedom of a sum of variances; infinite where all are 0 or known.

    Args:
        parts: (S,) at least 0.
        freedom: (S,) above 0.
    """
    doubt = float(np.sum(parts**2 / freedom))
    return float(parts.sum() ** 2) / doubt if doubt > 0 else math.inf


# --- values at the ends ---------------------------------------------------------------------------


def _share(tasks: Strata, weights: np.ndarray, within: MetricRange) -> Interval:
    """Jeffreys' interval of each task on its effective images, put together as Zou & Donner do.

    Effective images after Korn & Graubard, Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data, Survey Methodology 24, 1998, with their correction for degrees of
    freedom. Differs: `DOUBT` is added, and there are never fewer images than prompts, which are independent.

    Source: Brown, Cai & DasGupta, Interval Estimation for a Binomial Proportion, Statist. Sci. 16, 2001 Sec. 4.1;
        Zou & Donner, Construction of confidence limits about effect measures, Statist. Med. 27, 2008.
    """
    mean = np.clip((tasks.mean - within.low) / within.width, 0, 1)
    images, known = effective_images(
        mean, tasks.variance / within.width**2, tasks.alike, within.doubt
    )
    parts = weights**2 * mean * (1 - mean) / images
    freedom = satterthwaite(parts, np.where(known, np.inf, np.maximum(tasks.freedom, 1)))
    sure = (norm.ppf(LEVEL) / student.ppf(LEVEL, freedom)) ** 2
    low, high = jeffreys(mean, np.maximum(images * sure, tasks.alike))
    value = np.sum(weights * mean)
    below = value - np.sqrt(np.sum((weights * (mean - low)) ** 2))
    above = value + np.sqrt(np.sum((weights * (high - mean)) ** 2))
    unseen = weights**2 * _posterior_variance(mean, images)
    return Interval(
        stderr=within.width * _stderr(tasks, weights, unseen, within),
        low=within.low + within.width * float(max(below, 0)),
        high=within.low + within.width * float(min(above, 1)),
        spread=within.width * float(np.sqrt(np.maximum(parts, unseen * (parts == 0)).sum())),
        freedom=freedom,
    )


def effective_images(
    mean: np.ndarray, variance: np.ndarray, alike: np.ndarray, doubt: float = DOUBT
) -> tuple[np.ndarray, np.ndarray]:
    """How many independent images, each right or wrong, would know the mean as well.

    Args:
        mean: (S,) in [0, 1].
        variance: (S,) of the mean; NaN is unknown.
        alike: (S,) prompts.
        doubt: prompts, see `DOUBT`.

    Returns:
        The number (S,), at least `alike`; and whether the variance is the largest that the mean allows (S,), as with
        one image a prompt that is right or wrong: nothing about it is estimated then.
    """
    seen = np.where(np.isnan(variance), mean * (1 - mean) / alike, variance)
    ratio = (alike**2 * seen + doubt) / (alike * mean * (1 - mean) + doubt)
    return alike / np.minimum(ratio, 1), ratio >= 1 - SPECK


def jeffreys(mean: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Jeffreys' 95% interval of a share, which reaches an end where all images do.

    Args:
        mean: (S,) in [0, 1].
        images: (S,) above 0, not whole numbers as a rule.
    """
    hits, misses = mean * images, (1 - mean) * images
    low = np.where(hits > 0, beta.ppf(1 - LEVEL, hits + 0.5, misses + 0.5), 0)
    high = np.where(misses > 0, beta.ppf(LEVEL, hits + 0.5, misses + 0.5), 1)
    return np.minimum(low, mean), np.maximum(high, mean)


def _posterior_variance(mean: np.ndarray, images: np.ndarray) -> np.ndarray:
    share = (mean * images + 0.5) / (images + 1)
    return share * (1 - share) / (images + 2)


def _stderr(tasks: Strata, weights: np.ndarray, unseen: np.ndarray, within: MetricRange) -> float:
    """In units of the range."""
    seen = weights**2 * tasks.variance / within.width**2
    seen = np.where(np.isnan(seen), unseen, seen)
    return float(np.sqrt(seen.sum() if seen.sum() > 0 else unseen.sum()))
