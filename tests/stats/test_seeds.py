"""The mean over seeds: closed forms of its error, and what a seed adds to it."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from nftbench.stats.intervals import UNBOUNDED
from nftbench.stats.paired import Averaging, changes
from nftbench.stats.seeds import over_seeds, with_seeds

AVERAGING = {"b": {"score": Averaging(within=UNBOUNDED)}}


def table(values: np.ndarray) -> pd.DataFrame:
    """One image a prompt."""
    ids = [f"p{i}" for i in range(len(values))]
    return pd.DataFrame(
        {"benchmark": "b", "prompt_id": ids, "tag": "t", "image_index": 0, "score": values}
    )


def test_one_seed_is_the_plain_comparison():
    before, after = table(np.array([0.0, 1, 2])), table(np.array([1.0, 1, 4]))
    assert over_seeds([before], [after], AVERAGING) == changes(before, after, AVERAGING)


def test_seeds_that_agree_add_nothing_and_their_spread_adds_its_share():
    prompts = over_seeds([table(np.zeros(4))], [table(np.array([0.0, 1, 2, 3]))], AVERAGING)[
        0
    ].difference
    same = with_seeds(prompts, [1.5, 1.5, 1.5])
    assert (same.value, same.stderr) == (prompts.value, prompts.stderr)
    wide = with_seeds(prompts, [1.0, 1.5, 2.0])
    assert wide.stderr == pytest.approx(np.sqrt(prompts.stderr**2 + 0.25 / 3))


def test_without_spread_of_prompts_the_interval_is_students_on_the_seeds():
    means = np.array([0.1, 0.2, 0.6])
    before = [table(np.zeros(50)) for _ in means]
    (one,) = over_seeds(before, [table(m + 1e-6 * np.arange(50)) for m in means], AVERAGING)
    half = student.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    assert one.difference.value == pytest.approx(0.3, rel=1e-3)
    assert one.difference.high - one.difference.value == pytest.approx(half, rel=1e-3)


def test_the_interval_covers_the_truth_where_seeds_and_prompts_vary():
    """A slow oracle: 100 made experiments of three seeds and forty prompts; 95% intervals, a little too wide."""
    random, hits = np.random.default_rng(1), 0
    for _ in range(100):
        prompts, shift = random.normal(0, 1, 40), random.normal(0, 0.2, 3)
        after = [table(prompts + s + random.normal(0, 1, 40)) for s in shift]
        (one,) = over_seeds([table(np.zeros(40))] * 3, after, AVERAGING)
        hits += one.difference.low <= 0 <= one.difference.high
    assert hits >= 90
