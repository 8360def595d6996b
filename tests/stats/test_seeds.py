"""The mean over seeds: closed forms of its error, and what a seed adds to it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from nftbench.stats.estimates import clustered_mean
from nftbench.stats.intervals import SHARE, UNBOUNDED
from nftbench.stats.paired import Averaging, changes
from nftbench.stats.seeds import (
    LEAST_P,
    Spread,
    change_over_seeds,
    over_seeds,
    p_value,
    spread,
    with_seeds,
)

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
    assert with_seeds(prompts, spread([1.5, 1.5, 1.5])) == prompts
    wide = with_seeds(prompts, spread([1.0, 1.5, 2.0]))
    assert wide.stderr == pytest.approx(np.sqrt(prompts.stderr**2 + 0.25 / 3))
    half = student.ppf(0.975, 2) * np.sqrt(0.25 / 3)
    assert wide.high - wide.value == pytest.approx(np.hypot(prompts.high - prompts.value, half))


def test_the_interval_stays_in_the_metrics_range():
    prompts = clustered_mean(np.array([1.0] * 30 + [0.0]), np.arange(31), SHARE)
    wide = with_seeds(prompts, spread([0.8, 1.0]), SHARE)
    assert wide.high == 1 and 0 <= wide.low < prompts.low


def test_of_one_seed_nothing_is_known():
    assert spread([0.5]) == [] == spread([0.5, np.nan])


def test_without_spread_of_prompts_the_interval_is_students_on_the_seeds():
    means = np.array([0.1, 0.2, 0.6])
    before = [table(np.zeros(50)) for _ in means]
    (one,) = over_seeds(before, [table(m + 1e-6 * np.arange(50)) for m in means], AVERAGING)
    half = student.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    assert one.difference.value == pytest.approx(0.3, rel=1e-3)
    assert one.difference.high - one.difference.value == pytest.approx(half, rel=1e-3)
    assert one.significance.p == pytest.approx(ttest_1samp(means, 0).pvalue, rel=1e-2)


def test_two_sets_of_seeds_paired_and_not():
    """Shifts that both sides share go out of a paired difference, and stay in that of independent sets."""
    shifts, gain = np.array([-1.0, 0.0, 1.0]), 0.5
    a = [table(s + np.arange(40) * 1e-6) for s in shifts]
    b = [table(s + gain + np.arange(40) * 2e-6) for s in shifts]
    how = AVERAGING["b"]["score"]
    paired = change_over_seeds(a, b, "b", "score", how, paired=True)
    assert paired.difference.high - paired.difference.low < 1e-4 and paired.significance.p < 1e-3
    apart = change_over_seeds(a, b, "b", "score", how, paired=False)
    half = student.ppf(0.975, 2) * np.sqrt(2 / 3)
    assert apart.difference.high - apart.difference.value == pytest.approx(half, rel=1e-3)
    assert apart.difference.low < 0 and apart.significance.p > 0.05


def test_an_image_that_any_seed_lost_counts_for_none():
    whole, holed = np.array([1.0, 2, 3, 9]), np.array([1.0, 2, 3, np.nan])
    (one,) = over_seeds([table(np.zeros(4))] * 2, [table(whole), table(holed)], AVERAGING)
    assert (one.after.value, one.after.n, one.after.n_failed) == (2, 3, 1)
    assert one.difference.n_failed == 1


def test_rows_of_seeds_may_stand_in_any_order():
    values = np.random.default_rng(0).normal(size=(3, 12))
    tables = [table(v) for v in values]
    shuffled = [tables[0], *(t.sample(frac=1, random_state=1) for t in tables[1:])]
    base = [table(np.zeros(12))] * 3
    (one,), (other,) = (over_seeds(base, t, AVERAGING) for t in (tables, shuffled))
    assert other.difference.stderr == pytest.approx(one.difference.stderr)
    assert one.difference.value == pytest.approx(values.mean())


@given(st.floats(-2, 2), st.lists(st.tuples(st.floats(0.01, 2), st.integers(1, 50)), min_size=1))
def test_p_is_the_level_at_which_the_interval_reaches_0(value, parts):
    found = [Spread(v, f) for v, f in parts]
    p = p_value(value, found)
    reach = np.sqrt(sum(v * student.isf(p / 2, f) ** 2 for v, f in parts))
    if p == LEAST_P:
        assert reach <= abs(value)
    else:
        assert p == 1 if value == 0 else reach == pytest.approx(abs(value), rel=1e-5, abs=1e-9)


@pytest.mark.thorough
@pytest.mark.slow
def test_the_interval_covers_the_truth_where_seeds_and_prompts_vary():
    """100 made experiments of three seeds and forty prompts; `tests/performance/seed_coverage.py` has the table."""
    random, hits = np.random.default_rng(1), 0
    for _ in range(100):
        prompts, shift = random.normal(0, 1, 40), random.normal(0, 0.6, 3)
        after = [table(prompts + s + random.normal(0, 1, 40)) for s in shift]
        (one,) = over_seeds([table(np.zeros(40))] * 3, after, AVERAGING)
        hits += one.difference.low <= 0 <= one.difference.high
    assert hits >= 92
