"""How far variants disagree: numbers worked out by hand, then against a slow loop."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from rewards.measuring.variants import disagreements

NAN = float("nan")


def test_by_hand():
    values = {
        "a": np.array([1, 2, 3, 4], np.float32),
        "b": np.array([1, 2.5, 2, 8], np.float32),
        "c": np.array([4, 3, 2, 1], np.float32),
    }
    ab, ac, bc = disagreements(values)
    assert [(d.first, d.second) for d in (ab, ac, bc)] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert (ab.n, ab.mean, ab.mean_absolute, ab.max_absolute, ab.worst) == (4, -0.875, 1.375, 4, 3)
    assert math.isclose(ab.spearman, 0.8)
    assert (ac.mean, ac.mean_absolute, ac.max_absolute, ac.worst) == (0, 2, 3, 0)
    assert math.isclose(ac.spearman, -1)


def test_only_images_that_both_scored_count():
    values = {"a": np.array([NAN, 5, 1, 2]), "b": np.array([9, NAN, 1, 4])}
    (found,) = disagreements(values)
    assert (found.n, found.mean, found.max_absolute, found.worst) == (2, -1, 2, 3)


def test_nothing_in_common_and_nothing_to_rank():
    (found,) = disagreements({"a": np.array([NAN, 1]), "b": np.array([1, NAN])})
    assert (found.n, found.worst) == (0, -1)
    assert all(math.isnan(x) for x in (found.mean, found.max_absolute, found.spearman))
    (found,) = disagreements({"a": np.array([1, 1, 1]), "b": np.array([1, 2, 3])})
    assert found.mean == -1 and math.isnan(found.spearman)
    assert disagreements({"a": np.array([1.0])}) == []


numbers = st.floats(-1000, 1000, width=32) | st.just(NAN)


@given(st.lists(st.tuples(numbers, numbers), max_size=30))
def test_against_a_loop(pairs):
    a, b = (np.array([pair[i] for pair in pairs], np.float32) for i in (0, 1))
    (found,) = disagreements({"a": a, "b": b})
    gaps = [
        (abs(float(x) - float(y)), i, float(x) - float(y))
        for i, (x, y) in enumerate(pairs)
        if not (math.isnan(x) or math.isnan(y))
    ]
    assert found.n == len(gaps)
    if gaps:
        assert math.isclose(found.mean, math.fsum(g for _, _, g in gaps) / len(gaps), abs_tol=1e-9)
        assert (
            found.max_absolute
            == max(gaps)[0]
            == gaps[[i for _, i, _ in gaps].index(found.worst)][0]
        )
    if not math.isnan(found.spearman):
        both = ~(np.isnan(a) | np.isnan(b))
        ranks = np.corrcoef(rankdata(a[both]), rankdata(b[both]))[0, 1]
        assert math.isclose(found.spearman, ranks, abs_tol=1e-9)
