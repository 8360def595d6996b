"""Means and their errors: by hand, against a bootstrap, against GenEval's own summaries, by simulation."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftbench.stats import estimates
from nftbench.stats.estimates import Estimate
from nftbench.stats.intervals import UNBOUNDED, MetricRange
from tests.helpers.paths import GOLDEN

GOLDEN = json.loads((GOLDEN / "metrics_geneval_summary.json").read_text("utf-8"))["cases"]
T_975 = {1: 12.706204736432095, 2: 4.302652729696142, 4: 2.7764451051977987}
"""Student's 97.5% quantile by degrees of freedom, from a printed table."""


def clustered_mean(values, prompts, within: MetricRange = UNBOUNDED) -> Estimate:
    """Of a metric that can be anything, unless it is said what: Student's interval."""
    return estimates.clustered_mean(values, prompts, within)


def stratified_mean(values, prompts, tasks, within: MetricRange = UNBOUNDED) -> Estimate:
    return estimates.stratified_mean(values, prompts, tasks, within)


def task_mean(values, prompts, tasks, within: MetricRange = UNBOUNDED) -> Estimate:
    return estimates.task_mean(values, prompts, tasks, within)


def numbers(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.stderr, estimate.low, estimate.high]


# --- by hand --------------------------------------------------------------------------------------


def test_two_prompts_by_hand():
    """Mean 4; the prompts' sums of deviations are (1-4)+(3-4) = -4 and (5-4)+(7-4) = +4.

    Variance of the mean: 2/1 * (16 + 16) / 4^2 = 4.
    """
    found = clustered_mean(np.array([1.0, 3, 5, 7]), np.array(["a", "a", "b", "b"]))
    assert numbers(found) == pytest.approx([4, 2, 4 - 2 * T_975[1], 4 + 2 * T_975[1]], rel=1e-9)
    assert (found.n, found.n_failed, found.n_prompts) == (4, 0, 2)


def test_prompts_of_unequal_size_by_hand():
    """Mean 2; sums of deviations -1, +1 (three images), 0. Variance: 3/2 * 2 / 5^2 = 0.12."""
    found = clustered_mean(np.array([1.0, 2, 2, 3, 2]), np.array([0, 1, 1, 1, 2]))
    half = math.sqrt(0.12) * T_975[2]
    assert numbers(found) == pytest.approx([2, math.sqrt(0.12), 2 - half, 2 + half], rel=1e-9)


def test_one_image_a_prompt_is_the_textbook_standard_error():
    values = np.array([0.3, 1.1, -2.0, 4.0, 0.7])
    found = clustered_mean(values, np.arange(5))
    textbook = values.std(ddof=1) / math.sqrt(5)
    assert found.stderr == pytest.approx(textbook, rel=1e-12)
    assert found.high - found.value == pytest.approx(T_975[4] * textbook, rel=1e-9)


def test_equal_images_of_a_prompt_tell_no_more_than_one():
    values = np.array([0.0, 1, 1, 0, 1])
    one, four = (clustered_mean(values.repeat(k), np.arange(5).repeat(k)) for k in (1, 4))
    assert numbers(four) == pytest.approx(numbers(one), rel=1e-12)
    assert (one.n, four.n, four.n_prompts) == (5, 20, 5)


def test_tasks_by_hand():
    """Task a: images 0, 1, 1, 1 of two prompts, mean 3/4; task b: one image of each of two, mean 1/2.

    Variance of a's mean: 2 * ((-1/2)^2 + (1/2)^2) / 4^2 = 1/16; of b's: 2 * (1/4 + 1/4) / 2^2 = 1/4.
    """
    values, prompts = np.array([0.0, 1, 1, 1, 0, 1]), np.array([0, 0, 1, 1, 2, 3])
    tasks = np.array(["a"] * 4 + ["b"] * 2)
    overall, images = task_mean(values, prompts, tasks), stratified_mean(values, prompts, tasks)
    assert overall.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert overall.stderr == pytest.approx(math.sqrt(1 / 16 + 1 / 4) / 2)
    assert images.value == pytest.approx(4 / 6)
    assert images.stderr == pytest.approx(math.sqrt((4 / 6) ** 2 / 16 + (2 / 6) ** 2 / 4))


