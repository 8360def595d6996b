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
    live = parts > 0
    return float(student.ppf(0.975, parts.sum() ** 2 / np.sum(parts[live] ** 2 / freedom[live])))
