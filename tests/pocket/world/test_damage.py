"""Damage to scenes: kept within bounds, named by a seed, as strong as asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nftbench.pocket.world import damage, training_data
from nftbench.pocket.world.drawing import thing_alpha
from nftbench.pocket.world.scenes import SHAPES, Scene, Thing


def scene(count=4):
    rng = np.random.default_rng(1)
    return [training_data.any_scene(rng, "two_object") for _ in range(count)]


def images(count=14):
    return training_data.to_tensor([damage.picture(s) for s in scene(count)])


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_tight(shape):
    alpha = thing_alpha(Thing(shape, "red", 30.0, 34.0, 24.0, 0.0))
    x1, y1, x2, y2 = map(int, damage.tight_box(alpha))
    assert alpha[y1:y2, x1:x2].sum() > 0.95 * alpha.sum()
    assert (alpha[y1:y2, x1:x2] > 0.5).sum() == (alpha > 0.5).sum()
    assert (alpha[y1, x1:x2] > 0.5).any() and (alpha[y1:y2, x2 - 1] > 0.5).any()


def test_nothing_spoilt_is_the_scene_with_its_boxes():
    rng = np.random.default_rng(0)
    for each in scene():
        whole, kept = damage.picture(each), damage.spoil(rng, each, share=0.0)
        assert kept.boxes == whole.boxes and kept.shapes == whole.shapes
        assert np.abs(kept.pixels.astype(int) - whole.pixels).max() <= 19  # tints are drawn anew


def test_what_is_spoilt_is_not_told():
    rng = np.random.default_rng(0)
    assert damage.spoil(rng, scene()[0], share=1.0).shapes == ()


@pytest.mark.parametrize("kind", damage.SPOILERS)
def test_spoilt_shapes_differ_from_their_own(kind):
    rng = np.random.default_rng(2)
    things = [t for s in scene(10) for t in s.things]
    for each in things:
        alpha = thing_alpha(each)
        spoilt = kind(rng, each, alpha)
        assert spoilt.min() >= 0 and spoilt.max() <= 1
        assert np.abs(spoilt - alpha).sum() > 0.1 * alpha.sum()


@pytest.mark.parametrize("change", [damage.soften, damage.ruin])
def test_a_generator_names_the_damage(change):
    clean = images()
    first, again = (change(clean, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, clean)
    assert first.shape == clean.shape and first.min() >= 0 and first.max() <= 1


def test_blur_keeps_flat_pictures_and_the_mean():
    flat = torch.full((2, 3, 64, 64), 0.3)
    torch.testing.assert_close(damage.blur(flat, torch.tensor([0.5, 4.0])), flat)
    dot = torch.zeros(1, 1, 64, 64)
    dot[..., 32, 32] = 1
    spread = damage.blur(dot, torch.tensor([2.0]))
    assert spread.sum() == pytest.approx(1, abs=1e-4)
    assert spread[0, 0, 32, 32] == pytest.approx(1 / (2 * np.pi * 4), rel=0.03)


def test_degradation_grows_with_its_strength():
    clean = images(20)
    off = [
        (damage.degrade(clean, torch.full((20,), s), torch.Generator().manual_seed(1)) - clean)
        .abs()
        .mean((1, 2, 3))
        for s in (0.0, 0.3, 0.9)
    ]
    assert off[0].max() < 0.002
    assert (off[2] > off[1]).float().mean() > 0.9 and (off[1] > off[0]).all()


def test_a_scene_of_words_has_no_boxes():
    sign = replace(Scene("sign", "", words=("ABC",)), style=3)
    assert damage.picture(sign).boxes == ()
