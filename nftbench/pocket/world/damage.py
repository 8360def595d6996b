"""What a weak diffusion model draws instead of objects: soft, bent, ghostly and half-formed things.

`soften` keeps every object tellable, and the detector must still find it; after `ruin` and `spoil`
they must not. All chance comes from the generator that is handed over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Generator, Tensor
from torch.nn import functional as F

from nftbench.pocket.world import drawing
from nftbench.pocket.world.scenes import COLORS, SHAPES, SIZE, Scene, Thing

Box = tuple[float, float, float, float]


# --- objects, spoilt one at a time ----------------------------------------------------------------


@dataclass(frozen=True)
class LabelledImage:
    """Pixels and the objects in them that are whole."""

    pixels: np.ndarray
    """uint8 RGB (64, 64, 3)."""
    boxes: tuple[Box, ...]
    """Tight boxes (x1, y1, x2, y2) in pixels; x2, y2 lie just outside."""
    shapes: tuple[str, ...]
    colors: tuple[str, ...]


def tight_box(alpha: np.ndarray) -> Box:
    """Box of the pixels that are at least half covered, (x1, y1, x2, y2), in pixels."""
    rows, columns = (np.flatnonzero((alpha > 0.5).any(axis)) for axis in (1, 0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def picture(scene: Scene) -> LabelledImage:
    """A scene as it is drawn, with the boxes of its objects."""
    boxes = tuple(tight_box(drawing.thing_alpha(t)) for t in scene.things)
    shapes, colors = (tuple(getattr(t, name) for t in scene.things) for name in ("shape", "color"))
    return LabelledImage(drawing.render(scene), boxes, shapes, colors)


def _side(rng: np.random.Generator, thing: Thing, reach: float) -> np.ndarray:
    """Soft half-plane (64, 64) in [0, 1]; its edge is within `reach` radii of the centre."""
    turn, away = rng.uniform(0, 2 * np.pi), rng.uniform(-reach, reach) * thing.size / 2
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    distance = (x - thing.x) * np.cos(turn) + (y - thing.y) * np.sin(turn) - away
    return np.clip(distance / rng.uniform(0.5, 4) + 0.5, 0, 1)


def chimera(rng: np.random.Generator, thing: Thing, alpha: np.ndarray) -> np.ndarray:
    """Half of one shape grown together with half of another."""
    for _ in range(12):
        other = drawing.thing_alpha(replace(thing, shape=str(rng.choice(SHAPES))))
        side = _side(rng, thing, 0.2)
        mixed = alpha * side + other * (1 - side)
        if max(_overlap(mixed, alpha), _overlap(mixed, other)) < 0.8:
            return mixed
    return blob(rng, thing, alpha)


def cut(rng: np.random.Generator, thing: Thing, alpha: np.ndarray) -> np.ndarray:
    """A shape half or more of which is missing (of triangles blobs: a cut one is one still)."""
    if thing.shape == "triangle":
        return blob(rng, thing, alpha)
    for _ in range(12):
        rest = alpha * _side(rng, thing, 0.3)
        if 0.2 < rest.sum() / alpha.sum() < 0.55:
            return rest
    return blob(rng, thing, alpha)


def blob(rng: np.random.Generator, thing: Thing, alpha: np.ndarray) -> np.ndarray:
    """A closed wobbly outline that is none of the shapes."""
    turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    for _ in range(12):
        radius = np.ones_like(turns)
        for order in range(1, 6):
            radius += rng.normal(0, 0.45 / order**0.7) * np.cos(order * turns + rng.uniform(0, 6.3))
        radius = np.clip(radius, 0.15, 2) * thing.size / 2 / radius.max()
        x, y = thing.x + radius * np.cos(turns), thing.y + radius * np.sin(turns)
        drawn = _polygon(np.stack([x, y], 1))
        if max(_overlap(drawn, _fitted(drawn, s)) for s in SHAPES) < 0.78:
            break
    return np.asarray(drawn * rng.uniform(0.7, 1.0))


def ghost(rng: np.random.Generator, thing: Thing, alpha: np.ndarray) -> np.ndarray:
    """A shape that is mostly transparent."""
    return alpha * rng.uniform(0.15, 0.55)


def crumple(rng: np.random.Generator, thing: Thing, alpha: np.ndarray) -> np.ndarray:
    """A shape with bites of the ground in it and crumbs of itself around it."""
    radius = thing.size / 2
    mask = alpha.copy()
    for index in range(int(rng.integers(4, 7))):
        turn, (away, size) = rng.uniform(0, 6.3), rng.uniform((0.4, 0.3), (1.0, 0.5)) * radius
        y, x = np.mgrid[:SIZE, :SIZE] + 0.5
        distance = np.hypot(x - thing.x - away * np.cos(turn), y - thing.y - away * np.sin(turn))
        disc = np.clip((size - distance) / 2 + 0.5, 0, 1)
        mask = np.maximum(mask, disc) if index % 2 else mask * (1 - disc)
    return mask if _overlap(mask, alpha) < 0.75 else blob(rng, thing, alpha)


Spoiler = Callable[[np.random.Generator, Thing, np.ndarray], np.ndarray]
SPOILERS: tuple[Spoiler, ...] = (chimera, cut, blob, ghost, crumple)


def spoil(
    rng: np.random.Generator,
    scene: Scene,
    share: float = 1.0,
    kinds: Sequence[Spoiler] = SPOILERS,
) -> LabelledImage:
    """A scene in which about `share` of the objects are no longer of any class.

    Args:
        rng: the only source of chance.
        scene: what to draw.
        share: probability in [0, 1] that an object is spoilt.
        kinds: ways to spoil it, drawn evenly.
    """
    pixels = drawing.render(replace(scene, things=())).astype(np.float64)
    whole = []
    for thing in scene.things:
        alpha = drawing.thing_alpha(thing)
        if rng.random() < share:
            alpha = kinds[int(rng.integers(len(kinds)))](rng, thing, alpha)
        else:
            whole.append((tight_box(alpha), thing.shape, thing.color))
        color = np.array(COLORS[thing.color]) + rng.uniform(-9, 9, 3)
        pixels += (color - pixels) * alpha[..., None]
    facts = tuple(zip(*whole, strict=True)) if whole else ((), (), ())
    return LabelledImage(pixels.round().clip(0, 255).astype(np.uint8), *facts)


def _polygon(outline: np.ndarray) -> np.ndarray:
    canvas = Image.new("L", (SIZE * 2, SIZE * 2))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in outline * 2], fill=255)
    return np.asarray(canvas.reduce(2), dtype=np.float64) / 255


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two coverages."""
    return float(np.minimum(a, b).sum() / max(np.maximum(a, b).sum(), 1e-6))