def test_satterthwaites_freedom_is_that_of_the_only_task_with_spread():
    """Task b never varies, so the interval is that of task a alone: two prompts, one degree."""
    values, prompts = np.array([0.0, 1, 1, 1, 1]), np.array([0, 1, 2, 3, 4])
    found = task_mean(values, prompts, np.array(["a", "a", "b", "b", "b"]))
    assert (found.value, found.stderr) == (0.75, pytest.approx(0.25))
    assert found.high == pytest.approx(0.75 + 0.25 * T_975[1], rel=1e-9)


# --- what could not be scored ---------------------------------------------------------------------


def test_unscored_images_are_left_out_and_counted():
    values = np.array([1.0, np.nan, 3, 5, np.nan, 7, np.nan])
    prompts = np.array([0, 0, 0, 1, 1, 1, 2])
    found, kept = clustered_mean(values, prompts), ~np.isnan(values)
    assert numbers(found) == numbers(clustered_mean(values[kept], prompts[kept]))
    assert (found.n, found.n_failed, found.n_prompts) == (4, 3, 2)


@pytest.mark.parametrize("mean", [stratified_mean, task_mean])
def test_nothing_scored_is_nan_and_never_zero(mean):
    found = mean(np.full(3, np.nan), np.arange(3), np.array(["a", "a", "b"]))
    assert all(math.isnan(v) for v in numbers(found))
    assert (found.n, found.n_failed, found.n_prompts) == (0, 3, 0)


def test_one_prompt_of_an_unbounded_metric_has_a_mean_and_no_error():
    found = clustered_mean(np.array([0.0, 1]), np.array(["a", "a"]))
    assert found.value == 0.5 and math.isnan(found.stderr) and math.isnan(found.low)


def test_a_task_of_one_prompt_is_taken_to_vary_as_the_others_do():
    """Task a: variance of a prompt 1/2 (0 and 1), of its mean 1/4; task b has one prompt: variance 1/2."""
    found = task_mean(np.array([0.0, 1, 1]), np.arange(3), np.array(["a", "a", "b"]))
    assert (found.value, found.stderr) == (0.75, pytest.approx(math.sqrt(1 / 4 + 1 / 2) / 2))
    assert found.low < 0.75 < found.high


def test_no_spread_of_an_unbounded_metric_is_an_unknown_error_and_never_0():
    found = clustered_mean(np.full(6, 0.1), np.arange(6))
    assert found.value == pytest.approx(0.1)
    assert all(math.isnan(v) for v in (found.stderr, found.low, found.high))


def test_float32_scores_are_summed_in_float64():
    values = np.full(1_000_000, 0.1, dtype=np.float32)
    values[0] = 1e4
    found = clustered_mean(values, np.arange(len(values)))
    assert found.value == pytest.approx(values.astype(np.float64).sum() / len(values), rel=1e-12)


# --- golden ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_golden_geneval_summary(case):
    prompts = np.array([prompt for prompt, _ in case["rows"]])
    values = np.array([correct for _, correct in case["rows"]], dtype=np.float32)
    tasks, out = np.array(case["tags"])[prompts], case["out"]
    overall, images = task_mean(values, prompts, tasks), stratified_mean(values, prompts, tasks)
    assert overall.value == pytest.approx(out["overall"], abs=1e-12)
    assert images.value == pytest.approx(out["correct_images"], abs=1e-12)
    assert clustered_mean(values, prompts).value == pytest.approx(out["correct_images"], abs=1e-12)
    assert (images.n, images.n_prompts) == (out["total_images"], out["total_prompts"])
    for task, score in out["task_scores"].items():
        one = clustered_mean(values[tasks == task], prompts[tasks == task])
        assert one.value == pytest.approx(score, abs=1e-12)


def test_golden_is_whole():
    assert len(GOLDEN) == 10


# --- a slow and obvious oracle --------------------------------------------------------------------


