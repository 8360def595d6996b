"""Captions that fit a scene, and near misses that do not."""

import numpy as np
import pytest

from nftbench.pocket.world import facts, training_data
from nftbench.pocket.world.scenes import TASK_WEIGHTS, Scene, Thing


def thing(shape, color, x, y):
    return Thing(shape, color, x, y, 16.0, 0.0)


def test_captions_of_one_thing():
    captions = facts.true_captions(Scene("", "", (thing("star", "orange", 32, 32),)))
    assert captions == {
        "single_object": {"a photo of a star"},
        "colors": {"a photo of an orange star"},
    }


def test_captions_of_two_things():
    pair = (thing("star", "red", 12, 32), thing("ring", "blue", 50, 34))
    captions = facts.true_captions(Scene("", "", pair))
    assert captions["position"] == {
        "a photo of a star left of a ring",
        "a photo of a ring right of a star",
    }
    assert "a photo of a blue ring and a red star" in captions["color_attr"]
    assert "a photo of a red ring and a blue star" not in captions["color_attr"]
    assert captions["two_object"] == {
        "a photo of a star and a ring",
        "a photo of a ring and a star",
    }


def test_things_apart_on_a_slant_have_no_relation():
    pair = (thing("star", "red", 12, 12), thing("ring", "blue", 50, 50))
    assert facts.true_captions(Scene("", "", pair))["position"] == set()


def test_captions_of_equal_things():
    three = tuple(thing("cross", "red", 12 + 20 * i, 32) for i in range(3))
    assert facts.true_captions(Scene("", "", three)) == {"counting": {"a photo of three crosses"}}


@pytest.mark.parametrize("tag", TASK_WEIGHTS)
def test_a_near_miss_is_of_the_same_task_and_wrong(tag):
    rng = np.random.default_rng(0)
    for _ in range(40):
        scene = training_data.any_scene(rng, tag)
        missed = facts.near_miss(rng, scene)
        assert scene.caption in facts.all_true(scene)
        assert missed.caption not in facts.all_true(scene)
        assert missed.caption in facts.true_captions(missed)[tag]


def test_captions_of_crops():
    rng = np.random.default_rng(0)
    for _ in range(40):
        one = thing("heart", "pink", 32, 32)
        told, wrong = facts.crop_captions(rng, one)
        assert "pink" in told and wrong not in facts.of_crop(one)


def test_targets_ask_for_what_was_drawn():
    pair = (thing("star", "red", 12, 32), thing("ring", "blue", 50, 34))
    asked = training_data.target(Scene("position", "a photo of a star left of a ring", pair))
    assert asked == {
        "include": [
            {"class": "ring", "count": 1},
            {"class": "star", "count": 1, "position": ["left of", 0]},
        ]
    }
    asked = training_data.target(Scene("counting", "", (pair[0], pair[0])))
    assert asked["exclude"] == [{"class": "star", "count": 3}]
