"""Intervals keep their word, simulated; `tests/performance/interval_coverage.py` shows every cell."""

import runpy

import numpy as np
import pytest

from tests.helpers.paths import ROOT

WORLDS = 500
"""95% +- 2.9 standard errors of that share are 0.922 and 0.978."""


@pytest.fixture(scope="module")
def script():
    """The functions of the script that prints these numbers."""
    return runpy.run_path(str(ROOT / "tests" / "performance" / "interval_coverage.py"))


def test_the_worlds_are_as_alike_as_they_say(script):
    """Intra-class correlation .6: the spread of prompts' chances against all spread."""
    chance = script["chances"](np.random.default_rng(0), (20_000,), 0.5, 0.6)
    assert chance.mean() == pytest.approx(0.5, abs=0.01)
    assert chance.var() / 0.25 == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize(
    ("prompts", "images", "share", "alike"),
    [(80, 4, 0.5, 0.0), (80, 4, 0.95, 0.6), (20, 4, 0.7, 0.3), (553, 4, 0.9, 0.1), (20, 1, 0.9, 0)],
)
def test_coverage(script, prompts, images, share, alike):
    found = script["coverage"](
        script["ours"], WORLDS, script["Cell"](prompts, images, share, alike)
    )
    assert 0.922 <= found <= 0.978


@pytest.mark.parametrize(
    ("prompts", "images", "share"),
    [(8, 4, 0.95), (20, 1, 0.95), (8, 1, 0.98), (20, 4, 0.98)],
)
@pytest.mark.parametrize("alike", [0.0, 0.6])
def test_beside_the_end_nothing_is_missed(script, prompts, images, share, alike):
    """Where Student's interval held the truth in 15 to 91% of worlds; more than 97% are no fault here."""
    cell = script["Cell"](prompts, images, share, alike)
    assert script["coverage"](script["ours"], WORLDS, cell) >= 0.922
    assert script["coverage"](script["students"], WORLDS, cell) < 0.93


def test_coverage_of_partial_credit(script):
    cell = script["Cell"](80, 4, 0.7, 0.3, credit=0.5)
    found = script["coverage"](script["ours"], WORLDS, cell)
    assert 0.922 <= found <= 0.978


@pytest.mark.parametrize("name", ["GenEval, SD3.5-M", "one task of one prompt"])
def test_coverage_of_the_task_mean(script, name):
    found = script["task_coverage"](300, *script["TASKS"][name], 4, 0.3)
    assert 0.91 <= found <= 0.99


@pytest.mark.slow
def test_differences_raise_no_false_alarms_and_are_seen_as_often_as_said(script):
    """At 5%, 80 prompts x 4."""
    alarms, _ = script["power"](300, 80, 4, 0.6, 0.0)
    seen, _ = script["power"](300, 80, 4, 0.6, None)
    assert alarms <= 0.09
    assert seen == pytest.approx(0.8, abs=0.08)
