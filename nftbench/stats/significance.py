"""Is a mean of paired differences 0? A test that holds for few prompts; several at once. Pure: its seed is fixed."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from nftbench.stats.intervals import SPECK, MetricRange, Strata, interval, strata

ALPHA = 0.05
POWER = 0.8
EXACT = 14
"""Prompts that changed whose signs are all tried, 2^14 ways; of more, `FLIPS` ways are drawn."""
FLIPS = 20_000
_CHUNK = 500
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Significance:
    """How a mean of differences stands to 0."""

    p: float
    """Two-sided, of the sign-flip test on prompts; NaN where nothing was scored."""
    smallest: float
    """Difference that such images show with 80% power at the 5% level, in the metric's own units; infinite where not
    even the largest one could be seen, as with fewer than six prompts; NaN where nothing is known of the error."""


def significance(
    values: np.ndarray,
    prompts: np.ndarray,
    tasks: np.ndarray | None = None,
    *,
    within: MetricRange,
) -> Significance:
    """Whether a mean of paired differences is 0: clustered by prompt, stratified where tasks weigh alike.

    If a prompt's two sets of images come from the same model, its difference is as likely to be turned round. So all
    signs of the prompts' shares of the mean are flipped (exactly up to `EXACT` prompts that changed, else by seeded
    draws): p is the portion of flips whose mean lies as far from 0. With 2 prompts p is never below 0.5.

    Args:
        values: (N,) paired differences, NaN where unscored.
        prompts: (N,) the prompt of each.
        tasks: (N,) the task of each, for the mean of task means; None for the mean over images.
        within: what a difference can be.

    Source: Fisher, The Design of Experiments, 1935, Sec. 21; Phipson & Smyth, Permutation P-values Should Never Be
        Zero, Stat. Appl. Genet. Mol. Biol. 9, 2010; `smallest` is (t_0.975 + t_0.8) standard errors, Bloom, Minimum
        Detectable Effects, Evaluation Review 19(5), 1995.
    """
    values = np.asarray(values, dtype=np.float64)
    groups = np.zeros(len(values), int) if tasks is None else np.asarray(tasks)
    found = strata(values, prompts, groups)
    if not len(found.mean):
        return Significance(p=np.nan, smallest=np.nan)
    return Significance(
        p=sign_flips(_shares(values, np.asarray(prompts), groups)),
        smallest=_smallest(found, within.holding(values)),
    )


def _shares(values: np.ndarray, prompts: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """What each prompt adds to the mean of task means, (K,); their sum is that mean."""
    scored = ~np.isnan(values)
    values, prompts, tasks = values[scored], prompts[scored], tasks[scored]
    _, task, sizes = np.unique(tasks, return_inverse=True, return_counts=True)
    _, prompt = np.unique(prompts, return_inverse=True)
    return np.bincount(prompt, weights=values / sizes[task] / len(sizes))


def sign_flips(shares: np.ndarray) -> float:
    """Portion of the ways to sign K numbers whose sum lies as far from 0 as theirs.

    Args:
        shares: (K,) finite.
    """
    sizes = np.sort(np.abs(shares))[::-1]
    sizes = sizes[sizes > SPECK * sizes.max(initial=0)]
    far = abs(float(np.sum(shares))) - 1e-9 * float(sizes.sum())
    if len(sizes) <= EXACT:
        sums = np.zeros(1)
        for size in sizes:
            sums = np.concatenate([sums + size, sums - size])
        return float(np.mean(np.abs(sums) >= far))
    random = np.random.default_rng(_SEED)
    as_far = 1  # the signs that were seen are one of the ways
    for _ in range(FLIPS // _CHUNK):
        bits = random.integers(0, 256, (_CHUNK, -(-len(sizes) // 8)), dtype=np.uint8)
        kept = np.unpackbits(bits, axis=1, count=len(sizes)).astype(np.float64) @ sizes
        as_far += int(np.sum(np.abs(2 * kept - sizes.sum()) >= far))
    return as_far / (FLIPS + 1)


def _smallest(tasks: Strata, within: MetricRange) -> float:
    weights = np.full(len(tasks.mean), 1 / len(tasks.mean))
    found = interval(tasks, weights, within)
    if 2 ** (1 - tasks.prompts.sum()) > ALPHA:
        return math.inf
    quantiles = student.ppf([1 - ALPHA / 2, POWER], found.freedom)
    size = float(np.sum(quantiles)) * found.spread
    return math.inf if size > within.high else size


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
