"""The door of every reward: pictures of any kind by one rule, one prompt an image, values in the stated range."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import rewards
from rewards import ConfigError, Prompt, RewardInfo, Scores, load_reward
from rewards.checked import checked
from rewards.images.pixels import as_pictures

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 24, 40, 3), dtype=np.uint8)


def opaque(pixels):
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        PIXELS / np.float32(255),
        PIXELS / 255,
        opaque(PIXELS),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255,
        [torch.from_numpy(p).permute(2, 0, 1) for p in PIXELS],
        list(PIXELS),
        [Image.fromarray(p) for p in PIXELS],
        [Image.fromarray(opaque(p)) for p in PIXELS],
        np.asfortranarray(PIXELS),
    ],
    ids=[
        "uint8",
        "float32",
        "float64",
        "rgba",
        "tensor",
        "float-tensor",
        "tensors",
        "arrays",
        "pil",
        "rgba-pil",
        "fortran",
    ],
)
def test_the_same_pixels_in_any_form_score_the_same(given):
    reward = load_reward("jpeg")
    wanted = reward.score(PIXELS, ["a", "b"]).values
    np.testing.assert_array_equal(reward.score(given, ["a", "b"]).values, wanted)


def test_half_precision_keeps_every_level():
    """255 steps between 0 and 1 fit into float16."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    np.testing.assert_array_equal(
        as_pictures((levels / 255).astype(np.float16))[0].pixels, levels[0]
    )


def test_floats_are_rounded_half_to_even():
    halves = (np.arange(12, dtype=np.float32) + 0.5).reshape(1, 2, 2, 3) / 255
    product = halves.astype(np.float32) * np.float32(255)
    np.testing.assert_array_equal(
        as_pictures(halves)[0].pixels, np.rint(product)[0].astype(np.uint8)
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (PIXELS / np.float32(255) * 2 - 1, r"float images from -\S+ to \S+; expected \[0, 1\].*/ 2 \+ 0.5"),
        (PIXELS.astype(np.float32), r"float images from \S+ to 255; expected \[0, 1\]"),
        (np.full((2, 8, 8, 3), np.nan, np.float32), "float images from nan to nan"),
        (PIXELS.astype(np.int64), "images of type int64; expected uint8"),
        (PIXELS.astype(np.uint16), "images of type uint16; expected uint8"),
        (PIXELS > 9, "images of type bool; expected uint8"),
        (PIXELS[0], r"shape \(24, 40, 3\).*one picture is images\[None\]"),
        (PIXELS.transpose(0, 3, 1, 2), r"transpose\(0, 2, 3, 1\)"),
        (PIXELS[..., 0], r"shape \(2, 24, 40\)"),
        (torch.from_numpy(PIXELS), r"permute\(0, 3, 1, 2\)"),
        ([PIXELS[0], Image.fromarray(PIXELS[0, ..., 0].astype(np.float32))], "image 1: it has pixels of mode F"),
        ([Image.fromarray(PIXELS[0]).convert("CMYK")] * 2, "image 0: it has pixels of mode CMYK"),
        (["none/such.png"] * 2, r"image 0 \(none/such.png\): No such file"),
        ([3, 4], "image 0: it is of type int"),
        (7, "images of type int"),
    ],
)  # fmt: skip
def test_other_pixels_are_refused_in_one_line(given, told):
    with pytest.raises(ConfigError, match=told) as caught:
        load_reward("jpeg").score(given, ["a", "b"])
    assert "\n" not in str(caught.value)


def test_what_was_done_to_a_picture_stands_in_the_evidence():
    half = opaque(PIXELS) // 2
    scores = load_reward("jpeg").score([PIXELS[0], half[0], PIXELS[1]], ["a", "b", "c"])
    said = [evidence.get("converted", "") for evidence in scores.evidence]
    assert said == ["", "alpha laid on white", ""]


@pytest.mark.parametrize("prompts", [["a"], ["a"] * 3, "a", []])
def test_one_prompt_an_image(prompts):
    with pytest.raises(ConfigError, match=r"2 images and . prompts; expected one prompt an image"):
        load_reward("jpeg").score(PIXELS, prompts)


