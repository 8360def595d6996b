"""What counts as pixels: the one rule by which a picture of any kind becomes uint8 RGB, or is refused in one line.

| given | rule |
|---|---|
| uint8 arrays (N, H, W, 3) | taken as they are |
| float arrays (N, H, W, 3) in [0, 1] | round(255 x), halves to even, as diffusers' pipelines do |
| torch tensors (N, 3, H, W) | the same two rules; channels come first |
| 4 channels | the fourth is alpha |
| alpha, a transparent colour or palette entry | laid on white, and recorded where a pixel is not opaque |
| PIL images, paths: 8-bit RGB, grey, YCbCr, palette, black and white | as Pillow converts them to RGB |
| 16-bit grey | divided by 257 and rounded, and recorded |
| 16-bit colour | its upper 8 bits, which is all that Pillow reads, and recorded |
| an EXIF orientation | turned upright, and recorded |
| a colour profile, a gamma | not applied, as no reference does, and recorded where it is not sRGB's |
| CMYK, Lab, HSV, float, 12- and 32-bit grey, several frames | refused: colours, range or frame are not known |
| files | of `FORMATS` only |
| lists of the above | one by one, so that sizes may differ |

What is recorded stands in the evidence of a score, under `converted`.
"""

import re
import stat
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.base import MAX_PIXELS, ConfigError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Everything that is opened: no format that Pillow hands to another program, none that few have met."""
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"})
"""Of Pillow: 8 bits a channel at most, and no colour space but RGB's."""
GREY16 = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
WHITE_IS_ZERO = {262: 0}
"""TIFF's tag of what 0 means, where 0 is white."""
ORIENTATION = 0x0112
SRGB_GAMMA = (0.45, 0.46)
"""What a PNG says of its gamma where it is sRGB's, 1 / 2.2."""
PLACE = re.compile(r" at 0x[0-9a-fA-F]+")
"""In Pillow's words: where in memory a reader lies, such as `<_io.BytesIO object at 0x7f93f8ed4770>`."""
EXPECTED = "expected uint8 or float in [0, 1], (N, H, W, 3)"


class ImageError(ConfigError):
    """A picture that is not taken: says why, and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture's pixels."""

    pixels: np.ndarray
    """uint8 RGB (H, W, 3)."""
    converted: str = ""
    """What was done to them, in words; empty for plain 8-bit pixels."""


def as_pictures(images: Any) -> list[Picture]:
    """Pictures of any kind: see the table above.

    Args:
        images: an array or tensor of N pictures; or a list of arrays (H, W, 3), tensors (3, H, W), PIL images, paths or
            `Picture`s; or one PIL image, path or `Picture`.

    Raises:
        ImageError: a picture of another shape, type or range; says which, what was expected, and what to do.
    """
    if isinstance(images, np.ndarray):
        return list(_from_array(images))
    if _is_tensor(images):
        return list(_from_array(_channels_last(images)))
    if isinstance(images, str | Path | Picture) or _is_pil(images):
        images = [images]
    if not isinstance(images, Iterable):
        raise ImageError(f"images of type {type(images).__name__}; {EXPECTED}.")
    return [_one(image, place) for place, image in enumerate(images)]


def _one(image: Any, place: int) -> Picture:
    try:
        if isinstance(image, Picture):
            return image
        if isinstance(image, str | Path):
            return read_picture(Path(image))
        if _is_pil(image):
            return from_pil(image)
        if _is_tensor(image):
            image = _channels_last(image[None])[0]
        if not isinstance(image, np.ndarray):
            raise ImageError(f"it is of type {type(image).__name__}; {EXPECTED}.")
        return next(_from_array(image[None]))
    except ImageError as error:
        name = f" ({image})" if isinstance(image, str | Path) else ""
        raise ImageError(f"image {place}{name}: {error}") from None


