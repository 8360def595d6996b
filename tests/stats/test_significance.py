"""Paired differences against 0: sign flips by hand, against scipy, by simulation; several tests at once."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, permutation_test

from nftbench.stats.intervals import SHARE, UNBOUNDED, MetricRange
from nftbench.stats.significance import EXACT, holm, sign_flips, significance

DIFFERENCE = SHARE.of_differences


def slow_flips(shares: list[float]) -> float:
    """Every way to sign, one by one."""
    seen = abs(sum(shares)) - 1e-9
    ways = [
        abs(sum(s * x for s, x in zip(signs, shares, strict=True)))
        for signs in product([1, -1], repeat=len(shares))
    ]
    return sum(w >= seen for w in ways) / len(ways)


@pytest.mark.parametrize(
    ("gains", "p"),
    [
        ([1, 1], 0.5),  # two prompts without spread: half of all signs are as far from 0
        ([0.25, 0.25, 0.25], 0.25),
        ([1] * 6, 2 / 64),
        ([1, 1, -1], 1.0),
        ([3, 1], 0.5),
        ([0, 0, 0], 1.0),
        ([0.5, 0, 0, 0.5], 0.5),  # prompts that did not change say nothing
    ],
)
def test_p_by_hand(gains, p):
    within = MetricRange(low=-4, high=4)
    assert significance(np.array(gains, float), np.arange(len(gains)), within=within).p == p


@given(st.lists(st.integers(-5, 5).map(lambda v: v / 10), min_size=1, max_size=9))
def test_all_signs_are_tried(shares):
    assert sign_flips(np.array(shares)) == pytest.approx(slow_flips(shares), abs=1e-12)


def test_as_scipy_permutes_the_samples_of_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 10), rng.normal(0.6, 1, 10)
    other = permutation_test(
        (a, b), lambda x, y: np.mean(y - x), permutation_type="samples", n_resamples=np.inf
    )
    found = significance(b - a, np.arange(10), within=UNBOUNDED)
    assert found.p == pytest.approx(other.pvalue, abs=1e-12)


def test_images_of_a_prompt_flip_together():
    """Four prompts of five images that all gained: 2 of 16 ways, not of 2^20."""
    found = significance(np.full(20, 0.5), np.arange(4).repeat(5), within=DIFFERENCE)
    assert found.p == 2 / 16


def test_tasks_weigh_alike():
    """Task a: one prompt gains 1; task b: two prompts lose 1/2 each. Task means +1 and -1/2: shares 1/2, -1/8, -1/8."""
    values, prompts = np.array([1.0, -0.5, -0.5]), np.arange(3)
    found = significance(values, prompts, np.array(["a", "b", "b"]), within=DIFFERENCE)
    assert found.p == slow_flips([0.5, -0.125, -0.125])


def test_of_many_prompts_ways_are_drawn_and_the_seed_is_fixed():
    """Of 30 prompts, against all signs counted: k of 30 heads, binomial."""
    gains = np.array([1.0] * 21 + [-1.0] * 9)
    found = significance(gains, np.arange(30), within=DIFFERENCE)
    exact = 2 * sum(math.comb(30, k) for k in range(21, 31)) / 2**30
    assert len(gains) > EXACT and found.p == pytest.approx(exact, abs=0.006)
    assert significance(gains, np.arange(30), within=DIFFERENCE).p == found.p


def test_of_many_prompts_p_is_never_0():
    assert 0 < significance(np.ones(100), np.arange(100), within=DIFFERENCE).p < 1e-4


@pytest.mark.parametrize(("prompts", "worlds"), [(11, 400), (25, 150)])
def test_chances_are_uniform_where_nothing_differs(prompts, worlds):
    """KS statistic against the uniform one's 0.1% point."""
    rng, found = np.random.default_rng(prompts), []
    for _ in range(worlds):
        effects = rng.normal(0, 1, prompts).repeat(3)
        gains = effects + rng.normal(0, 0.5, 3 * prompts)
        found.append(significance(gains, np.arange(prompts).repeat(3), within=UNBOUNDED).p)
    assert kstest(found, "uniform").statistic < 1.95 / math.sqrt(worlds)


