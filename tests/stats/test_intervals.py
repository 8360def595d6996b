"""Intervals inside a metric's range: by hand, against tables, laws, and what they must never be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from nftbench.stats.estimates import clustered_mean, stratified_mean, task_mean
from nftbench.stats.intervals import (
    DOUBT,
    SHARE,
    UNBOUNDED,
    MetricRange,
    effective_images,
    jeffreys,
)

COSINE = MetricRange(low=-1, high=1)
MARKS = MetricRange(low=1, high=5, piles_up=True)


def test_jeffreys_as_published():
    """Brown, Cai & DasGupta 2001, Table 5: n = 10, x = 1 and 5."""
    low, high = jeffreys(np.array([0.1, 0.5]), np.array([10, 10]))
    assert low.round(3).tolist() == [0.011, 0.224]
    assert high.round(3).tolist() == [0.381, 0.776]


def test_one_image_a_prompt_is_a_plain_share():
    """Seven of eight: nothing is known of clusters, nothing is added."""
    found = clustered_mean(np.array([1.0] * 7 + [0]), np.arange(8), SHARE)
    assert (found.low, found.high) == pytest.approx(beta.ppf([0.025, 0.975], 7.5, 1.5))


def test_images_that_are_all_alike_are_worth_one():
    values = np.array([1.0] * 7 + [0])
    one, four = (clustered_mean(values.repeat(k), np.arange(8).repeat(k), SHARE) for k in (1, 4))
    assert (four.low, four.high) == pytest.approx((one.low, one.high))


def test_effective_images_by_hand():
    """Mean 1/2, variance 1/160: 40 images without doubt. Ratio (100/160 + DOUBT) / (10/4 + DOUBT) of 10 prompts."""
    found, known = effective_images(np.array([0.5]), np.array([1 / 160]), np.array([10.0]))
    assert found == pytest.approx(10 * (2.5 + DOUBT) / (0.625 + DOUBT))
    assert not known
    found, known = effective_images(np.array([0.5]), np.array([np.nan]), np.array([1.0]))
    assert found == pytest.approx(1) and known


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("prompts", [1, 2, 8, 20, 80, 553])
def test_all_pass_is_not_certain(prompts, images):
    """As wide as prompts allow, however many images each has; Jeffreys' lower end."""
    found = clustered_mean(np.ones(prompts * images), np.arange(prompts).repeat(images), SHARE)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(beta.ppf(0.025, prompts + 0.5, 0.5))
    assert 0 < found.stderr < (found.high - found.low)


def test_a_published_099_does_not_differ_from_all_pass():
    assert clustered_mean(np.ones(80 * 4), np.arange(80).repeat(4), SHARE).low < 0.985


def test_marks_are_a_share_of_their_range():
    """Marks 1 to 5 are 1 + 4 x share."""
    rights = np.array([1.0, 1, 0, 1, 0.5, 1])
    share, marks = (
        clustered_mean(v, np.arange(6), r) for v, r in ((rights, SHARE), (1 + 4 * rights, MARKS))
    )
    for field in ("value", "low", "high"):
        assert getattr(marks, field) == pytest.approx(1 + 4 * getattr(share, field))
    assert marks.stderr == pytest.approx(4 * share.stderr)


def test_scores_between_the_ends_keep_students_interval():
    values = np.random.default_rng(0).normal(0.3, 0.05, 40)
    one, other = (clustered_mean(values, np.arange(40), r) for r in (COSINE, UNBOUNDED))
    assert one == other


def test_two_prompts_do_not_lead_out_of_the_range():
    found = clustered_mean(np.array([0.2, 0.9]), np.arange(2), COSINE)
    assert (found.low, found.high) == (-1, 1)


def test_scores_between_the_ends_without_spread():
    """Nothing was seen of how far they scatter; the range alone is no measurement."""
    found = clustered_mean(np.full(12, 0.3), np.arange(12), COSINE)
    assert found.value == pytest.approx(0.3)
    assert np.isnan([found.low, found.high, found.stderr]).all()


def test_scores_beyond_the_ends_widen_the_range():
    """The partial GenEval reward of an image with many objects too many."""
    found = clustered_mean(np.array([1.0, 1, 1, -2, 0.5, 1]), np.arange(6), SHARE)
    assert -2 <= found.low < found.value < found.high <= 1


def test_a_task_of_one_prompt_leaves_an_interval():
    values, prompts = np.array([1.0, 0, 1, 1, 0, 1]), np.array([0, 1, 2, 3, 4, 5])
    tags = np.array(["a"] + ["b"] * 5)
    for mean in (task_mean, stratified_mean):
        found = mean(values, prompts, tags, SHARE)
        assert 0 < found.low < found.value < found.high < 1
        assert found.stderr > 0


def test_tasks_are_put_together_by_squares():
    """Two tasks of one image a prompt, 6 of 8 and all of 5; distances to each end add up as squares."""
    values = np.array([1.0] * 6 + [0] * 2 + [1] * 5)
    found = task_mean(values, np.arange(13), np.array(["a"] * 8 + ["b"] * 5), SHARE)
    a, b = beta.ppf([0.025, 0.975], 6.5, 2.5), beta.ppf(0.025, 5.5, 0.5)
    assert found.value == 0.875
    assert found.low == pytest.approx(0.875 - math.hypot(0.75 - a[0], 1 - b) / 2)
    assert found.high == pytest.approx(0.875 + (a[1] - 0.75) / 2)


credit = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])
images = st.lists(
    st.tuples(credit, st.integers(0, 9), st.booleans()), min_size=1, max_size=40
).filter(lambda rows: not all(failed for _, _, failed in rows))


@given(images, st.sampled_from([SHARE, COSINE, MARKS, SHARE.of_differences]))
def test_inside_the_range_around_the_mean_and_never_of_zero_width(rows, within):
    values = np.array([np.nan if failed else v for v, _, failed in rows])
    values = within.low + within.width * values
    prompts = np.array([p for _, p, _ in rows])
    for found in (
        clustered_mean(values, prompts, within),
        stratified_mean(values, prompts, prompts % 3, within),
        task_mean(values, prompts, prompts % 3, within),
    ):
        if np.isnan(found.stderr):  # no two prompts of a task differ, of scores between the ends
            assert not within.piles_up and np.isnan([found.low, found.high]).all()
            continue
        assert within.low <= found.low <= found.value <= found.high <= within.high
        assert found.high - found.low > 0.01 * within.width / len(values)
        assert found.stderr > 0


@given(images)
def test_right_and_wrong_are_mirror_images(rows):
    values, prompts = np.array([v for v, _, _ in rows]), np.array([p for _, p, _ in rows])
    right, wrong = (task_mean(v, prompts, prompts % 2, SHARE) for v in (values, 1 - values))
    assert wrong.low == pytest.approx(1 - right.high, abs=1e-9)
    assert wrong.high == pytest.approx(1 - right.low, abs=1e-9)
    assert wrong.stderr == pytest.approx(right.stderr, abs=1e-9)
