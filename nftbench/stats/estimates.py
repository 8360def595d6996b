"""Means with honest errors: clustered by prompt, stratified by task. Pure: arrays in, numbers out.

Images of one prompt resemble one another, so the prompt, not the image, is the unit that was sampled.
Unscored images (NaN) are left out of the mean and counted beside it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean, its standard error and its 95% confidence interval, in the metric's own units."""

    value: float
    stderr: float
    low: float
    high: float
    n: int
    """Images that were scored."""
    n_failed: int
    """Images that were not."""
    n_prompts: int


def clustered_mean(values: np.ndarray, prompts: np.ndarray) -> Estimate:
    """Mean over images; its error allows for images of one prompt being alike.

    Args:
        values: (N,), NaN where unscored.
        prompts: (N,) the prompt of each image.

    Returns:
        The estimate; all NaN when nothing was scored. The standard error is NaN with fewer than two prompts.

    Source: Miller, Adding Error Bars to Evals, arXiv:2411.00640 Sec. 2.2, with the C/(C-1) small-sample factor.
    """
    return stratified_mean(values, prompts, np.zeros(len(values), dtype=int))


def stratified_mean(values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray) -> Estimate:
    """Mean over images (GenEval's "image mean"), clustered by prompt within fixed tasks.

    Args:
        values: (N,), NaN where unscored.
        prompts: (N,) the prompt of each image; a prompt belongs to one task.
        tasks: (N,) the task of each image.
    """
    strata = _strata(values, prompts, tasks)
    scored = sum(s.n for s in strata)
    weights = [s.n / scored if scored else np.nan for s in strata]
    return _combine(strata, weights, int(np.isnan(values).sum()))


def task_mean(values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray) -> Estimate:
    """Mean of the tasks' means, each task with the same weight: GenEval's "overall".

    Args:
        values: (N,), NaN where unscored.
        prompts: (N,) the prompt of each image.
        tasks: (N,) the task of each image; a task without a scored image is left out.

    Source: djghosh13/geneval@af4902f evaluation/summary_scores.py.
    """
    strata = _strata(values, prompts, tasks)
    weights = [1 / len(strata) for _ in strata]
    return _combine(strata, weights, int(np.isnan(values).sum()))


@dataclass(frozen=True, slots=True)
class _Stratum:
    mean: float
    variance: float
    """Of the mean."""
    n: int
    clusters: int


def _strata(values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray) -> list[_Stratum]:
    values, prompts, tasks = (np.asarray(a) for a in (values, prompts, tasks))
    scored = ~np.isnan(values)
    return [
        _stratum(values[scored & (tasks == task)], prompts[scored & (tasks == task)])
        for task in dict.fromkeys(tasks[scored].tolist())
    ]


def _stratum(values: np.ndarray, prompts: np.ndarray) -> _Stratum:
    mean = float(np.mean(values, dtype=np.float64))
    _, index = np.unique(prompts, return_inverse=True)
    sums = np.bincount(index, weights=values.astype(np.float64) - mean)
    clusters = len(sums)
    factor = clusters / (clusters - 1) if clusters > 1 else np.nan
    return _Stratum(mean, factor * float(np.sum(sums**2)) / len(values) ** 2, len(values), clusters)


def _combine(strata: list[_Stratum], weights: list[float], failed: int) -> Estimate:
    """Weighted sum of strata; Student's interval with Satterthwaite's degrees of freedom."""
    n, prompts = sum(s.n for s in strata), sum(s.clusters for s in strata)
    if not strata:
        nan = float("nan")
        return Estimate(value=nan, stderr=nan, low=nan, high=nan, n=0, n_failed=failed, n_prompts=0)
    value = float(sum(w * s.mean for w, s in zip(weights, strata, strict=True)))
    parts = np.array([w**2 * s.variance for w, s in zip(weights, strata, strict=True)])
    stderr = float(np.sqrt(parts.sum()))
    half = _quantile(parts, np.array([s.clusters - 1 for s in strata])) * stderr
    return Estimate(
        value=value,
        stderr=stderr,
        low=value - half,
        high=value + half,
        n=n,
        n_failed=failed,
        n_prompts=prompts,
    )


def _quantile(parts: np.ndarray, freedom: np.ndarray) -> float:
    if not parts.sum() > 0:  # no spread at all (or unknown): any quantile times zero (or NaN)
        return 1.96
    return float(student.ppf(0.975, _freedom(parts, freedom)))


def _freedom(parts: np.ndarray, freedom: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances, not all 0."""
    live = parts > 0
    return float(parts.sum() ** 2 / np.sum(parts[live] ** 2 / freedom[live]))


# --- is it 0? -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Significance:
    """How a mean of differences stands to 0."""

    p: float
    """Two-sided, of Student's t-test on prompts; below 0.05 just where the 95% interval leaves out 0."""
    smallest: float
    """Difference that such images show with 80% power at the 5% level, in the metric's own units."""


def significance(
    values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray | None = None
) -> Significance:
    """Student's t-test of a mean being 0: clustered by prompt, stratified where tasks weigh alike.

    Args:
        values: (N,) paired differences, NaN where unscored.
        prompts: (N,) the prompt of each.
        tasks: (N,) the task of each, for the mean of task means; None for the mean over images.

    Returns:
        NaN where the error is unknown: nothing was scored, or fewer than two prompts (of a task).

    Source: arXiv:2411.00640 Sec. 4.2 (paired, clustered); `smallest` is (t_0.975 + t_0.8) standard errors with
        Satterthwaite's degrees of freedom, Bloom, Minimum Detectable Effects, Evaluation Review 19(5), 1995.
    """
    strata = _strata(values, prompts, np.zeros(len(values), int) if tasks is None else tasks)
    parts = np.array([s.variance for s in strata]) / max(len(strata), 1) ** 2
    mean = np.mean([s.mean for s in strata]) if strata else np.nan
    stderr = np.sqrt(parts.sum())
    if not strata or np.isnan(stderr):
        return Significance(p=np.nan, smallest=np.nan)
    if stderr == 0:
        return Significance(p=float(mean == 0), smallest=0.0)
    freedom = _freedom(parts, np.array([s.clusters - 1 for s in strata]))
    return Significance(
        p=float(2 * student.sf(abs(mean) / stderr, freedom)),
        smallest=float((student.ppf(0.975, freedom) + student.ppf(0.8, freedom)) * stderr),
    )


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for there being several: the chance of any false alarm stays below the level.

    Args:
        p: (M,) in [0, 1]; NaN was not tested and stays NaN.

    Returns:
        (M,) in [0, 1], none smaller than its p.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979.
    """
    p = np.asarray(p, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = np.full(p.shape, np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected
