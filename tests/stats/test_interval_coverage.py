"""Intervals and p-values keep their word at GenEval's size: 553 prompts x 4 images, simulated."""

import math
import runpy

import numpy as np
import pytest
from scipy.stats import kstest

from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def worlds():
    """The functions of the script that prints these numbers."""
    path = ROOT / "tests" / "performance" / "interval_coverage.py"
    return runpy.run_path(str(path))


def test_the_worlds_are_as_alike_as_they_say(worlds):
    """553 prompts in six tasks; intra-class correlation .6: the spread of prompts' chances against all spread."""
    assert (len(worlds["PROMPTS"]), list(worlds["TASKS"].values())) == (
        2212,
        [80, 99, 80, 94, 100, 100],
    )
    rng, mean = np.random.default_rng(0), 0.5
    chance = np.concatenate([worlds["chances"](rng)[179:259] for _ in range(200)])  # counting
    assert chance.mean() == pytest.approx(mean, abs=0.02)
    assert chance.var() / (mean * (1 - mean)) == pytest.approx(0.6, abs=0.02)


@pytest.mark.slow
def test_coverage_at_553_prompts_of_four_images(worlds):
    clustered, naive = worlds["coverage"](2000, seed=0)
    assert 0.93 <= clustered <= 0.97
    assert naive < 0.85  # what ignoring prompts would have claimed to be 95%


@pytest.mark.slow
def test_chances_are_uniform_where_nothing_differs(worlds):
    """KS statistic of 800 against the uniform one's 0.1% point, 1.95 / sqrt(800)."""
    found = worlds["null_chances"](800, seed=1)
    assert kstest(found, "uniform").statistic < 1.95 / math.sqrt(800)
    assert 0.03 <= np.mean(found < 0.05) <= 0.075


@pytest.mark.slow
def test_the_smallest_effect_is_seen_four_times_in_five(worlds):
    seen, size = worlds["power"](800, seed=2)
    assert seen == pytest.approx(0.8, abs=0.05) and 0.015 < size < 0.03