def test_smallest_effect_of_many_prompts_is_2_8_errors():
    """z_0.975 + z_0.8 = 1.95996 + 0.84162 of a normal table."""
    values = np.random.default_rng(0).normal(0, 3, 2_000)
    error = values.std(ddof=1) / math.sqrt(len(values))
    found = significance(values, np.arange(len(values)), within=UNBOUNDED)
    assert found.smallest == pytest.approx(2.80158 * error, rel=2e-3)


@pytest.mark.parametrize("prompts", [2, 5])
def test_fewer_than_six_prompts_can_show_nothing(prompts):
    """2 / 2^5 is above 0.05."""
    gains = np.linspace(0.1, 0.2, prompts)
    assert significance(gains, np.arange(prompts), within=DIFFERENCE).smallest == math.inf


@settings(max_examples=30)
@given(st.integers(6, 300), st.integers(1, 4), st.sampled_from([0.0, 0.25, -1.0]))
def test_the_smallest_effect_is_never_0(prompts, images, gain):
    """Pairs that all changed alike, or not at all."""
    found = significance(
        np.full(prompts * images, gain), np.arange(prompts).repeat(images), within=DIFFERENCE
    )
    assert found.smallest > 1 / prompts


def test_an_unbounded_metric_without_spread_has_an_unknown_smallest_effect():
    found = significance(np.zeros(9), np.arange(9), within=UNBOUNDED)
    assert found.p == 1 and math.isnan(found.smallest)


def test_nothing_scored_is_nothing_known():
    found = significance(np.full(2, np.nan), np.arange(2), within=DIFFERENCE)
    assert math.isnan(found.p) and math.isnan(found.smallest)


gains = st.lists(
    st.tuples(st.integers(-20, 20).map(lambda v: v / 20), st.integers(0, 9)),
    min_size=1,
    max_size=30,
)


@given(gains, st.floats(0.01, 50), st.sampled_from([1, -1]))
def test_scale_and_sign_change_no_chance(rows, scale, sign):
    values, prompts = (np.array(column) for column in zip(*rows, strict=True))
    one = significance(values, prompts, within=UNBOUNDED)
    other = significance(sign * scale * values, prompts, within=UNBOUNDED)
    assert other.p == one.p
    assert other.smallest == pytest.approx(scale * one.smallest, rel=1e-6, nan_ok=True)


@given(gains, st.randoms(use_true_random=False))
def test_neither_order_nor_names_change_a_chance(rows, random):
    shuffled = random.sample([(value, f"x{9 - prompt}") for value, prompt in rows], len(rows))
    one, other = (
        significance(*(np.array(c) for c in zip(*r, strict=True)), within=DIFFERENCE)
        for r in (rows, shuffled)
    )
    assert other.p == pytest.approx(one.p, abs=1e-12)


# --- Holm -----------------------------------------------------------------------------------------


def slow_holm(p: list[float], level: float) -> list[bool]:
    """The procedure as it is told: the smallest p against level/m, the next against level/(m-1), stop at the first."""
    left, rejected = sorted(range(len(p)), key=lambda i: p[i]), [False] * len(p)
    while left and p[left[0]] * len(left) <= level:
        rejected[left.pop(0)] = True
    return rejected


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.6])) == pytest.approx([1, 1])
    assert holm(np.array([])).shape == (0,)


chances = st.lists(st.integers(0, 1000).map(lambda v: v / 1000), max_size=12)


@given(chances, st.sampled_from([0.01, 0.05, 0.2, 0.5]))
def test_holm_rejects_as_the_procedure_does(p, level):
    corrected = holm(np.array(p))
    nudged = level * (1 + 1e-12)  # products of decimals that are the level itself
    assert (corrected <= nudged).tolist() == slow_holm(p, nudged)


@given(chances, st.randoms(use_true_random=False))
def test_holm_keeps_order_and_never_makes_a_chance_smaller(p, random):
    corrected, array = holm(np.array(p)), np.array(p)
    assert (corrected >= array).all() and (corrected <= np.minimum(1, len(p) * array) + 1e-12).all()
    order = np.argsort(array)
    assert (np.diff(corrected[order]) >= 0).all()
    shuffled = random.sample(range(len(p)), len(p))
    assert holm(array[shuffled]) == pytest.approx(corrected[shuffled], abs=1e-12)


@given(chances)
def test_what_was_not_tested_does_not_count(p):
    found = holm(np.array([np.nan, *p, np.nan]))
    assert np.isnan(found[[0, -1]]).all()
    assert found[1:-1] == pytest.approx(holm(np.array(p)), abs=0)
