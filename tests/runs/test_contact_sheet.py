"""Contact sheets: images side by side, under each its task, score and prompt."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from nftbench.runs.contact_sheet import GAP, Tile, heading, sheet


def opened(tiles) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sheet(tiles))))


def flat(shade: int, side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), shade, np.uint8)


def test_images_alone_are_pasted_to_the_pixel():
    page = opened([[Tile(flat(1)), Tile(flat(2))], [Tile(flat(3))]])
    assert page.shape == (2 * (8 + GAP), 2 * (8 + GAP), 3)
    assert (
        (page[:8, :8] == 1).all() and (page[:8, 10:18] == 2).all() and (page[10:18, :8] == 3).all()
    )
    assert (page[10:, 10:] == 255).all()


def test_a_captioned_image_is_enlarged_whole_and_has_text_below():
    page = opened([[Tile(flat(9, 64), "two object: 0.50 by ocr", "ein Stern, größer")]])
    assert (page[:192, :192] == 9).all()  # three times 64, the least that is 160 wide
    below = page[192:]
    assert (below < 100).any() and (below[-GAP:] == 255).all()


def test_a_longer_prompt_is_other_ink_and_never_leaves_its_cell():
    short, long = (
        opened([[Tile(flat(0, 160), "", p)], [Tile(flat(0, 160))]]) for p in ("a", "word " * 99)
    )
    assert short.shape == long.shape and (short != long).any()
    cell = short.shape[0] // 2
    assert (long[cell : cell + 160, :160] == 0).all()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("two_object", "geneval", 0.5), "two object: 0.50 by geneval"),
        (("", "jpeg", 12.347), "12.35 by jpeg"),
        (("color", "ocr", math.nan), "color: not scored by ocr"),
        (("color", "", math.nan), "color"),
        (("", "", math.nan), ""),
    ],
)
def test_what_a_heading_says(said, told):
    assert heading(*said) == told
