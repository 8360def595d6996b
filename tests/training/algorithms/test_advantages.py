"""Several rewards to one advantage: closed forms, routing, what could not be scored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nftbench.training.algorithms.advantages import RewardValues, combine_advantages
from nftbench.training.algorithms.nft import group_advantages

AABB = ["a", "a", "b", "b"]
NAN = float("nan")
TINY = 1e-4
"""What the spread is raised by before anything is divided by it."""


def reward_values(values, applies=None, weight: float = 1.0, scale: float = 1.0) -> RewardValues:
    values = np.asarray(values, dtype=np.float64)
    applies = np.ones(len(values), bool) if applies is None else np.asarray(applies, bool)
    return RewardValues(values=values, applies=applies, weight=weight, scale=scale)


def test_one_reward_in_closed_form():
    for combine in ("sum", "advantages"):
        one = combine_advantages(
            {"r": reward_values([0, 2, 5, 5])}, AABB, combine=combine, std="batch"
        )
        spread = np.std([0, 2, 5, 5])
        np.testing.assert_allclose(one.advantages, np.array([-1, 1, 0, 0]) / (spread + TINY))
        assert one.total.tolist() == [0, 2, 5, 5]
        assert one.usable.tolist() == [True] * 4
        assert one.spread.tolist() == [True, True, False, False]
        assert one.lost_groups == 0


def test_sum_adds_weighted_rewards_in_their_training_scale():
    rewards = {
        "r": reward_values([0, 1, 0, 1]),
        "s": reward_values([26, 0, 0, 26], weight=0.5, scale=26),
    }
    found = combine_advantages(rewards, AABB, combine="sum", std="group")
    assert found.total.tolist() == [0.5, 1, 0, 1.5]
    expected = [-0.25 / (0.25 + TINY), 0.25 / (0.25 + TINY), -0.75 / (0.75 + TINY)]
    np.testing.assert_allclose(found.advantages[:3], expected)


def test_advantages_are_normalised_each_and_then_averaged():
    rewards = {"r": reward_values([0, 1, 0, 1]), "s": reward_values([100, 0, 0, 100], weight=3)}
    found = combine_advantages(rewards, AABB, combine="advantages", std="group")
    r, s = 0.5 / (0.5 + TINY), 50 / (50 + TINY)
    expected = np.array([-r + 3 * s, r - 3 * s, -r - 3 * s, r + 3 * s]) / 4
    np.testing.assert_allclose(found.advantages, expected)


@pytest.mark.parametrize("combine", ["sum", "advantages"])
def test_a_reward_that_weighs_nothing_moves_nothing_scored_or_not(combine):
    counted = {"r": reward_values([0, 1, 0, 1])}
    alone = combine_advantages(counted, AABB, combine=combine, std="group")
    for values in ([1, 5, 3, 3], [NAN, 5, NAN, NAN]):
        both = counted | {"s": reward_values(values, weight=0)}
        found = combine_advantages(both, AABB, combine=combine, std="group")
        np.testing.assert_array_equal(found.advantages, alone.advantages)
        assert found.total.tolist() == [0, 1, 0, 1] and found.usable.all()


def test_less_of_a_reward_of_negative_scale_is_better():
    rewards = {"r": reward_values([0, 2, 2, 0], scale=-1)}
    for combine in ("sum", "advantages"):
        found = combine_advantages(rewards, AABB, combine=combine, std="batch").advantages
        assert (np.sign(found) == [1, -1, -1, 1]).all()


def test_a_reward_counts_for_its_own_prompts_alone():
    """`a` is judged by r alone, `b` by s alone: each as if the other were not there."""
    a, b = [True, True, False, False], [False, False, True, True]
    rewards = {
        "r": reward_values([0, 1, NAN, NAN], a),
        "s": reward_values([NAN, NAN, 30, 10], b, weight=0.1),
    }
    found = combine_advantages(rewards, AABB, combine="advantages", std="batch")
    expected = [-0.5 / (0.5 + TINY), 0.5 / (0.5 + TINY), 10 / (10 + TINY), -10 / (10 + TINY)]
    np.testing.assert_allclose(found.advantages, expected)
    assert combine_advantages(rewards, AABB, combine="sum", std="batch").total.tolist() == [
        0,
        1,
        3,
        1,
    ]
    assert found.lost_groups == 0


def test_a_reward_of_weight_zero_moves_nothing():
    alone = {"r": reward_values([0, 1, 3, 2])}
    beside = alone | {"s": reward_values([9, 0, 0, 9], weight=0.0)}
    for combine in ("sum", "advantages"):
        one, two = (
            combine_advantages(r, AABB, combine=combine, std="batch") for r in (alone, beside)
        )
        np.testing.assert_allclose(one.advantages, two.advantages)


def test_images_not_scored_are_left_out_not_punished():
    groups = ["a", "a", "a", "b", "b", "b"]
    values = [0, 1, NAN, 4, NAN, NAN]
    for combine in ("sum", "advantages"):
        found = combine_advantages(
            {"r": reward_values(values)}, groups, combine=combine, std="batch"
        )
        assert found.usable.tolist() == [True, True, False, False, False, False]
        np.testing.assert_allclose(
            found.advantages, [-0.5 / (0.5 + TINY), 0.5 / (0.5 + TINY), 0, 0, 0, 0]
        )
        assert np.isnan(found.total).tolist() == [False, False, True, False, True, True]
        assert found.lost_groups == 1


def test_one_missing_reward_of_two_makes_an_image_unusable():
    rewards = {"r": reward_values([0, 1, 2, 4]), "s": reward_values([0, 1, NAN, 4])}
    found = combine_advantages(rewards, AABB, combine="advantages", std="batch")
    assert found.usable.tolist() == [True, True, False, False]
    assert found.lost_groups == 1


def test_nothing_scored():
    found = combine_advantages({"r": reward_values([NAN] * 4)}, AABB, combine="sum", std="batch")
    assert not found.usable.any() and not found.spread.any()
    assert found.advantages.tolist() == [0] * 4 and found.lost_groups == 2


@given(
    values=arrays(np.float64, 12, elements=st.floats(-9, 9) | st.just(NAN)),
    groups=st.lists(st.sampled_from("abcd"), min_size=12, max_size=12),
    std=st.sampled_from(["batch", "group"]),
)
def test_against_a_loop_over_groups(values, groups, std):
    found = combine_advantages({"r": reward_values(values)}, groups, combine="sum", std=std)
    places = {g: [i for i in range(12) if groups[i] == g] for g in set(groups)}
    kept = {g: [i for i in p if not np.isnan(values[i])] for g, p in places.items()}
    kept = {g: p for g, p in kept.items() if len(p) >= 2}
    usable = sorted(i for p in kept.values() for i in p)
    assert np.flatnonzero(found.usable).tolist() == usable
    assert found.lost_groups == len(places) - len(kept)
    for p in kept.values():
        mine = values[p]
        spread = np.std(values[usable] if std == "batch" else mine)
        expected = (mine - mine.mean()) / (spread + TINY) if np.ptp(mine) > 0 else 0 * mine
        np.testing.assert_allclose(found.advantages[p], expected, atol=1e-9)
        assert (found.spread[p] == (expected != 0).any()).all()
    assert (found.advantages[~found.usable] == 0).all()


def test_both_ways_agree_where_there_is_one_reward():
    values = np.random.default_rng(0).normal(size=12)
    groups = list("aaabbbcccddd")
    one, two = (
        combine_advantages({"r": reward_values(values)}, groups, combine=c, std="batch").advantages
        for c in ("sum", "advantages")
    )
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, group_advantages(values, groups))
    assert one.sum() == pytest.approx(0, abs=1e-12)