def _fitted(alpha: np.ndarray, shape: str) -> np.ndarray:
    """Coverage of `shape` laid over the box of `alpha`."""
    x1, y1, x2, y2 = tight_box(alpha) if (alpha > 0.5).any() else (0, 0, SIZE, SIZE)
    size = max(x2 - x1, y2 - y1)
    return drawing.thing_alpha(Thing(shape, "red", (x1 + x2) / 2, (y1 + y2) / 2, size, 0.0))


# --- whole pictures, in batches -------------------------------------------------------------------


def _uniform(low: float, high: float, count: int, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (B, C, H, W) with one sigma an image, (B,) in pixels > 0."""
    batch, channels, height, width = images.shape
    radius = int(2.5 * sigma.max()) + 1
    x = torch.arange(-radius, radius + 1.0)
    kernel = torch.softmax(-(x**2) / (2 * sigma[:, None] ** 2), 1).repeat_interleave(channels, 0)
    flat = F.pad(images.reshape(1, -1, height, width), (radius,) * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels)
    return F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels).view_as(images)


def bend(images: Tensor, strength: Tensor, grid: int, generator: Generator) -> Tensor:
    """Elastic deformation of (B, C, H, W) by smooth random displacements.

    Args:
        images: (B, C, H, W).
        strength: standard deviation of the displacements, (B,) in pixels.
        grid: number of independent displacements along a side.
        generator: the only source of chance.
    """
    batch, _, height, width = images.shape
    coarse = torch.randn(batch, 2, grid, grid, generator=generator) * strength.view(-1, 1, 1, 1)
    shift = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    identity = F.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False)
    places = identity + shift.permute(0, 2, 3, 1) * 2 / torch.tensor([width, height])
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)


def resample(images: Tensor, side: int) -> Tensor:
    """Down to `side` pixels and up again."""
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, images.shape[-2:], mode="bicubic").clamp(0, 1)


def soften(images: Tensor, generator: Generator) -> Tensor:
    """Slightly soft, noisy, tinted and bent pictures in which every object is still tellable.

    Args:
        images: (B, 3, H, W) in [0, 1].
        generator: the only source of chance.
    """
    count, g = len(images), generator
    images = bend(images, _uniform(0.0, 0.7, count, g), 8, g)
    side = int(torch.randint(38, 64, (), generator=g))
    images = torch.where(_some(0.3, count, g), resample(images, side), images)
    images = blur(images, _uniform(0.05, 1.0, count, g))
    tint = (torch.rand(count, 3, 1, 1, generator=g) - 0.5) * 0.08
    gain = _uniform(0.92, 1.06, count, g).view(-1, 1, 1, 1)
    noise = torch.randn(images.shape, generator=g) * _uniform(0, 0.035, count, g).view(-1, 1, 1, 1)
    return (images * gain + tint + noise).clamp(0, 1)


def _some(share: float, count: int, generator: Generator) -> Tensor:
    return torch.rand(count, 1, 1, 1, generator=generator) < share


def _blurred(images: Tensor, g: Generator) -> Tensor:
    return blur(images, _uniform(3.5, 7, len(images), g))


def _bent(images: Tensor, g: Generator) -> Tensor:
    return bend(images, _uniform(2.8, 5.5, len(images), g), 10, g)


def _melted(images: Tensor, g: Generator) -> Tensor:
    """Columns run down by different lengths, then blur."""
    for _ in range(3):
        images = bend(images, _uniform(2, 3.5, len(images), g), 12, g)
    return blur(images, _uniform(0.3, 2.0, len(images), g))


def _faded(images: Tensor, g: Generator) -> Tensor:
    """Each picture laid over its neighbour in the batch."""
    share = _uniform(0.38, 0.62, len(images), g).view(-1, 1, 1, 1)
    return share * images + (1 - share) * images.roll(1, 0)


def _clouds(images: Tensor, g: Generator) -> Tensor:
    """Smooth random colours, alone or over the blurred picture."""
    side = int(torch.randint(4, 10, (), generator=g))
    coarse = torch.rand(len(images), 3, side, side, generator=g)
    clouds = F.interpolate(coarse, images.shape[-2:], mode="bicubic").clamp(0, 1)
    share = _uniform(0.4, 1, len(images), g).view(-1, 1, 1, 1)
    return share * clouds + (1 - share) * blur(images, torch.full((len(images),), 4.0))


def _smeared(images: Tensor, g: Generator) -> Tensor:
    """Blurred strongly, then bent: blobs of colour with no outline."""
    images = blur(images, _uniform(2.0, 4.0, len(images), g))
    return bend(images, _uniform(3, 5, len(images), g), 9, g)


def _noisy(images: Tensor, g: Generator) -> Tensor:
    """More noise than picture."""
    noise = torch.rand(images.shape, generator=g)
    coarse = F.interpolate(torch.rand(len(images), 3, 32, 32, generator=g), images.shape[-2:])
    noise = torch.where(_some(0.5, len(images), g), noise, coarse)
    share = _uniform(0.75, 1.0, len(images), g).view(-1, 1, 1, 1)
    return share * noise + (1 - share) * images


RUINS: tuple[Callable[[Tensor, Generator], Tensor], ...] = (
    _blurred,
    _bent,
    _melted,
    _faded,
    _clouds,
    _smeared,
    _noisy,
)


def ruin(images: Tensor, generator: Generator, kinds: Sequence = RUINS) -> Tensor:
    """Pictures in which no object is tellable; the batch is parted evenly among `kinds`.

    Args:
        images: (B, 3, H, W) in [0, 1].
        generator: the only source of chance.
        kinds: ways to ruin a picture.
    """
    parts = images.tensor_split(len(kinds))
    ruined = [k(p, generator) for k, p in zip(kinds, parts, strict=True) if len(p)]
    return torch.cat(ruined).clamp(0, 1)


# --- the same damage, more or less of it ----------------------------------------------------------


def degrade(images: Tensor, strength: Tensor, generator: Generator) -> Tensor:
    """Blur, bend, noise, clouds or a second picture, as much as asked; a fifth of the batch each.

    Args:
        images: (B, 3, 64, 64) in [0, 1].
        strength: (B,) in [0, 1]: 0 changes nothing to speak of, 1 leaves no object tellable.
        generator: the only source of chance.
    """
    kinds = (_degrade_blur, _degrade_bend, _degrade_noise, _degrade_clouds, _degrade_fade)
    parts = zip(images.tensor_split(5), strength.tensor_split(5), kinds, strict=True)
    return torch.cat([k(p, s, generator) for p, s, k in parts if len(p)]).clamp(0, 1)


def _degrade_blur(images: Tensor, strength: Tensor, g: Generator) -> Tensor:
    return blur(images, 0.1 + 5 * strength)


def _degrade_bend(images: Tensor, strength: Tensor, g: Generator) -> Tensor:
    return bend(images, 5 * strength, 10, g)


def _degrade_noise(images: Tensor, strength: Tensor, g: Generator) -> Tensor:
    return _mix(images, torch.rand(images.shape, generator=g), 0.8 * strength)


def _degrade_clouds(images: Tensor, strength: Tensor, g: Generator) -> Tensor:
    coarse = torch.rand(len(images), 3, 6, 6, generator=g)
    clouds = F.interpolate(coarse, images.shape[-2:], mode="bicubic").clamp(0, 1)
    return _mix(images, clouds, 0.8 * strength)


def _degrade_fade(images: Tensor, strength: Tensor, g: Generator) -> Tensor:
    return _mix(images, images.roll(1, 0), 0.5 * strength)


def _mix(images: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """`share` (B,) of the others, the rest of the images."""
    return torch.lerp(images, others, share.view(-1, 1, 1, 1))
