"""Several trainings of one recipe as one result: the mean over seeds, with the error of seeds and of prompts in it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import t as student

from nftbench.stats.estimates import Estimate
from nftbench.stats.paired import PAIR, Averaging, Change, changes

KEY = ["benchmark", *PAIR]
"""One image of a table of held-out images."""


def over_seeds(
    before: Sequence[pd.DataFrame],
    after: Sequence[pd.DataFrame],
    averaging: Mapping[str, Mapping[str, Averaging]],
) -> list[Change]:
    """What became of every metric on average over seeds, on the same prompts.

    Args:
        before: a table a seed, as `paired.changes` takes them.
        after: the same, in the same order.
        averaging: as `paired.changes` takes it.

    Returns:
        One a metric. Each estimate's error is that of the seeds' mean image by image, clustered by prompt, and that
        of the seeds' means among themselves; with one seed the latter is unknown and left out.
    """
    whole = changes(_mean_image(before), _mean_image(after), averaging)
    each = [changes(b, a, averaging) for b, a in zip(before, after, strict=True)]
    return [_with_seeds(one, [changed[i] for changed in each]) for i, one in enumerate(whole)]


def _with_seeds(whole: Change, each: Sequence[Change]) -> Change:
    parts = {
        part: with_seeds(getattr(whole, part), [getattr(one, part).value for one in each])
        for part in ("before", "after", "difference")
    }
    if len(each) < 2:
        return whole
    p = _p_value(parts["difference"], [one.difference.value for one in each])
    return replace(whole, **parts, significance=replace(whole.significance, p=p))


def with_seeds(prompts: Estimate, means: Sequence[float]) -> Estimate:
    """Add the variance of seeds to an estimate whose error is that of prompts alone.

    Seeds and prompts are crossed: the variance of the mean is at most that of prompts plus that of seeds / S, where
    the share of their interaction is counted twice, which makes the interval a little too wide.

    Args:
        prompts: of the seeds' mean image by image.
        means: (S,) each seed's own mean.

    Source: Satterthwaite's degrees of freedom, here P - 1 for prompts and S - 1 for seeds.
    """
    if len(means) < 2:
        return prompts
    seeds = np.var(means, ddof=1) / len(means)
    stderr = float(np.sqrt(prompts.stderr**2 + seeds))
    half = (
        float(student.ppf(0.975, _freedom(stderr, seeds, prompts.n_prompts, len(means)))) * stderr
    )
    return replace(prompts, stderr=stderr, low=prompts.value - half, high=prompts.value + half)


def _freedom(stderr: float, seeds: float, n_prompts: int, n_seeds: int) -> float:
    parts = np.array([stderr**2 - seeds, seeds])
    spread = (parts**2 / np.array([max(n_prompts - 1, 1), n_seeds - 1])).sum()
    return float(stderr**4 / spread) if spread > 0 else np.inf


def _p_value(difference: Estimate, means: Sequence[float]) -> float:
    """Two-sided, of the t-test whose interval `with_seeds` gives."""
    seeds = np.var(means, ddof=1) / len(means)
    freedom = _freedom(difference.stderr, seeds, difference.n_prompts, len(means))
    if not difference.stderr > 0:
        return float(difference.value == 0)
    return float(2 * student.sf(abs(difference.value) / difference.stderr, freedom))


def _mean_image(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Each image's mean over the seeds that scored it; images of all seeds."""
    return pd.concat(tables, ignore_index=True).groupby(KEY, as_index=False, sort=False).mean()