def drawn(rng, prompts: int, images: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores with an effect of the prompt, and the prompt of each."""
    effects = rng.normal(0.5, spread, prompts).repeat(images)
    return effects + rng.normal(0, 0.3, prompts * images), np.arange(prompts).repeat(images)


def test_bootstrap_over_prompts_gives_the_same_error():
    rng = np.random.default_rng(0)
    values, prompts = drawn(rng, 80, 4, 0.5)
    whole = values.reshape(80, 4)
    resampled = [whole[rng.integers(80, size=80)].mean() for _ in range(4000)]
    found = clustered_mean(values, prompts)
    assert found.stderr == pytest.approx(np.std(resampled), rel=0.06)
    naive = values.std(ddof=1) / math.sqrt(len(values))
    assert found.stderr > 1.5 * naive  # what ignoring prompts would have claimed


def test_bootstrap_within_tasks_gives_the_error_of_the_task_mean():
    rng = np.random.default_rng(1)
    few, many = drawn(rng, 30, 4, 0.5)[0], drawn(rng, 90, 2, 0.1)[0] + 3
    a, b = few.reshape(30, 4), many.reshape(90, 2)
    resampled = [
        (a[rng.integers(30, size=30)].mean() + b[rng.integers(90, size=90)].mean()) / 2
        for _ in range(4000)
    ]
    prompts = np.concatenate([np.arange(30).repeat(4), 100 + np.arange(90).repeat(2)])
    found = task_mean(np.concatenate([few, many]), prompts, np.array(["a"] * 120 + ["b"] * 180))
    assert found.stderr == pytest.approx(np.std(resampled), rel=0.06)


@pytest.mark.parametrize("prompts", [6, 40])
def test_the_interval_covers_the_truth_as_often_as_it_says(prompts):
    """800 worlds with prompt effects; 95% +- 3.9 standard errors of that share."""
    rng = np.random.default_rng(prompts)
    hits = 0
    for _ in range(800):
        found = clustered_mean(*drawn(rng, prompts, 4, 0.5))
        hits += found.low <= 0.5 <= found.high
    assert 0.92 <= hits / 800 <= 0.98


# --- laws -----------------------------------------------------------------------------------------

scores = st.floats(-100, 100).map(lambda v: round(v, 3))
images = st.lists(st.tuples(scores, st.integers(0, 5), st.booleans()), min_size=1, max_size=30).map(
    lambda rows: (
        np.array([np.nan if failed and i % 2 else v for i, (v, _, failed) in enumerate(rows)]),
        np.array([f"p{p}" for _, p, _ in rows]),
        np.array([f"t{p % 2}" for _, p, _ in rows]),
    )
)
means = st.sampled_from([task_mean, stratified_mean, lambda v, p, t: clustered_mean(v, p)])


@given(images, means, st.floats(-50, 50), st.floats(0.01, 50))
def test_shift_and_scale(data, mean, shift, scale):
    values, prompts, tasks = data
    one, other = mean(values, prompts, tasks), mean(scale * values + shift, prompts, tasks)
    expected = [scale * one.value + shift, scale * one.stderr]
    assert [other.value, other.stderr] == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)
    assert (other.n, other.n_failed, other.n_prompts) == (one.n, one.n_failed, one.n_prompts)


@given(images, means, st.randoms(use_true_random=False))
def test_order_does_not_matter(data, mean, random):
    order = list(range(len(data[0])))
    random.shuffle(order)
    one, other = mean(*data), mean(*(column[order] for column in data))
    assert numbers(other) == pytest.approx(numbers(one), rel=1e-9, abs=1e-9, nan_ok=True)


@given(images, means)
def test_the_mean_lies_among_the_scores_and_inside_its_interval(data, mean):
    found, values = mean(*data), data[0]
    assert found.n + found.n_failed == len(values)
    if found.n:
        assert np.nanmin(values) - 1e-9 <= found.value <= np.nanmax(values) + 1e-9
    if not math.isnan(found.stderr):
        assert found.low <= found.value <= found.high


@given(images)
def test_names_of_prompts_do_not_matter(data):
    values, prompts, tasks = data
    renamed = np.array([f"x{9 - int(p[1:])}" for p in prompts])
    assert numbers(task_mean(values, renamed, tasks)) == pytest.approx(
        numbers(task_mean(values, prompts, tasks)), rel=1e-9, abs=1e-9, nan_ok=True
    )
