"""GenEval as a reward: crops, colours, evidence, refusals; its detector's answers are known."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rewards.base import ConfigError, Prompt, RewardInfo
from rewards.geneval.colours import BACKGROUND, TEMPLATES, ClipColorHead, Crop, cut_out
from rewards.geneval.detector import Detections
from rewards.geneval.reward import GenEval, target_fault
from rewards.images.preprocess import CLIP_MEAN, CLIP_STD

INFO = RewardInfo(
    name="geneval", variant="test", summary="", low=-14, high=1, needs="geneval metadata"
)
RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class MeanColorTower:
    """Embeds a picture as its mean colour, a text as the colour it names times its length."""

    image_size = 16

    def embed_images(self, pixels):
        mean, std = (torch.tensor(v) for v in (CLIP_MEAN, CLIP_STD))
        return pixels.mean(dim=(2, 3)) * std + mean

    def embed_texts(self, texts):
        named = [next(rgb for color, rgb in RGB.items() if color in text) for text in texts]
        return torch.tensor(named).float() * torch.tensor([len(t) for t in texts])[:, None]


class SquareDetector:
    """Finds every pure square of one colour as a `block`; blue ones only faintly."""

    classes = ("block", "ball")

    def detect(self, images):
        return [self._one(image) for image in images]

    def _one(self, image):
        found, masks = [], []
        for rgb, score in zip(RGB.values(), (0.99, 0.95, 0.5), strict=True):
            mask = (image == np.array(rgb)).all(axis=-1)
            if mask.any():
                ys, xs = np.nonzero(mask)
                found.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, score])
                masks.append(mask)
        boxes = np.array(found, dtype=np.float32).reshape(-1, 5)
        return Detections(boxes={"block": boxes}, masks={"block": np.array(masks)})


def picture(**places) -> np.ndarray:
    """Grey 64x64 ground with 10x10 squares: picture(red=(x, y))."""
    image = np.full((64, 64, 3), 120, dtype=np.uint8)
    for color, (x, y) in places.items():
        image[y : y + 10, x : x + 10] = RGB[color]
    return image


def asking(*clauses, tag="", id="p", **more) -> Prompt:
    return Prompt(id=id, text="", tag=tag, target={"include": list(clauses), **more})


def block(count=1, **more) -> dict:
    return {"class": "block", "count": count, **more}


@pytest.fixture(scope="module")
def head():
    return ClipColorHead(MeanColorTower(), colors=tuple(RGB))


@pytest.fixture
def reward(head):
    return GenEval(SquareDetector(), head, info=INFO)


# --- crops and colours ----------------------------------------------------------------------------


def test_cut_out_greys_what_the_mask_leaves():
    image = picture(red=(20, 20))
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:25, 20:30] = True
    crop = cut_out(image, np.array([19.5, 19.6, 30.4, 30.5, 0.9]), mask)
    expected = np.full((10, 10, 3), BACKGROUND, dtype=np.uint8)  # 19.5 and 30.5 go to the even side
    expected[:5, :10] = RGB["red"]
    np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize(
    "box", [(3, 4, 20, 30), (-5.5, -2, 8, 9), (50, 60, 80, 90), (70, 70, 90, 80), (-9, 5, -2, 9)]
)
def test_cut_out_is_pillows_crop(box):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    edges = tuple(round(edge) for edge in box)
    np.testing.assert_array_equal(
        cut_out(image, np.array(box)), np.asarray(Image.fromarray(image).crop(edges))
    )


@pytest.mark.parametrize("box", [(5, 5, 5.4, 9), (9, 5, 5, 9), (5, 9, 9, 5)])
def test_cut_out_of_nothing(box):
    assert cut_out(picture(), np.array(box)) is None


def test_color_head_averages_unit_text_embeddings(head):
    """Against the definition, written out: normalise, mean over templates, normalise, nearest."""
    crops = [Crop(name="ball", pixels=picture(**{c: (27, 27)})[25:40, 25:40]) for c in RGB]
    tower, columns = MeanColorTower(), []
    for color in RGB:
        texts = [template.format(color=color, name="ball") for template in TEMPLATES]
        units = [e / e.norm() for e in tower.embed_texts(texts)]
        mean = sum(units) / len(units)
        columns.append(mean / mean.norm())
    assert [list(RGB)[i] for i in torch.stack(columns).argmax(dim=0)] == head.classify(crops)
    assert head.classify([]) == []


def test_crops_of_different_sizes_go_together(head):
    sizes = [(3, 9), (16, 16), (30, 4)]
    crops = [
        Crop(name="block", pixels=np.full((*size, 3), RGB[color], dtype=np.uint8))
        for size, color in zip(sizes, RGB, strict=True)
    ]
    assert head.classify(crops) == list(RGB)


# --- the reward -----------------------------------------------------------------------------------


def test_value_follows_the_rule(head):
    images = np.stack([picture(red=(5, 5)), picture(red=(5, 5), green=(30, 5)), picture()])
    prompts = [asking(block())] * 3
    official = GenEval(SquareDetector(), head, info=INFO).score(images, prompts)
    nft = GenEval(SquareDetector(), head, info=INFO, rule="nft").score(images, prompts)
    np.testing.assert_array_equal(official.values, [1, 1, 0])
    np.testing.assert_array_equal(nft.values, [1, 0, 0])
    np.testing.assert_array_equal(official.parts["partial"], nft.values)
    np.testing.assert_array_equal(nft.parts["correct"], official.values)
    for scores in (official, nft):
        np.testing.assert_array_equal(scores.parts["strict"], [1, 0, 0])
        assert len(scores.parts) == 2, "the value is no part of itself"


def test_colors_and_positions_come_from_the_pixels(reward):
    images = np.stack([picture(red=(5, 5)), picture(green=(5, 5)), picture(red=(40, 5))])
    scores = reward.score(images, [asking(block(color="red"))] * 3)
    np.testing.assert_array_equal(scores.values, [1, 0, 1])
    assert scores.evidence[1]["reason"] == "expected red block>=1, found 0 red; and 1 green"
    both = asking(block(2), block(position=["left of", 0]))
    side = reward.score(picture(red=(5, 5), green=(40, 5))[None], [both])
    assert "expected block left of target" in side.evidence[0]["reason"]


def test_counting_wants_sure_detections(reward):
    """The blue block scores 0.5: above 0.3, below the 0.9 of the task `counting`."""
    image = picture(blue=(5, 5))[None]
    assert reward.score(image, [asking(block())]).values[0] == 1
    assert reward.score(image, [asking(block(), tag="counting")]).values[0] == 0


def test_evidence_is_ready_for_json(reward):
    image = picture(red=(5, 6), blue=(40, 40))[None]
    scores = reward.score(image, [asking(block(2, color="red"))])
    assert json.loads(json.dumps(scores.evidence[0])) == {
        "boxes": {"block": [[5.0, 6.0, 15.0, 16.0, 0.99], [40.0, 40.0, 50.0, 50.0, 0.5]]},
        "colors": {"block": ["red", "blue"]},
        "reason": "expected red block>=2, found 1 red; and 1 red, 1 blue",
        "strict_reason": "expected red block>=2, found 1 red; and 1 red, 1 blue",
    }


def test_a_batch_is_its_images(reward):
    images = np.stack([picture(red=(5, 5)), picture(green=(9, 9), red=(30, 30)), picture()])
    prompts = [asking(block(color="red")), asking(block(2, color="red")), asking(block())]
    singles = [reward.score(images[i : i + 1], prompts[i : i + 1]) for i in range(3)]
    batch = reward.score(images, prompts)
    np.testing.assert_array_equal(batch.values, [s.values[0] for s in singles])
    assert batch.evidence == tuple(s.evidence[0] for s in singles)


def test_unjudgeable_prompt_is_nan_beside_scored_ones(reward):
    images = np.stack([picture(red=(5, 5))] * 2)
    scores = reward.score(images, [asking(), asking(block(color="red"))])
    np.testing.assert_array_equal(scores.values, [np.nan, 1])
    np.testing.assert_array_equal(scores.parts["partial"], [np.nan, 1])
    assert "include" in scores.reasons[0] and scores.reasons[1] == ""


def test_colored_object_without_a_pixel_is_nan(head):
    class Sliver(SquareDetector):
        def _one(self, image):
            box = np.array([[5.0, 5.0, 5.2, 9.0, 0.99]], dtype=np.float32)
            return Detections(boxes={"block": box})

    scores = GenEval(Sliver(), head, info=INFO).score(
        np.stack([picture()] * 2), [asking(block(color="red")), asking(block())]
    )
    np.testing.assert_array_equal(scores.values, [np.nan, 1])
    assert "without a pixel" in scores.reasons[0]


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ({}, "no `include`"),
        ({"include": []}, "no `include`"),
        ({"include": [{"class": "cat", "count": 1}]}, "class 'cat' is none of the detector's 2"),
        ({"include": [{"class": "ball"}]}, "whole number >= 1, got None"),
        ({"include": [{"class": "ball", "count": 0}]}, "whole number >= 1, got 0"),
        ({"include": [{"class": "ball", "count": 1.5}]}, "whole number >= 1, got 1.5"),
        (
            {"include": [block(color="teal")]},
            "colour 'teal' of 'block' is none of red, green, blue",
        ),
        (
            {"include": [block(), block(position=["near", 0])]},
            r"position \['near', 0\] of clause 1",
        ),
        ({"include": [block(), block(position=["above", 1])]}, "number of an earlier clause"),
        ({"include": [block(position=["above", -1])]}, "number of an earlier clause"),
        ({"include": [block()], "exclude": [{"class": "dog", "count": 1}]}, "class 'dog'"),
    ],
)
def test_check_names_prompt_and_fault(reward, target, fault):
    prompts = [asking(block()), Prompt(id="bad", text="", target=target)]
    with pytest.raises(ConfigError, match=f"'bad' cannot be scored by geneval@test: .*{fault}"):
        reward.check(prompts)


def test_good_targets_pass():
    target = {
        "include": [block(2, color="red"), {"class": "ball", "count": 1, "position": ["above", 0]}],
        "exclude": [block(3)],
    }
    assert target_fault(target, SquareDetector.classes, tuple(RGB)) == ""
