"""What counts as pixels: the one rule by which a picture of any kind becomes uint8 RGB, or is refused in one line.

| given | rule |
|---|---|
| uint8 arrays (N, H, W, 3) | taken as they are |
| float arrays (N, H, W, 3) in [0, 1] | round(255 x), halves to even, as diffusers' pipelines do |
| torch tensors (N, 3, H, W) | the same two rules; channels come first |
| 4 channels | alpha is dropped where every pixel is opaque; refused where one is not |
| PIL images, paths | turned as EXIF says, widened to RGB; 16-bit, float, CMYK, animated ones are refused |
| lists of the above | one by one, so that sizes may differ |
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.base import ConfigError

if TYPE_CHECKING:
    from PIL import Image

MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
"""Of Pillow: 8 bits a channel at most, and no colour space but RGB's."""
EXPECTED = "expected uint8 or float in [0, 1], (N, H, W, 3)"


def as_pictures(images: Any) -> list[np.ndarray]:
    """Pictures of any kind as uint8 RGB (H, W, 3) each: see the table above.

    Args:
        images: an array or tensor of N pictures; or a list of arrays (H, W, 3), tensors (3, H, W), PIL images or paths;
            or one PIL image or path.

    Raises:
        ConfigError: a picture of another shape, type or range; says which, what was expected, and what to do.
    """
    if isinstance(images, np.ndarray):
        return list(_from_array(images))
    if _is_tensor(images):
        return list(_from_array(_channels_last(images)))
    if isinstance(images, str | Path) or _is_pil(images):
        images = [images]
    if not isinstance(images, Iterable):
        raise ConfigError(f"images of type {type(images).__name__}; {EXPECTED}.")
    return [_one(image, place) for place, image in enumerate(images)]


def _one(image: Any, place: int) -> np.ndarray:
    try:
        if isinstance(image, str | Path):
            return from_file(Path(image))
        if _is_pil(image):
            return from_pil(image)
        if _is_tensor(image):
            image = _channels_last(image[None])[0]
        if not isinstance(image, np.ndarray):
            raise ConfigError(f"it is of type {type(image).__name__}; {EXPECTED}.")
        return _from_array(image[None])[0]
    except ConfigError as error:
        raise ConfigError(f"image {place}: {error}") from None


def _is_pil(image: Any) -> bool:
    """Whether it is a PIL image; nobody has one before PIL is imported."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)


def from_file(path: Path) -> np.ndarray:
    """An image file as uint8 RGB (H, W, 3).

    Raises:
        ConfigError: it is absent, broken, no image, or of a kind that is refused.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return from_pil(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read as an image: {reason}.") from None


def from_pil(image: "Image.Image") -> np.ndarray:
    """A PIL image as uint8 RGB (H, W, 3).

    Raises:
        ConfigError: it is animated, of a mode that has no rule, or has a pixel that is not opaque.
        OSError: its file is broken.
    """
    from PIL import ImageOps

    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ConfigError(f"it is animated, {frames} frames; save the one that is meant.")
    if image.mode not in MODES:
        raise ConfigError(
            f"its mode is {image.mode!r}, which would lose range or colours; convert it to 8-bit RGB yourself."
        )
    image = ImageOps.exif_transpose(image)
    if "A" in image.mode or "transparency" in image.info:
        return _opaque(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _from_array(images: np.ndarray) -> np.ndarray:
    """uint8 RGB (N, H, W, 3) of an array with the channels last."""
    shape = images.shape
    if images.ndim != 4 or shape[-1] not in (3, 4):
        hint = ""
        if images.ndim == 3 and shape[-1] in (3, 4):
            hint = "; one picture is images[None]"
        elif images.ndim == 4 and shape[1] in (3, 4):
            hint = "; channels come last in an array: images.transpose(0, 2, 3, 1)"
        raise ConfigError(f"images of shape {shape}; {EXPECTED}{hint}.")
    if images.dtype.kind == "f":
        images = _rounded(images)
    if images.dtype != np.uint8:
        raise ConfigError(f"images of type {images.dtype}; {EXPECTED}.")
    return _opaque(images) if shape[-1] == 4 else images


def _rounded(images: np.ndarray) -> np.ndarray:
    if images.size:
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            remedy = " pixels of [-1, 1] are images / 2 + 0.5" if low >= -1 and high <= 1 else ""
            raise ConfigError(f"float images from {low:g} to {high:g}; expected [0, 1].{remedy}")
    return np.rint(images.astype(np.float32) * np.float32(255)).astype(np.uint8)


def _opaque(images: np.ndarray) -> np.ndarray:
    """RGB of RGBA.

    Raises:
        ConfigError: a pixel is not opaque, so that its colour depends on what lies behind it.
    """
    least = int(images[..., 3].min(initial=255))
    if least < 255:
        raise ConfigError(
            f"alpha is {least} somewhere; lay transparent pictures over a ground yourself."
        )
    return np.ascontiguousarray(images[..., :3])


def _is_tensor(images: Any) -> bool:
    return type(images).__module__.partition(".")[0] == "torch" and hasattr(images, "detach")


def _channels_last(images: Any) -> np.ndarray:
    """A tensor (N, C, H, W) as an array (N, H, W, C)."""
    if images.ndim != 4 or images.shape[1] not in (3, 4):
        last = images.ndim == 4 and images.shape[-1] in (3, 4)
        hint = "; channels come first in a tensor: images.permute(0, 3, 1, 2)" if last else ""
        raise ConfigError(f"a tensor of shape {tuple(images.shape)}; expected (N, 3, H, W){hint}.")
    images = images.detach().cpu()
    if images.dtype.is_floating_point:
        images = images.float()
    return images.permute(0, 2, 3, 1).numpy()


def groups_of_one_size(pictures: Sequence[np.ndarray]) -> list[list[int]]:
    """Places of the pictures, those of one size together, in the order in which sizes come."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, picture in enumerate(pictures):
        groups.setdefault(picture.shape, []).append(place)
    return list(groups.values())
