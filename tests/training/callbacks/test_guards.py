"""Guards: silent, warning and stopping where the numbers say so, once, and the same after a restart."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftbench.stats.estimates import Estimate
from nftbench.training.callbacks.guards import SPAN, Finding, Guards, picture_statistics
from nftbench.training.config.recipe import GuardConfig, Threshold

LIMITS = Threshold(warn=0.1, stop=0.25)
CONFIG = GuardConfig(
    x_0_norm=LIMITS,
    velocity_ratio=LIMITS,
    brightness=LIMITS,
    saturation=LIMITS,
    zero_spread=Threshold(warn=0.5, stop=0.9),
    kl=Threshold(warn=0.5, stop=5),
    held_out=Threshold(warn=2, stop=4),
    idle=Threshold(warn=4, stop=8),
)


def looks(name: str, *values: float, config: GuardConfig = CONFIG) -> list[Finding | None]:
    """What is said of one metric, iteration by iteration."""
    guards = Guards(config)
    found = [guards.check({name: value}) for value in values]
    assert all(len(f) <= 1 for f in found)
    return [f[0] if f else None for f in found]


def levels(name: str, *values: float, **more) -> str:
    """The same as one letter an iteration."""
    return "".join(f.level[0] if f else "." for f in looks(name, *values, **more))


def worst(name: str, *values: float) -> str:
    return max(levels(name, *values), key=".ws".index)


def change(value: float, stderr: float = 0.1) -> Estimate:
    low, high = value - 2 * stderr, value + 2 * stderr
    return Estimate(value=value, stderr=stderr, low=low, high=high, n=10, n_failed=0, n_prompts=10)


# --- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steady", "warned", "stopped"),
    [
        ("x_0_norm", 0.8, 0.8 * 1.2, 0.8 * 1.3),
        ("x_0_norm", 0.8, 0.8 * 0.8, 0.8 * 0.7),
        ("velocity_ratio", 1.0, 1.2, 1.3),
        ("velocity_ratio", 1.05, 0.85, 0.7),
        ("brightness", 0.5, 0.62, 0.76),
        ("brightness", 0.5, 0.38, 0.24),
        ("saturation", 0.3, 0.42, 0.6),
        ("zero_spread", 0.4, 0.6, 0.95),
        ("kl", 0.01, 1.0, 6.0),
    ],
)
def test_each_guard_is_silent_warns_and_stops(name, steady, warned, stopped):
    assert worst(name, *[steady] * 6) == "."
    assert worst(name, *[steady] * 3, *[warned] * 3) == "w"
    assert worst(name, *[steady] * 3, *[stopped] * 3) == "s"


@pytest.mark.parametrize(("value", "level"), [(0.59, "."), (0.61, "w"), (0.74, "w"), (0.76, "s")])
def test_limits_of_a_change(value, level):
    assert worst("brightness", *[0.5] * 3, *[value] * 3) == level
    assert worst("brightness", *[0.5] * 3, *[1 - value] * 3) == level


def test_one_odd_iteration_is_not_enough():
    assert levels("brightness", 0.5, 0.5, 0.5, 0.75, 0.5, 0.5, 0.5) == "......."
    assert levels("zero_spread", 0, 0, 0, 1, 0, 0) == "......"


def test_nothing_is_said_before_there_is_a_mean():
    assert levels("zero_spread", 1, 1, 1, 1) == "..ss"
    assert levels("kl", 9, 9, 9) == "..s"


def test_the_start_is_the_mean_of_the_first_iterations():
    """0.4, 0.5, 0.6 make 0.5; from there 0.59 is no finding and 0.61 is one."""
    assert levels("brightness", 0.6, 0.5, 0.4, 0.59, 0.59, 0.59) == "......"
    assert levels("brightness", 0.6, 0.5, 0.4, 0.61, 0.61, 0.61) == ".....w"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_stops_at_once(value):
    (found,) = looks("kl", value)
    assert found == Finding("kl", "stop", f"kl: expected a finite number, got {value}")


def test_a_guard_without_limits_is_silent():
    off = GuardConfig(brightness=Threshold(), kl=Threshold(stop=5))
    assert levels("brightness", 0, 0, 0, 1, 1, 1, config=off) == "......"
    assert levels("kl", 1, 1, 1, 9, 9, 9, config=off) == "....ss"  # means 1, 3.7, 6.3, 9


def test_absent_and_unknown_numbers_are_passed_over():
    assert Guards(CONFIG).check({}) == [] == Guards(CONFIG).check({"reward": float("nan")})


def test_several_guards_speak_at_once():
    guards = Guards(CONFIG)
    for _ in range(3):
        guards.check({"kl": 0, "brightness": 0.5})
    found = [guards.check({"kl": 9, "brightness": 0.9}) for _ in range(3)][-1]
    assert {(f.guard, f.level) for f in found} == {("kl", "stop"), ("brightness", "stop")}


@given(st.lists(st.floats(0.46, 0.54), min_size=1, max_size=30))
def test_a_run_that_stays_where_it_began_is_never_warned(values):
    assert set(levels("brightness", *values)) == {"."}


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        (
            "brightness",
            [0.5] * 3 + [0.89, 0.5, 0.5],
            "brightness: images are 0.13 brighter than at the start (warn at 0.1, stop at 0.25): policies trained on "
            "a reward alone often drift so; look at grids/",
        ),
        ("brightness", [0.5] * 3 + [0.11, 0.5, 0.5], "images are 0.13 darker than at the start"),
        ("saturation", [0.5] * 3 + [0.11, 0.5, 0.5], "images are 0.13 less saturated than"),
        ("saturation", [0.5] * 3 + [0.89, 0.5, 0.5], "images are 0.13 more saturated than"),
        ("x_0_norm", [2] * 3 + [3.2, 2, 2], "clean latents are 20% larger than at the start"),
        ("velocity_ratio", [0.8] * 3, "velocities are 20% smaller than the reference policy's"),
        ("zero_spread", [0.75] * 3, "in 75% of groups all images got one reward"),
        (
            "kl",
            [0.6] * 3,
            "kl: the policy is 0.6 away from the reference policy (warn at 0.5, stop",
        ),
    ],
)
def test_findings_say_what_was_seen(name, values, said):
    (found,) = [f for f in looks(name, *values) if f][:1]
    assert said in found.text and found.text.startswith(f"{name}: ") and found.guard == name


def test_only_limits_that_there_are_are_named():
    (found,) = looks("kl", 1, 1, 1, config=GuardConfig(kl=Threshold(warn=0.5)))[2:]
    assert "(warn at 0.5):" in found.text and "stop" not in found.text


# --- repetition -----------------------------------------------------------------------------------


def test_a_warning_comes_again_when_it_has_grown_by_half():
    """Means of three: 0.6, then ever 0.6, then 0.7, 0.8, 0.9; 0.9 is half more than 0.6."""
    assert levels("kl", *[0.6] * 5, 0.9, 0.9, 0.9) == "..w....w"


def test_a_warning_comes_again_when_it_had_cleared():
    assert levels("kl", *[0.6] * 4, 0.1, 0.6, 0.6, 0.6) == "..w....w"


def test_a_stop_comes_every_time():
    assert levels("kl", *[6] * 5) == "..sss"


def test_a_warning_that_becomes_a_stop_is_said():
    assert (
        levels("zero_spread", 0.7, 0.7, 0.7, 0.99, 0.99, 0.99) == "..w..s"
    )  # grown by less than half


# --- idle -----------------------------------------------------------------------------------------


def test_idle_counts_iterations_in_a_row():
    assert levels("old_deviation", 0, 0, 0, 0, 0, 0, 0, 0) == "...w.w.s"  # at 4, at 6 = 1.5 x 4
    assert levels("old_deviation", 0, 0, 0, 1e-12, 0, 0, 0, 0) == ".......w"
    assert levels("old_deviation", *[0.1] * 20) == "." * 20


def test_idle_says_how_long():
    found = looks("old_deviation", 0, 0, 0, 0)[-1]
    assert found.guard == "idle" and "in every update of 4 iterations (warn at 4" in found.text


# --- held out -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "fell", "level"),
    [
        (0.3, -0.1, []),  # one standard error
        (0.3, -0.25, ["warn"]),
        (0.3, -0.45, ["stop"]),
        (0.3, 0.45, []),
        (-0.1, -0.45, []),  # all fell: not what this guard is for
        (0.0, -0.45, []),
        (float("nan"), -0.45, []),
    ],
)
def test_a_reward_that_falls_while_the_trained_one_rises(trained, fell, level):
    found = Guards(CONFIG).held_out({"ocr": change(trained)}, {"pickscore": change(fell)})
    assert [f.level for f in found] == level


def test_held_out_says_which_and_how_much():
    watched = {"clipscore": change(0.2), "pickscore": change(-0.25)}
    (found,) = Guards(CONFIG).held_out({"ocr": change(0.3)}, watched)
    assert found.text.startswith(
        "held_out: pickscore got worse by 0.25, 2.5 standard errors, while the trained ocr got better by 0.3 (warn "
    )


@pytest.mark.parametrize("falling", ["geneval", "ocr"])
def test_of_several_trained_rewards_any_may_rise_and_each_is_watched(falling):
    """Whichever is named first."""
    moved = {"geneval": change(0.3), "ocr": change(0.3)} | {falling: change(-0.25)}
    rising = {"geneval": "ocr", "ocr": "geneval"}[falling]
    found = Guards(CONFIG).held_out(moved, {"pickscore": change(-0.25)})
    assert [f.text.split()[1] for f in found] == [falling, "pickscore"]
    assert all(f"while the trained {rising} got better by 0.3 (warn " in f.text for f in found)


def test_each_watched_reward_is_said_once():
    guards = Guards(CONFIG)
    first = guards.held_out({"ocr": change(0.3)}, {"a": change(-0.25), "b": change(-0.1)})
    again = guards.held_out({"ocr": change(0.3)}, {"a": change(-0.26), "b": change(-0.3)})
    assert [f.text.split()[1] for f in first + again] == ["a", "b"]


@pytest.mark.parametrize(("stderr", "level"), [(0.0, ["stop"]), (float("nan"), [])])
def test_no_standard_error(stderr, level):
    """Zero: every prompt fell alike. NaN: too few prompts to know."""
    guards = Guards(CONFIG)
    found = guards.held_out({"ocr": change(0.3)}, {"a": change(-0.1, stderr)})
    assert [f.level for f in found] == level
    json.dumps(guards.state(), allow_nan=False)


# --- state ----------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 8), st.sampled_from([0.0, 0.1])), max_size=20),
    st.integers(0, 20),
)
def test_a_run_cut_in_two_says_what_one_run_says(numbers, cut):
    measured = [dict(zip(("brightness", "kl", "old_deviation"), n, strict=True)) for n in numbers]
    whole, first, second = (Guards(CONFIG) for _ in range(3))
    expected = [whole.check(m) for m in measured]
    said = [first.check(m) for m in measured[:cut]]
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    said += [second.check(m) for m in measured[cut:]]
    assert said == expected and second.state() == whole.state()


def test_the_state_is_a_copy():
    guards = Guards(CONFIG)
    guards.check({"kl": 1.0})
    state = guards.state()
    guards.check({"kl": 2.0})
    assert state["last"] == {"kl": [1.0]} and guards.state()["first"] == {"kl": [1.0, 2.0]}


def test_a_restart_takes_another_start():
    guards = Guards(CONFIG)
    for _ in range(SPAN):
        guards.check({"brightness": 0.2})
    guards.restart()
    assert guards.state() == Guards(CONFIG).state()
    assert [guards.check({"brightness": 0.9}) for _ in range(2 * SPAN)] == [[]] * 2 * SPAN


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("color", "brightness", "saturation"),
    [
        ((0, 0, 0), 0, 0),
        ((255, 255, 255), 1, 0),
        ((255, 0, 0), 1 / 3, 1),
        ((51, 102, 204), 119 / 255, 0.6),
        ((200, 10, 100), 310 / 765, 190 / 255),
    ],
)
def test_statistics_of_one_color(color, brightness, saturation):
    images = np.full((2, 3, 5, 3), color, dtype=np.uint8)
    expected = {"brightness": brightness, "saturation": saturation}
    assert picture_statistics(images) == pytest.approx(expected, abs=1e-12)


def test_statistics_against_a_slow_oracle():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    pixels = [[int(c) for c in p] for p in images.reshape(-1, 3)]
    bright = sum(sum(p) for p in pixels) / (3 * 255 * len(pixels))
    colourful = sum(max(p) - min(p) for p in pixels) / (255 * len(pixels))
    expected = {"brightness": bright, "saturation": colourful}
    assert picture_statistics(images) == pytest.approx(expected, abs=1e-12)
