"""One rule for pictures: what Pillow writes is read alike as a path, PIL image, array or tensor, or refused alike."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from rewards.images.pixels import (
    FORMATS,
    MODES,
    ImageError,
    Picture,
    as_pictures,
    from_pil,
    read_picture,
)

ALL_MODES = [
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
]
ALL_MODES += ["I", "F", "I;16", "I;16L", "I;16B"]
LOSSLESS = ("PNG", "BMP", "TIFF", "PPM")
GREY = np.random.default_rng(1).integers(0, 65536, (6, 9), dtype=np.uint16)


def made(mode: str, seed: int) -> Image.Image:
    """A picture of random bytes."""
    size = {"1": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I": 4, "F": 4}.get(mode)
    count = size or len(Image.new(mode, (1, 1)).getbands())
    data = np.random.default_rng(seed).integers(0, 256, (7, 11 * count), dtype=np.uint8)
    if mode == "1":
        return Image.fromarray(data).convert("1")
    if mode == "F":
        return Image.fromarray(data[:, :11].astype(np.float32))
    image = Image.frombytes(mode, (11, 7), data.tobytes())
    if mode in ("P", "PA"):
        image.putpalette(
            np.random.default_rng(seed).integers(0, 256, 768, dtype=np.uint8).tobytes()
        )
    return image


def taken(given_) -> Picture | str:
    """The picture, or why there is none."""
    try:
        return as_pictures(given_)[0]
    except ImageError as error:
        assert "\n" not in str(error)
        return str(error).partition(": ")[2]


def written(mode: str, form: str) -> bytes:
    """A file of a mode; empty where Pillow does not write it."""
    buffer = io.BytesIO()
    try:
        made(mode, len(form)).save(buffer, form)
    except (OSError, KeyError, ValueError):
        return b""
    return buffer.getvalue()


WRITTEN = {(m, f): data for m in ALL_MODES for f in FORMATS if (data := written(m, f))}


@pytest.mark.parametrize(("mode", "form"), WRITTEN)
def test_a_path_a_pil_image_an_array_and_a_tensor_are_one_picture(tmp_path, mode, form):
    path = tmp_path / "a"
    path.write_bytes(WRITTEN[mode, form])
    by_path = taken(path)
    with Image.open(path) as image:
        by_pil = taken(image)
    if isinstance(by_path, str):
        assert by_path == by_pil and "save it as 8-bit RGB" in by_path
        return
    assert by_path.pixels.dtype == np.uint8 and by_path.pixels.shape == (7, 11, 3)
    assert by_pil.converted == by_path.converted
    tensor = torch.from_numpy(by_path.pixels.copy()).permute(2, 0, 1)
    for other in (by_path.pixels[None], by_path.pixels[None] / 255, [tensor], tensor[None] / 255):
        np.testing.assert_array_equal(taken(other).pixels, by_path.pixels)
    np.testing.assert_array_equal(by_pil.pixels, by_path.pixels)


def test_floats_go_to_the_nearest_level():
    levels = np.array([0.4, 0.6, 99.4, 99.6, 254.4, 254.6], np.float32).reshape(1, 1, 2, 3)
    assert taken(levels / 255).pixels.ravel().tolist() == [0, 1, 99, 100, 254, 255]


@pytest.mark.parametrize("mode", sorted(MODES - {"PA"}))
def test_eight_bits_and_no_alpha_are_what_pillow_says(mode):
    image = made(mode, 3)
    if "A" in mode:
        image.putalpha(255)
    found = taken(image)
    np.testing.assert_array_equal(found.pixels, np.asarray(image.convert("RGB")))
    assert found.converted == ""


@given(st.integers(0, 2**32), st.sampled_from(["RGBA", "LA", "PA"]))
def test_alpha_shows_white_and_hides_what_lies_under_it(seed, mode):
    image = made(mode, seed)
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    share = rgba[..., 3:] / 255
    white = rgba[..., :3] * share + 255 * (1 - share)
    found = taken(image)
    assert np.abs(found.pixels - white).max() <= 1 and found.converted == "alpha laid on white"
    array = np.asarray(image.convert("RGBA"))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for other in (array[None], [array], array[None] / 255, [tensor]):
        same = taken(other)
        np.testing.assert_array_equal(same.pixels, found.pixels)
        assert same.converted == "alpha laid on white"
    hidden = array.copy()
    hidden[array[..., 3] == 0, :3] ^= 255
    np.testing.assert_array_equal(taken(hidden[None]).pixels, found.pixels)


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(tmp_path, form):
    image = made("P", 5)
    image.save(tmp_path / "a", form, transparency=image.getpixel((0, 0)))
    found = read_picture(tmp_path / "a")
    assert found.pixels[0, 0].tolist() == [255] * 3 and found.converted == "alpha laid on white"


@pytest.mark.parametrize(("mode", "clear"), [("L", 9), ("RGB", (9, 9, 9)), ("1", 0)])
def test_a_transparent_colour_is_white(tmp_path, mode, clear):
    Image.new(mode, (4, 4), clear).save(tmp_path / "a.png", transparency=clear)
    assert read_picture(tmp_path / "a.png").pixels.min() == 255


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_divided_by_257(tmp_path, form):
    Image.fromarray(GREY).save(tmp_path / "a", form)
    found = read_picture(tmp_path / "a")
    wanted = np.floor(GREY / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(found.pixels, wanted[..., None].repeat(3, -1))
    assert found.converted == "16-bit grey divided by 257"
    assert np.abs(found.pixels[..., 0] / 255 - GREY / 65535).max() <= 0.5 / 255 + 1e-9


def png(bit_depth: int, colour: int, data: bytes, *, width=4, more=()) -> io.BytesIO:
    """A PNG of kinds that Pillow does not write, 2 rows of `data`."""
    import struct
    import zlib

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, 2, bit_depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress((b"\0" + data) * 2)), (b"IEND", b"")]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks))


def test_sixteen_bit_colour_says_that_it_was_cut(tmp_path):
    levels = np.random.default_rng(2).integers(0, 65536, 12).astype(">u2")
    (tmp_path / "a.png").write_bytes(png(16, 2, levels.tobytes()).getvalue())
    found = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(found.pixels[0].ravel(), levels >> 8)
    assert found.converted == "upper 8 bits of 16-bit colour"


@pytest.mark.parametrize(
    ("depth", "colour", "data", "clear"),
    [(16, 0, bytes(8), bytes(2)), (16, 2, bytes(24), bytes(6)), (2, 0, bytes(1), bytes([0, 1]))],
)
def test_transparent_colours_of_other_depths_are_refused(depth, colour, data, clear):
    with Image.open(png(depth, colour, data, more=[(b"tRNS", clear)])) as image:
        assert "with a transparent colour; save it as 8-bit RGBA" in taken(image)


def tiff(mode: str, **tags) -> io.BytesIO:
    buffer = io.BytesIO()
    made(mode, 1).save(buffer, "TIFF", **tags)
    return buffer


def test_grey_that_is_inverted_or_of_twelve_bits_is_refused():
    with Image.open(tiff("I;16", tiffinfo={262: 0})) as image:
        assert image.tag_v2[262] == 0 and "range is not known" in taken(image)
    with Image.open(tiff("I;16")) as image:
        image.tile = [image.tile[0]._replace(args=("I;12", 0, 1))]
        assert "range is not known" in taken(image)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright_in_every_format(tmp_path, form, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    halves = np.zeros((8, 16, 3), np.uint8)
    halves[:, :8] = 255  # left is white
    Image.fromarray(halves).save(tmp_path / "a", form, exif=exif)
    found = read_picture(tmp_path / "a")
    bright = found.pixels.astype(int).mean(-1)
    edges = {
        "left": bright[:, 0], "right": bright[:, -1], "top": bright[0], "bottom": bright[-1]
    }  # fmt: skip
    white = {
        1: "left",
        2: "right",
        3: "right",
        4: "left",
        5: "top",
        6: "top",
        7: "bottom",
        8: "bottom",
    }
    assert [name for name, edge in edges.items() if edge.min() > 200] == [white[turn]]
    assert found.converted == ("" if turn == 1 else "turned upright by its EXIF orientation")


def test_a_colour_profile_is_named(tmp_path):
    image = made("RGB", 1)
    for space, said in (("sRGB", ""), ("XYZ", "colour profile")):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()
        image.save(tmp_path / "a.png", icc_profile=profile)
        found = read_picture(tmp_path / "a.png")
        np.testing.assert_array_equal(found.pixels, np.asarray(image))
        assert found.converted.startswith(said) and bool(found.converted) == bool(said)
    image.save(tmp_path / "a.png", icc_profile=b"damaged")
    assert read_picture(tmp_path / "a.png").converted == "colour profile 'unknown' not applied"


def test_a_gamma_is_named(tmp_path):
    for gamma, said in ((45455, ""), (100000, "gamma 1 not applied")):
        info = PngImagePlugin.PngInfo()
        info.add(b"gAMA", gamma.to_bytes(4, "big"))
        made("RGB", 1).save(tmp_path / "a.png", pnginfo=info)
        assert read_picture(tmp_path / "a.png").converted == said


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(tmp_path, form):
    first, second = made("RGB", 1), made("RGB", 2)
    first.save(tmp_path / "a", form, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match="it has 2 frames; save the one that is meant"):
        read_picture(tmp_path / "a")
    first.save(tmp_path / "a", form, save_all=True)
    assert read_picture(tmp_path / "a").pixels.shape == (7, 11, 3)


# --- files that are damaged -----------------------------------------------------------------------


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=form)
    return buffer.getvalue()


FILES = {form: encoded(form) for form in FORMATS}


@pytest.mark.filterwarnings("ignore::UserWarning")  # what PIL says of the same faults
@given(st.sampled_from(sorted(FILES)), st.data())
def test_a_broken_file_is_refused_or_an_image(tmp_path_factory, form, data):
    """Whatever is cut off or overwritten: nothing but ImageError ever comes out."""
    content = bytearray(FILES[form])
    del content[data.draw(st.integers(0, len(content))) :]
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)
    ):
        if place < len(content):
            content[place] = byte
    path = tmp_path_factory.getbasetemp() / f"broken.{form}"
    path.write_bytes(bytes(content))
    try:
        pixels = read_picture(path).pixels
    except ImageError as error:
        assert str(error)
    else:
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", [2, 5, 7, 12])
def test_a_tag_of_another_kind_is_a_broken_file(tmp_path, kind):
    """Where a TIFF's pixels begin, as text, fraction, bytes or float: Pillow's TypeError is the file's fault."""
    tag = struct.pack("<HH", 273, 4)
    assert FILES["TIFF"].count(tag) == 1
    (tmp_path / "a").write_bytes(FILES["TIFF"].replace(tag, struct.pack("<HH", 273, kind)))
    with pytest.raises(ImageError, match="it is broken"):
        read_picture(tmp_path / "a")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_file_cut_in_the_middle_is_never_half_an_image(tmp_path, form):
    path = tmp_path / "a"
    path.write_bytes(FILES[form][: len(FILES[form]) // 2])
    with pytest.raises(ImageError, match=r"(?i)truncated|broken"):
        read_picture(path)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (64, 64)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match=r"it is broken: Image size \(4096 pixels\) exceeds"):
        read_picture(tmp_path / "bomb.png")


def test_a_file_of_another_kind_is_not_opened(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    with pytest.raises(ImageError, match="it is not an image of a kind that is read: PNG"):
        read_picture(tmp_path / "a.eps")
    with pytest.raises(ImageError, match="not an ordinary file"):
        read_picture(Path(tmp_path))


def test_an_image_in_memory_is_left_as_it_is():
    image = made("RGBA", 1)
    before = np.asarray(image).copy()
    from_pil(image)
    np.testing.assert_array_equal(np.asarray(image), before)
