"""The shipped rewards of the pocket world: whole, registered, right about scenes they never saw."""

import json
from hashlib import sha256

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nftbench.pocket import rewards
from nftbench.pocket.world import damage, training_data
from nftbench.pocket.world.scenes import COLORS, SHAPES
from rewards import load_reward
from rewards.base import ConfigError, MissingWeights, Prompt, Reward
from tests.helpers import pocket_evaluation

KEYS = (
    "geneval@pocket",
    "geneval@pocket-nft",
    "geneval@pocket-strict",
    "clipscore@pocket",
    "pickscore@pocket",
)
SEED = pocket_evaluation.SEED + 1000


@pytest.fixture(scope="module")
def drawn():
    """One scene of each of GenEval's tasks, its picture and its prompt."""
    rng = np.random.default_rng(SEED)
    scenes = [training_data.any_scene(rng, tag) for tag in pocket_evaluation.TASKS]
    return np.stack([damage.picture(s).pixels for s in scenes]), pocket_evaluation.prompts(scenes)


def test_every_shipped_file_is_in_the_manifest():
    manifest = json.loads((rewards.WEIGHTS / "manifest.json").read_text("utf-8"))
    files = {p for p in rewards.WEIGHTS.rglob("*") if p.is_file()} - {
        rewards.WEIGHTS / "manifest.json"
    }
    digests = {
        p.relative_to(rewards.WEIGHTS).as_posix(): sha256(p.read_bytes()).hexdigest() for p in files
    }
    assert digests == manifest
    assert sum(p.stat().st_size for p in files) < 5e6


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("detector/detector.safetensors", 0.8e6),
        ("clip/model.safetensors", 1.2e6),
        ("pickscore/model.safetensors", 1.2e6),
    ],
)
def test_models_are_small(name, most):
    tensors = load_file(rewards.WEIGHTS / name).values()
    assert 0.2e6 < sum(t.numel() for t in tensors) < most


@pytest.mark.parametrize("key", KEYS)
def test_a_value_depends_on_its_image_alone(key, drawn):
    reward = load_reward(key)
    assert isinstance(reward, Reward) and reward.info.key == key
    assert all("sha256:" in w for w in reward.info.weights) and reward.info.weights
    images, prompts = drawn
    before = images.copy()
    batched = reward.score(images, prompts).values
    alone = [
        reward.score(images[i : i + 1], prompts[i : i + 1]).values[0] for i in range(len(images))
    ]
    np.testing.assert_allclose(batched, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(images, before)
    assert ((reward.info.low <= batched) & (batched <= reward.info.high)).all()


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "detector.safetensors").write_bytes(b"other")
    manifest = {"detector/detector.safetensors": "0" * 64}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.setattr(rewards, "WEIGHTS", tmp_path)
    with pytest.raises(ConfigError, match="sha256"):
        rewards.load_detector()
    with pytest.raises(MissingWeights, match="nftbench pocket build"):
        rewards.load_color_head()


def test_boxes_are_pixels_of_the_image_given():
    rng = np.random.default_rng(SEED)
    picture = damage.picture(training_data.any_scene(rng, "single_object"))
    detector, large = rewards.load_detector(), picture.pixels.repeat(2, 0).repeat(2, 1)
    for pixels, factor in ((picture.pixels, 1), (large, 2)):
        (found,) = detector.detect(pixels[None])
        (box,) = found.boxes[picture.shapes[0]]
        np.testing.assert_allclose(box[:4], np.array(picture.boxes[0]) * factor, atol=2.5 * factor)
        assert box[4] > 0.9


def test_an_empty_picture_holds_nothing():
    (found,) = rewards.load_detector().detect(np.full((1, 64, 64, 3), 240, np.uint8))
    assert found.boxes == {}


@pytest.mark.slow
def test_the_detector_finds_what_is_there_and_nothing_else():
    figures = pocket_evaluation.detector(60, SEED)
    assert min(v for k, v in figures.items() if k.startswith("clean")) >= 0.985, figures
    assert min(figures.values()) >= 0.96, figures


@pytest.mark.slow
def test_mush_is_no_object():
    figures = pocket_evaluation.mush(100, SEED)
    assert figures["all"] <= 0.05, figures
    assert max(figures.values()) <= 0.25, figures


@pytest.mark.slow
def test_colours_of_crops_are_named_right():
    figures = pocket_evaluation.colors(40, SEED)
    assert figures["all"] >= 0.98, figures


@pytest.mark.slow
def test_true_scenes_are_judged_correct():
    figures = pocket_evaluation.ceiling(80, SEED)
    assert min(figures.values()) >= 0.97, figures


@pytest.mark.slow
def test_clipscore_prefers_the_caption_that_fits_and_the_clean_picture():
    figures = pocket_evaluation.captions(60, SEED)
    assert figures["all"] >= 0.85, figures
    assert (
        min(figures[tag] for tag in ("single_object", "two_object", "counting", "colors")) >= 0.95
    )
    assert pocket_evaluation.clip_damage(150, SEED)["clean above damaged"] >= 0.97


@pytest.mark.slow
def test_pickscore_prefers_the_better_picture():
    figures = pocket_evaluation.preferences(100, SEED)
    assert figures["damaged"] >= 0.97 and figures["stronger"] >= 0.93, figures
    assert figures["mismatching"] >= 0.8, figures


def test_partial_reward_tells_near_from_far(drawn):
    """The reward of a clean scene is 1; asked for other things the same picture gets less."""
    images, prompts = drawn
    reward = load_reward("geneval@pocket-nft")
    np.testing.assert_array_equal(reward.score(images, prompts).values, 1.0)
    other = Prompt(id="x", text="", target={"include": [{"class": "circle", "count": 3}]})
    assert (reward.score(images, [other] * len(images)).values < 1).all()


def test_strict_rule_refuses_what_is_too_much(drawn):
    """Asked for one of what a clean scene holds several of: right by the official rule, wrong by the strict one."""
    images, prompts = drawn
    several = [i for i, p in enumerate(prompts) if p.target["include"][0]["count"] > 1]
    single = [_one_of(prompts[i]) for i in several]
    assert several
    official = load_reward("geneval@pocket").score(images[several], single)
    strict = load_reward("geneval@pocket-strict").score(images[several], single)
    np.testing.assert_array_equal(official.values, 1.0)
    np.testing.assert_array_equal(strict.values, 0.0)


def _one_of(prompt: Prompt) -> Prompt:
    only = {"class": prompt.target["include"][0]["class"], "count": 1}
    return Prompt(id=prompt.id, text="", target={"include": [only]})


def test_training_is_deterministic_per_step():
    first, again, next_one = (training_data.clip_batch(s, 8, 4, 6) for s in (3, 3, 4))
    assert torch.equal(first.images, again.images) and torch.equal(first.damaged, again.damaged)
    assert first.captions == again.captions and first.captions != next_one.captions


def test_colour_captions_fit_the_world():
    assert set(rewards.load_color_head().colors) >= set(COLORS)
    assert tuple(rewards.load_detector().classes) == SHAPES
