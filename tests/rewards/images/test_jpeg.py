"""JPEG size against the file that an encoder writes, and against the reference's figures."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from rewards.base import Prompt
from rewards.images.jpeg import Compressibility, Incompressibility, jpeg_kilobytes
from tests.helpers.paths import GOLDEN

FOLDER = GOLDEN
GOLDEN = json.loads((FOLDER / "jpeg.json").read_text("utf-8"))["jpeg"]
PROMPT = Prompt(id="p", text="anything")


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_to_a_few_bytes(name):
    """Encoders may differ by a few bytes: the figures come from Pillow 10.4."""
    image = np.load(FOLDER / "preprocessing.npz")[f"image/{name}"][None]
    kilobytes = Incompressibility().score(image, [PROMPT]).values[0]
    assert kilobytes == pytest.approx(GOLDEN[name]["incompressibility_kB"], abs=0.02)
    minus = Compressibility().score(image, [PROMPT]).values[0]
    assert minus == pytest.approx(GOLDEN[name]["compressibility"], abs=0.02 / 500)


def test_size_is_that_of_the_file(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.jpg", quality=95)
    assert jpeg_kilobytes(image) == (tmp_path / "image.jpg").stat().st_size / 1000


def test_noise_is_larger_than_a_plain_ground():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = np.stack([noise, np.full_like(noise, 128)])
    size = Incompressibility().score(images, [PROMPT] * 2).values
    assert size[0] > 5 * size[1]
    np.testing.assert_allclose(Compressibility().score(images, [PROMPT] * 2).values, -size / 500)


def test_the_file_decodes_to_the_same_picture_roughly():
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8), 64).reshape(64, 64, 1).repeat(3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, format="JPEG", quality=95)
    assert jpeg_kilobytes(ramp) * 1000 == len(buffer.getvalue())