def _is_pil(image: Any) -> bool:
    """Whether it is a PIL image; nobody has one before PIL is imported."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)


# --- files and PIL images -------------------------------------------------------------------------


def read_picture(path: Path) -> Picture:
    """Read an image file.

    Raises:
        ImageError: absent, not an ordinary file, broken, not an image, or of a kind that is refused; says which.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("it is not an ordinary file")
        with Image.open(path, formats=FORMATS) as image:
            return from_pil(image)
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise ImageError(f"it is not an image of a kind that is read: {kinds}") from None
    except ImageError:
        raise
    except _broken() as error:  # ValueError: a name that no file can have
        raise ImageError(
            getattr(error, "strerror", None) or f"it is broken: {plain(error)}"
        ) from None


def plain(error: Exception) -> str:
    """An error's words without places in memory: a reason is the same at every reading."""
    return PLACE.sub("", str(error))


def _broken() -> tuple[type[Exception], ...]:
    """What Pillow raises of files that are absent, cut off or damaged."""
    from PIL import Image

    bomb = Image.DecompressionBombError
    tags = (TypeError, LookupError, ArithmeticError)  # a TIFF's, where a number is of another kind
    return (OSError, SyntaxError, ValueError, EOFError, struct.error, bomb, *tags)


def from_pil(image: "Image.Image") -> Picture:
    """A PIL image's pixels.

    Raises:
        ImageError: it is broken, or of a kind that is refused.
    """
    try:
        _refuse_strange(image)
        notes = list(_unapplied(image))
        image = _upright(image, notes)
        image = _eight_bits(image, notes)
        if image.has_transparency_data:
            image = _on_white(image, notes)
        return Picture(np.asarray(image.convert("RGB")), "; ".join(notes))
    except ImageError:
        raise
    except _broken() as error:
        raise ImageError(f"it is broken: {plain(error)}") from None


def _refuse_strange(image: "Image.Image") -> None:
    """Refuse what no rule is for.

    Raises:
        ImageError: it is; says why.
    """
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise ImageError(f"it is {size}; at most {MAX_PIXELS} pixels are read")
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise ImageError(
            f"it has {frames} frames; save the one that is meant as an image of its own"
        )
    raw = _raw_mode(image)
    if image.mode not in MODES and not _is_grey16(image):
        why = (
            "colours depend on a profile" if image.mode in ("CMYK", "LAB") else "range is not known"
        )
        raise ImageError(f"it has pixels of mode {image.mode}, whose {why}; save it as 8-bit RGB")
    if "transparency" in image.info and (";" in raw or _is_grey16(image)) and image.mode != "P":
        raise ImageError(
            f"it has pixels of mode {raw} with a transparent colour; save it as 8-bit RGBA"
        )


def _raw_mode(image: "Image.Image") -> str:
    """How a file that is not loaded yet keeps its pixels, as `I;12` or `RGB;16B`; the mode where it is not known."""
    tiles = getattr(image, "tile", None) or [("", (), 0, image.mode)]
    how = tiles[0][3]
    return str((how[0] if isinstance(how, tuple) and how else how) or image.mode)


def _is_grey16(image: "Image.Image") -> bool:
    """Whether 0 to 65535 is black to white."""
    if image.mode == "I":  # older versions of Pillow, and PPM with more than 8 bits
        return image.format in ("PNG", "PPM")
    tags = getattr(image, "tag_v2", {})
    inverted = any(tags.get(tag) == value for tag, value in WHITE_IS_ZERO.items())
    return image.mode in GREY16 and ";12" not in _raw_mode(image) and not inverted


def _unapplied(image: "Image.Image") -> Iterator[str]:
    """What a file says of its colours, which is not applied."""
    if ";16" in _raw_mode(image) and image.mode in MODES:
        yield "upper 8 bits of 16-bit colour"
    if profile := image.info.get("icc_profile"):
        name = _profile_name(profile)
        if "srgb" not in name.lower():
            yield f"colour profile {name!r} not applied"
    gamma = image.info.get("gamma")
    if isinstance(gamma, float) and not SRGB_GAMMA[0] <= gamma <= SRGB_GAMMA[1]:
        yield f"gamma {gamma:g} not applied"