def test_strings_are_prompts():
    sign = np.full((1, 64, 64, 3), 255, np.uint8)
    scores = load_reward("geneval@pocket").score(sign, "a cat")
    assert np.isnan(scores.values[0]) and "no `include`" in scores.reasons[0]
    with pytest.raises(ConfigError, match="prompt 0 is of type int"):
        load_reward("jpeg").score(PIXELS, [1, 2])


def test_pictures_of_two_sizes():
    small = PIXELS[0, :16, :16]
    reward = load_reward("clipscore@pocket")
    scores = reward.score([PIXELS[0], small, PIXELS[1]], ["a red ring", "a sign", "a star"])
    alone = [
        reward.score(p[None], t).values[0]
        for p, t in ((PIXELS[0], "a red ring"), (small, "a sign"), (PIXELS[1], "a star"))
    ]
    np.testing.assert_allclose(scores.values, alone, atol=1e-6)


# --- what comes out -------------------------------------------------------------------------------


class Third:
    """Another package's reward, which gives what it is told."""

    def __init__(self, values, low=0.0, high=1.0, scores=None):
        self.info = RewardInfo(name="third", variant="", summary="", low=low, high=high)
        self.values, self.scores = values, scores

    def score(self, images, prompts):
        return Scores.of(self.values) if self.scores is None else self.scores

    def check(self, prompts):
        """Any."""


class FirstPixel(Third):
    """Scores no image and says which it saw: the first number of each."""

    def score(self, images, prompts):
        said = tuple(f"saw {image[0, 0, 0]}" for image in images)
        evidence = tuple({"saw": int(image[0, 0, 0])} for image in images)
        values = np.full(len(images), np.nan, np.float32)
        return Scores(values=values, reasons=said, evidence=evidence)


def test_reasons_of_pictures_of_two_sizes_are_each_ones_own():
    pictures = [
        np.full((side, 8, 3), grey, np.uint8) for grey, side in enumerate((8, 16, 8, 16, 8))
    ]
    scores = checked(FirstPixel([])).score(pictures, list("abcde"))
    assert scores.reasons == tuple(f"saw {grey}" for grey in range(5))
    assert [said["saw"] for said in scores.evidence] == list(range(5))


@pytest.mark.parametrize("low", [0.0, -math.inf])
def test_what_cannot_be_is_nan_with_the_reason(low):
    scores = checked(Third([0.5, math.inf], low=low)).score(PIXELS, ["a", "b"])
    assert scores.values[0] == 0.5 and np.isnan(scores.values[1])
    assert scores.reasons == ("", f"the reward gave inf, outside its range {low:g} to 1")
    scores = checked(Third([1.0000001, 1.5], low=low)).score(PIXELS, ["a", "b"])
    assert scores.values[0] == np.float32(1.0000001) and "gave 1.5, outside" in scores.reasons[1]


@pytest.mark.parametrize("scores", [Scores.of([1.0]), np.ones(2)])
def test_a_reward_that_breaks_its_contract_is_named(scores):
    with pytest.raises(ConfigError, match=r"reward 'third' gave .* for 2 images; expected Scores"):
        checked(Third([], scores=scores)).score(PIXELS, ["a", "b"])


def test_every_reward_stands_behind_the_door(monkeypatch):
    entry = type("Point", (), {"name": "third", "value": f"{__name__}:third", "dist": None})()
    known = list(rewards.entry_points(group="nftbench.rewards"))
    monkeypatch.setattr(rewards, "entry_points", lambda group: [*known, entry])
    monkeypatch.setattr(rewards, "_factory", lambda key: lambda device: Third([0.5, 7.0]))
    scores = load_reward("third").score(PIXELS / 255, ["a", "b"])
    assert scores.values[0] == 0.5 and "outside its range 0 to 1" in scores.reasons[1]


# --- prompts that are cut -------------------------------------------------------------------------


def test_prompts_that_a_text_encoder_cuts_are_counted():
    texts = ["a photo of a red circle", "a red circle " * 40]
    for key in ("clipscore@pocket", "pickscore@pocket"):
        scores = load_reward(key).score(
            PIXELS, [Prompt(id=str(i), text=t) for i, t in enumerate(texts)]
        )
        assert scores.parts["truncated"].tolist() == [0, 1]


def test_what_a_reward_is_can_be_read():
    assert repr(rewards.load_reward("jpeg")) == (
        "<reward jpeg: JPEG size at quality 95, in kB of 1000 bytes, 0 to 100000>"
    )
