"""Where a curve crosses a threshold, by hand; the protocol that is shipped can be begun."""

import tomllib

import pytest

from tests.performance.head_to_head import PROTOCOL, compare, crossing, ratios, recipe_of


def points(*scores: float) -> list[dict[str, float]]:
    return [
        {"images": 100.0 * i, "cpu_seconds": 2.0 * i, "network_calls": 10.0 * i, "score": score}
        for i, score in enumerate(scores)
    ]


def test_a_crossing_is_that_of_the_mean_of_three():
    found = crossing(points(0.3, 0.3, 0.3, 0.6, 0.6, 0.6), 0.55)  # means .3 .4 .5 .6
    assert found["images"] == pytest.approx(450) and found["cpu_seconds"] == pytest.approx(9)
    assert crossing(points(0.3, 0.9, 0.3, 0.3), 0.55) is None  # one high validation is none
    assert crossing(points(0.6, 0.6, 0.6), 0.55)["images"] == 200  # not known any earlier
    assert crossing(points(0.9, 0.9), 0.55) is None


def test_runs_that_do_not_cross_give_no_ratio():
    cost = dict.fromkeys(("images", "cpu_seconds", "network_calls"), 2.0)
    twice = {k: 2 * v for k, v in cost.items()}
    found = {"a": {"confirmed": {1: {"0.5": cost}, 2: {"0.5": twice}}}}
    found |= {"b": {"confirmed": {1: {"0.5": twice}, 2: {"0.5": None}}}}
    assert ratios(found, [0.5])[0].startswith("0.5: images b / a = 1.33 (1.00 to 2.00); a 2 of 2")
    found["b"]["confirmed"][1]["0.5"] = None
    assert ratios(found, [0.5]) == ["0.5: a 2 of 2 crossed, b 0 of 2 crossed: no ratio"]


def test_the_shipped_protocol_gives_both_sides_as_many_settings_that_load():
    file = tomllib.loads(PROTOCOL.read_text("utf-8"))
    sides, protocol = file["sides"], file["protocol"]
    assert {len(side["settings"]) for side in sides.values()} == {6}
    for side in sides.values():
        recipes = [recipe_of(side, s, protocol, 7200) for s in side["settings"]]
        for recipe in recipes:
            (stage,) = recipe.stages
            assert stage.iterations * stage.groups * stage.group_size == 7200
            assert recipe.policy == recipes[0].policy and stage.lr is None


def test_a_search_of_no_settings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="as many settings a side, at least one"):
        compare({}, {"a": {"settings": []}, "b": {"settings": []}}, tmp_path)
