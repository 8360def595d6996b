"""The colour head: what its tower is shown and asked, against the reference's steps done one by one."""

import numpy as np
import pytest
import torch

from rewards.clip.towers import ClipTower
from rewards.geneval.colours import TEMPLATES, ClipColorHead, Crop
from rewards.images import preprocess
from tests.helpers.models import tiny_clip

COLORS = ("red", "green", "dark blue")


@pytest.fixture(scope="module")
def head():
    return ClipColorHead(ClipTower(tiny_clip.model(), tiny_clip.tokenizer()), colors=COLORS)


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(0)
    shapes = [(tiny_clip.SIZE, tiny_clip.SIZE + 3), (tiny_clip.SIZE + 7, tiny_clip.SIZE), (50, 90)]
    return [
        Crop(name=name, pixels=rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        for name, shape in zip(("car", "dog", "car"), shapes, strict=True)
    ]


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm()


def test_a_colour_is_the_mean_of_all_its_texts(head):
    for color, column in zip(COLORS, head.classifier("car").T, strict=True):
        texts = [
            f"a photo of a {color} car",
            f"a photo of a {color}-colored car",
            f"a photo of a {color} object",
        ]
        each = [unit(head.tower.embed_texts([text])[0]) for text in texts]
        torch.testing.assert_close(column, unit(sum(each) / len(TEMPLATES)))


def test_crops_are_seen_as_open_clip_shows_them(head, crops):
    """Resized by the short side, then cut in the middle: half a pixel goes to the even side, as PIL's crop has it."""
    seen = [preprocess.clipscore_openai(crop.pixels, tiny_clip.SIZE) for crop in crops]
    floored = [preprocess.pickscore(crop.pixels, tiny_clip.SIZE) for crop in crops]
    assert not any(torch.equal(*pair) for pair in zip(seen[:2], floored[:2], strict=True))
    embeds = [unit(head.tower.embed_images(pixels[None])[0]) for pixels in seen]
    expected = [e @ head.classifier(crop.name) for e, crop in zip(embeds, crops, strict=True)]
    torch.testing.assert_close(head.cosines(crops), torch.stack(expected))


def test_the_nearest_colour_is_the_answer(head, crops):
    nearest = [COLORS[int(np.argmax(row))] for row in head.cosines(crops).numpy()]
    assert head.classify(crops) == nearest
