"""The pocket world's scenes: what the caption says is what is drawn, and where it is told."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nftbench.pocket.world.drawing import render, thing_alpha
from nftbench.pocket.world.scenes import (
    COLORS,
    NUMBERS,
    RELATIONS,
    SHAPES,
    SIZE,
    TASK_WEIGHTS,
    Scene,
    Thing,
    article,
    held_out,
    plural,
    random_scene,
    sign_caption,
    words,
)

SHAPE, COLOR = "|".join(SHAPES), "|".join(COLORS)
ONE = rf"an? (?P<a>{SHAPE})"
CAPTIONS = {
    "single_object": rf"a photo of {ONE}",
    "two_object": rf"a photo of {ONE} and an? (?P<b>{SHAPE})",
    "counting": rf"a photo of (?P<n>two|three|four) (?P<a>{SHAPE})e?s",
    "colors": rf"a photo of an? (?P<c>{COLOR}) (?P<a>{SHAPE})",
    "position": rf"a photo of {ONE} (?P<r>left of|right of|above|below) an? (?P<b>{SHAPE})",
    "color_attr": rf"a photo of an? (?P<c>{COLOR}) (?P<a>{SHAPE}) and an? (?P<d>{COLOR}) (?P<b>{SHAPE})",
    "sign": r'a sign that says "(?P<w>[A-Z]{3,6}( [A-Z]{3,5})?)"',
}
"""GenEval's phrasing, task by task."""


def drawn(tag: str, count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng, tag) for _ in range(count)]


def centroid(alpha: np.ndarray) -> np.ndarray:
    """(x, y) of a coverage map; the middle of pixel 0 lies at 0.5."""
    ys, xs = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.array([(alpha * xs).sum(), (alpha * ys).sum()]) / alpha.sum()


# --- pixels ---------------------------------------------------------------------------------------

MIDDLE = {"triangle": 0.15, "heart": 0.15, "moon": 0.35}
"""How far, in sizes, the centroid of a lopsided shape may lie from its centre."""
AREA = {
    "circle": np.pi * 1.05**2,
    "square": (2 * 0.86) ** 2,
    "triangle": 2 * 1.82 / 2,
    "cross": 20 / 9,
    "ring": np.pi * (1.05**2 - 0.58**2),
}
"""Area in units of (size / 2)^2, where geometry gives it in one line."""


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25)
@given(x=st.floats(22, 42), y=st.floats(22, 42), size=st.floats(13, 38), angle=st.floats(-10, 10))
def test_a_thing_is_where_it_is_told(shape, x, y, size, angle):
    alpha = thing_alpha(Thing(shape, "red", x, y, size, angle))
    assert alpha.shape == (SIZE, SIZE) and alpha.min() == 0 and 0.99 < alpha.max() <= 1
    off = np.hypot(*(centroid(alpha) - (x, y)))
    assert off < 0.6 + size * MIDDLE.get(shape, 0.0)
    for covered, centre in ((alpha.max(axis=0), x), (alpha.max(axis=1), y)):
        cells = np.flatnonzero(covered > 0.5)
        # a pixel for the tips of a moon, which cover less than half of theirs
        assert 0.75 * size - 1 < cells[-1] + 1 - cells[0] < 1.3 * size + 2
        assert cells[0] <= centre <= cells[-1] + 1


@pytest.mark.parametrize("shape", sorted(AREA))
def test_area_is_that_of_the_shape(shape):
    for size in (16.0, 24.0, 40.0):
        alpha = thing_alpha(Thing(shape, "red", 32.0, 32.0, size, 7.0))
        assert alpha.sum() == pytest.approx(AREA[shape] * (size / 2) ** 2, rel=0.12)


def test_moving_by_a_pixel_moves_every_pixel():
    one, other = (thing_alpha(Thing("star", "red", x, 30.0, 20.0, 3.0)) for x in (30.0, 31.0))
    np.testing.assert_array_equal(np.roll(one, 1, axis=1), other)


def test_shapes_can_be_told_apart():
    maps = [thing_alpha(Thing(s, "red", 32.0, 32.0, 30.0, 0.0)) for s in SHAPES]
    for i, a in enumerate(maps):
        for b in maps[:i]:
            assert np.abs(a - b).sum() > 0.15 * max(a.sum(), b.sum())


def test_edges_are_smooth():
    alpha = thing_alpha(Thing("circle", "red", 32.0, 32.0, 30.0, 0.0))
    assert 0.05 < ((alpha > 0) & (alpha < 1)).sum() / (alpha > 0).sum() < 0.4


@pytest.mark.parametrize("color", COLORS)
def test_a_things_colour_is_near_the_nominal_one(color):
    thing = Thing("circle", color, 32.0, 32.0, 30.0, 0.0)
    for style in range(20):
        pixels = render(Scene("colors", "", (thing,), style=style))
        inside = pixels[thing_alpha(thing) == 1].astype(int)
        assert np.abs(inside - COLORS[color]).max() <= 10


