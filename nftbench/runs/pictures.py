"""Image files to pixels: which kinds are opened, what is done to each, and which are left unscored with the reason.

    8-bit RGB, grey, palette, black and white, CMYK   as Pillow converts them
    16-bit grey                                       divided by 257 and rounded
    alpha                                             laid on white
    an EXIF orientation                               turned upright
    floating point, 32-bit grey, several frames       refused: their range, or the frame that is meant, is not known

What was converted is said in words, and stands in the evidence of each score.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rewards.base import MAX_PIXELS

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Everything that is opened: no format that Pillow hands to another program, none that few have met."""
PLAIN = frozenset({"RGB", "L", "P", "1", "CMYK", "YCbCr"})
GREY16 = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file's pixels."""

    pixels: np.ndarray
    """uint8 RGB (H, W, 3)."""
    converted: str = ""
    """What was done to them, in words; empty for plain 8-bit pixels."""


def read_picture(path: Path) -> Picture:
    """Read an image file.

    Raises:
        OSError: absent, not an ordinary file, truncated, not an image, or of a kind that is not converted; the message
            says which.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path.name} is not an ordinary file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            return _picture(image, path.name)
    except UnidentifiedImageError:
        raise OSError(
            f"{path.name} is not an image of a kind that is read: {', '.join(FORMATS)}"
        ) from None
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{path.name} is broken: {error}") from None


def read_image(path: Path) -> np.ndarray:
    """Pixels of an image file, uint8 RGB (H, W, 3); as `read_picture`."""
    return read_picture(path).pixels


def _picture(image: Image.Image, name: str) -> Picture:
    if image.width * image.height > MAX_PIXELS:
        raise OSError(
            f"{name} is {image.width}x{image.height}; at most {MAX_PIXELS} pixels are read"
        )
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise OSError(
            f"{name} has {frames} frames; save the one that is meant as an image of its own"
        )
    notes = []
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
        notes.append("turned upright by its EXIF orientation")
    if image.mode in GREY16 or (image.mode == "I" and image.format == "PNG"):
        levels = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
        notes.append("16-bit grey divided by 257")
    if image.has_transparency_data:
        notes += ["alpha laid on white"] if _seen_through(image) else []
        image = _on_white(image)
    if image.mode not in PLAIN:
        raise OSError(
            f"{name} has pixels of mode {image.mode}, whose range is not known; save it as 8-bit RGB"
        )
    return Picture(np.asarray(image.convert("RGB")), "; ".join(notes))


def _seen_through(image: Image.Image) -> bool:
    return image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def _on_white(image: Image.Image) -> Image.Image:
    whole = image.convert("RGBA")
    white = Image.new("RGBA", whole.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, whole).convert("RGB")