def _profile_name(profile: bytes) -> str:
    """What a colour profile calls itself."""
    import io

    from PIL import ImageCms

    try:
        return ImageCms.getProfileDescription(io.BytesIO(profile)).strip()  # pyright: ignore[reportArgumentType]
    except (ImageCms.PyCMSError, OSError, ImportError):
        return "unknown"


def _upright(image: "Image.Image", notes: list[str]) -> "Image.Image":
    """Turned as EXIF says; TIFF's reader does so by itself as it loads."""
    from PIL import ImageOps

    if image.getexif().get(ORIENTATION, 1) not in range(2, 9):
        return image
    notes.append("turned upright by its EXIF orientation")
    return ImageOps.exif_transpose(image)


def _eight_bits(image: "Image.Image", notes: list[str]) -> "Image.Image":
    from PIL import Image

    if image.mode in MODES:
        return image
    notes.append("16-bit grey divided by 257")
    levels = np.asarray(image).astype(np.int64)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _on_white(image: "Image.Image", notes: list[str]) -> "Image.Image":
    from PIL import Image

    whole = image.convert("RGBA")
    if whole.getchannel("A").getextrema()[0] == 255:
        return whole
    notes.append("alpha laid on white")
    white = Image.new("RGBA", whole.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, whole)


# --- arrays and tensors ---------------------------------------------------------------------------


def _from_array(images: np.ndarray) -> Iterator[Picture]:
    """N pictures of an array with the channels last."""
    shape = images.shape
    if images.ndim != 4 or shape[-1] not in (3, 4):
        hint = ""
        if images.ndim == 3 and shape[-1] in (3, 4):
            hint = "; one picture is images[None]"
        elif images.ndim == 4 and shape[1] in (3, 4):
            hint = "; channels come last in an array: images.transpose(0, 2, 3, 1)"
        raise ImageError(f"images of shape {shape}; {EXPECTED}{hint}.")
    if images.dtype.kind == "f":
        images = _rounded(images)
    if images.dtype != np.uint8:
        raise ImageError(f"images of type {images.dtype}; {EXPECTED}.")
    for pixels in images:
        yield Picture(pixels) if shape[-1] == 3 else _from_rgba(pixels)


def _from_rgba(pixels: np.ndarray) -> Picture:
    if int(pixels[..., 3].min(initial=255)) == 255:
        return Picture(np.ascontiguousarray(pixels[..., :3]))
    from PIL import Image

    return from_pil(Image.fromarray(np.ascontiguousarray(pixels)))


def _rounded(images: np.ndarray) -> np.ndarray:
    if images.size:
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            remedy = " pixels of [-1, 1] are images / 2 + 0.5" if low >= -1 and high <= 1 else ""
            raise ImageError(f"float images from {low:g} to {high:g}; expected [0, 1].{remedy}")
    return np.rint(images.astype(np.float32) * np.float32(255)).astype(np.uint8)


def _is_tensor(images: Any) -> bool:
    return type(images).__module__.partition(".")[0] == "torch" and hasattr(images, "detach")


def _channels_last(images: Any) -> np.ndarray:
    """A tensor (N, C, H, W) as an array (N, H, W, C)."""
    if images.ndim != 4 or images.shape[1] not in (3, 4):
        last = images.ndim == 4 and images.shape[-1] in (3, 4)
        hint = "; channels come first in a tensor: images.permute(0, 3, 1, 2)" if last else ""
        raise ImageError(f"a tensor of shape {tuple(images.shape)}; expected (N, 3, H, W){hint}.")
    images = images.detach().cpu()
    if images.dtype.is_floating_point:
        images = images.float()
    return images.permute(0, 2, 3, 1).numpy()


def groups_of_one_size(pictures: Sequence[Picture]) -> list[list[int]]:
    """Places of the pictures, those of one size together, in the order in which sizes come."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, picture in enumerate(pictures):
        groups.setdefault(picture.pixels.shape, []).append(place)
    return list(groups.values())