def test_a_scene_is_a_light_ground_and_its_things():
    for scene in drawn("color_attr", 40):
        pixels, bare = render(scene), render(Scene("", "", style=scene.style))
        cover = np.max([thing_alpha(t) for t in scene.things], axis=0)
        np.testing.assert_array_equal(pixels[cover == 0], bare[cover == 0])
        assert bare.min() > 170 and pixels.dtype == np.uint8 and pixels.shape == (SIZE, SIZE, 3)
        for thing in scene.things:
            inside = pixels[thing_alpha(thing) == 1].astype(int)
            assert np.abs(inside - COLORS[thing.color]).max() <= 10


def test_a_sign_is_written_in_dark_on_light_or_the_other_way_round():
    for scene in drawn("sign", 40):
        pixels = render(scene).astype(int)
        middle = pixels[16:48].sum(axis=2)
        assert np.ptp(middle) > 250
        other = Scene("sign", "", words=("QQQ",), style=scene.style)
        assert (render(other) != render(scene)).any()


# --- captions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", TASK_WEIGHTS)
def test_captions_say_what_is_drawn_in_genevals_words(tag):
    for scene in drawn(tag, 150):
        told = re.fullmatch(CAPTIONS[tag], scene.caption)
        assert told and scene.tag == tag, scene.caption
        said, things = told.groupdict(), scene.things
        if tag == "sign":
            assert " ".join(scene.words) == said["w"] and not things
            continue
        count = {v: k for k, v in NUMBERS.items()}.get(said.get("n"), 2 if "b" in said else 1)
        assert len(things) == count and not scene.words
        assert [t.shape for t in things] == [said["a"], said.get("b", said["a"])][:count] + [
            said["a"]
        ] * (count - 2)
        colors = [said[k] for k in "cd" if k in said]
        assert colors == [t.color for t in things][: len(colors)]


@pytest.mark.parametrize("tag", sorted(set(TASK_WEIGHTS) - {"single_object"}))
def test_training_never_meets_a_held_out_caption(tag):
    scenes = drawn(tag, 250, seed=1)
    assert not [s.caption for s in scenes if held_out(s.caption)]
    assert not [w for s in scenes for w in s.words if held_out(sign_caption((w,)))]


def test_tasks_are_drawn_by_their_weights():
    rng = np.random.default_rng(0)
    tags = [random_scene(rng).tag for _ in range(600)]
    for tag, weight in TASK_WEIGHTS.items():
        assert tags.count(tag) / 600 == pytest.approx(weight, abs=0.06)
    assert sum(TASK_WEIGHTS.values()) == pytest.approx(1)


@given(st.permutations(["a", "photo", "of", "a", "red", "star", "and", "a", "blue", "ring"]))
def test_the_same_words_in_another_order_are_held_out_together(order):
    assert held_out(" ".join(order)) == held_out("a photo of a red star and a blue ring")


def test_about_one_caption_in_three_is_held_out():
    captions = [f"a photo of {article(c)} {s}" for c in COLORS for s in SHAPES]
    captions += [sign_caption((w,)) for w in words()]
    assert 0.28 < np.mean([held_out(c) for c in captions]) < 0.40


def test_grammar():
    assert [article(w) for w in ("orange", "red")] == ["an orange", "a red"]
    assert [plural(w) for w in ("cross", "star")] == ["crosses", "stars"]
    assert sign_caption(("PIANO", "TOWER")) == 'a sign that says "PIANO TOWER"'
    assert all(w.isascii() and w.isupper() and 3 <= len(w) <= 6 for w in words())


# --- geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", sorted(set(TASK_WEIGHTS) - {"sign"}))
def test_things_lie_inside_and_do_not_touch(tag):
    for scene in drawn(tag, 40):
        cover = [thing_alpha(t) > 0.02 for t in scene.things]
        assert np.sum(cover, axis=0).max() == 1, scene
        for covered in cover:
            assert not covered[[0, -1]].any() and not covered[:, [0, -1]].any(), scene


def test_the_relation_told_holds_and_no_other():
    met = set()
    for scene in drawn("position", 60):
        a, b = (centroid(thing_alpha(t)) for t in scene.things)
        (told,) = [r for r in RELATIONS if f" {r} " in scene.caption]
        (dx, dy), size = a - b, max(t.size for t in scene.things)
        along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
        assert max(along, key=along.get) == told and along[told] > 0.5 * size, scene
        met.add(told)
    assert met == set(RELATIONS)


# --- determinism ----------------------------------------------------------------------------------


def test_a_number_names_a_scene_for_ever():
    one, other = (random_scene(np.random.default_rng(7)) for _ in range(2))
    assert one == other and one.style == other.style
    np.testing.assert_array_equal(render(one), render(other))
    assert random_scene(np.random.default_rng(8)) != one


def test_drawing_does_not_touch_numpys_global_chance():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    render(random_scene(np.random.default_rng(7), "sign"))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
