"""Preprocessing: closed forms, torchvision and transformers as oracles, the references' numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from rewards.base import unfit
from rewards.certify.clip import CHEAP
from rewards.certify.clip.handed import pixels
from rewards.certify.preprocessing import mask_of
from rewards.images import preprocess
from rewards.images.preprocess import CLIP_MEAN, CLIP_STD
from tests.helpers.paths import GOLDEN

ALL = {
    name: getattr(preprocess, name)
    for name in (
        "pickscore",
        "aesthetic_nft",
        "clipscore_openai",
        "geneval_crop",
        "clipscore_nft",
        "hpsv2_nft",
        "hpsv2_2024",
    )
}
SIDES = st.integers(1, 70)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return v2.functional.normalize(pixels, CLIP_MEAN, CLIP_STD)


# --- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_one_colour_stays_that_colour(name):
    image = np.full((50, 50, 3), (255, 0, 51), dtype=np.uint8)
    pixels = ALL[name](image, 32)
    for channel, value, mean, std in zip(pixels, (1, 0, 0.2), CLIP_MEAN, CLIP_STD, strict=True):
        expected = torch.full((32, 32), (value - mean) / std)
        torch.testing.assert_close(channel, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ALL)
@given(height=SIDES, width=SIDES)
@settings(max_examples=25)
def test_any_shape_becomes_a_finite_square(name, height, width):
    image = noise(height, width)
    before = image.copy()
    pixels = ALL[name](image, 16)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == torch.float32
    assert torch.isfinite(pixels).all()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("transform", [preprocess.hpsv2_nft, preprocess.hpsv2_2024])
@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((64, 32), (0, 32), (8, 24)),
        ((32, 64), (8, 24), (0, 32)),
        (
            (32, 15),
            (0, 32),
            (8, 23),
        ),  # already as long as the side; the odd pixel goes to the right
        ((64, 64), (0, 32), (0, 32)),
    ],
)
def test_hps_pads_with_black(transform, shape, rows, columns):
    white = np.full((*shape, 3), 255, dtype=np.uint8)
    pixels = transform(white, 32) * torch.tensor(CLIP_STD)[:, None, None]
    pixels += torch.tensor(CLIP_MEAN)[:, None, None]
    expected = torch.zeros(3, 32, 32)
    expected[:, slice(*rows), slice(*columns)] = 1
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)


def test_hps_overshoots_and_is_not_clipped():
    steps = np.zeros((20, 20, 3), dtype=np.uint8)
    steps[:, 10:] = 255
    pixels = preprocess.hpsv2_nft(steps, 48) * torch.tensor(CLIP_STD)[:, None, None]
    pixels += torch.tensor(CLIP_MEAN)[:, None, None]
    assert pixels.min() < -0.03 and pixels.max() > 1.03


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((0, 7), "7x0 and has no pixel"),
        ((3, 0), "0x3 and has no pixel"),
        ((1, 201), "201x1; sides may differ 200 times"),
        ((9500, 9500), "at most 89478485 pixels"),
        ((1, 200), ""),
        ((512, 512), ""),
    ],
)
def test_pictures_that_no_encoder_can_look_at(shape, words):
    images = np.broadcast_to(np.uint8(0), (1, *shape, 3))
    reason = unfit(images)
    assert words in reason and bool(words) == bool(reason)


# --- oracles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("shape", [(64, 64), (97, 64), (100, 151), (61, 64)])
def test_pickscore_is_the_processor_of_transformers(shape, size):
    image = noise(*shape)
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size)
    expected = processor(Image.fromarray(image), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(preprocess.pickscore(image, size), expected, atol=5e-7, rtol=0)


@given(height=st.integers(8, 90), width=st.integers(8, 90))
@settings(max_examples=40)
def test_openai_and_nft_are_torchvisions_resize_and_centre_crop(height, width):
    image = noise(height, width)
    for transform, mode in (
        (preprocess.clipscore_openai, InterpolationMode.BICUBIC),
        (preprocess.clipscore_nft, InterpolationMode.BILINEAR),
    ):
        source = Image.fromarray(image)
        if mode == InterpolationMode.BILINEAR:
            source = v2.functional.to_dtype(v2.functional.to_image(source), scale=True)
        found = v2.CenterCrop(32)(v2.Resize(32, mode, antialias=True)(source))
        if isinstance(found, Image.Image):
            found = v2.functional.to_dtype(v2.functional.to_image(found), scale=True)
        expected = torch.as_tensor(normalised(found))
        torch.testing.assert_close(transform(image, 32), expected, atol=1e-5, rtol=0)


@given(height=st.integers(8, 90), width=st.integers(8, 90), antialias=st.booleans())
@settings(max_examples=40)
def test_hps_is_torchvisions_resize_on_floats_and_pad(height, width, antialias):
    image = noise(height, width)
    pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
    longest = max(height, width)
    shape = [round(side * (32 / longest)) for side in (height, width)]
    found = v2.functional.resize(pixels, shape, InterpolationMode.BICUBIC, antialias=antialias)
    free = [32 - side for side in shape]
    around = [free[1] // 2, free[0] // 2, free[1] - free[1] // 2, free[0] - free[0] // 2]
    expected = normalised(v2.functional.pad(found, around))
    transform = preprocess.hpsv2_nft if antialias else preprocess.hpsv2_2024
    torch.testing.assert_close(transform(image, 32), expected, atol=1e-5, rtol=0)


# --- the references -------------------------------------------------------------------------------

PREPROCESSING = [
    pytest.param(check, id=f"{key}-{i}")
    for key, checks in CHEAP.items()
    for i, check in enumerate(checks)
    if getattr(check, "func", None) is pixels
]


@pytest.mark.parametrize("check", PREPROCESSING)
def test_equal_to_the_reference(check):
    for found in check(GOLDEN):
        assert found.passed, found
        assert found.cases >= 7


def test_masks():
    box = np.array([0, 0, 16, 8], dtype=np.float32)
    assert mask_of("none", (8, 16), box) is None
    assert not mask_of("empty", (8, 16), box).any()
    checker = mask_of("checker", (8, 16), box)
    assert checker[:, :8].all() and not checker[:, 8:].any()
    ellipse = mask_of("ellipse", (9, 17), box)
    assert ellipse[4, 8] and ellipse[4, 0] and not ellipse[0, 0]
