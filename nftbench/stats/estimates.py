"""Means with honest errors: clustered by prompt, stratified by task. Pure: arrays in, numbers out.

Images of one prompt resemble one another, so the prompt, not the image, is the unit that was sampled.
Unscored images (NaN) are left out of the mean and counted beside it.
"""

from dataclasses import dataclass

import numpy as np

from nftbench.stats.intervals import MetricRange, Strata, interval, strata


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean, its standard error and its 95% confidence interval, in the metric's own units."""

    value: float
    stderr: float
    """Clustered by prompt; where no prompt differs from another, that of the share with the same interval, or NaN."""
    low: float
    """The interval lies in the metric's range and is never of zero width; NaN where nothing is known of the error."""
    high: float
    n: int
    """Images that were scored."""
    n_failed: int
    """Images that were not."""
    n_prompts: int


def clustered_mean(values: np.ndarray, prompts: np.ndarray, within: MetricRange) -> Estimate:
    """Mean over images; its error allows for images of one prompt being alike.

    Args:
        values: (N,), NaN where unscored.
        prompts: (N,) the prompt of each image.
        within: what the metric can be; `SHARE` of right and wrong.

    Returns:
        The estimate; all NaN when nothing was scored. Of a metric that does not pile up at its ends the error is NaN
        where no two prompts differ.

    Source: Miller, Adding Error Bars to Evals, arXiv:2411.00640 Sec. 2.2; see `nftbench.stats.intervals`.
    """
    return stratified_mean(values, prompts, np.zeros(len(values), dtype=int), within)


def stratified_mean(
    values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray, within: MetricRange
) -> Estimate:
    """Mean over images (GenEval's "image mean"), clustered by prompt within fixed tasks.

    Args:
        values: (N,), NaN where unscored.
        prompts: (N,) the prompt of each image; a prompt belongs to one task.
        tasks: (N,) the task of each image.
        within: what the metric can be.
    """
    found = strata(values, prompts, tasks)
    return _combine(found, found.images / max(found.images.sum(), 1), values, within)


def task_mean(
    values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray, within: MetricRange
) -> Estimate:
    """Mean of the tasks' means, each task with the same weight: GenEval's "overall".

    Args:
        values: (N,), NaN where unscored.
        prompts: (N,) the prompt of each image.
        tasks: (N,) the task of each image; a task without a scored image is left out.
        within: what the metric can be.

    Source: djghosh13/geneval@af4902f evaluation/summary_scores.py.
    """
    found = strata(values, prompts, tasks)
    count = len(found.mean)
    return _combine(found, np.full(count, 1 / max(count, 1)), values, within)


def _combine(
    tasks: Strata, weights: np.ndarray, values: np.ndarray, within: MetricRange
) -> Estimate:
    values = np.asarray(values, dtype=np.float64)
    failed = int(np.isnan(values).sum())
    if not len(tasks.mean):
        nan = float("nan")
        return Estimate(value=nan, stderr=nan, low=nan, high=nan, n=0, n_failed=failed, n_prompts=0)
    value = float(np.sum(weights * tasks.mean))
    found = interval(tasks, weights, within.holding(values))
    return Estimate(
        value=value,
        stderr=found.stderr,
        low=min(found.low, value),
        high=max(found.high, value),
        n=int(tasks.images.sum()),
        n_failed=failed,
        n_prompts=int(tasks.prompts.sum()),
    )
