"""Pixels of the pocket world's scenes: anti-aliased shapes and signs on light grounds."""

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nftbench.pocket.world.scenes import COLORS, SIZE, Scene, Thing

SUPERSAMPLE = 4
"""Shapes and letters are drawn this much larger and box-filtered down: anti-aliased edges."""
GROUNDS = ((242, 242, 240), (228, 232, 238), (240, 232, 220), (222, 234, 224), (212, 214, 218))
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")
BOARDS = ((255, 255, 255), (250, 244, 224), (250, 226, 120), (206, 230, 250))
INKS = ((20, 20, 24), (150, 20, 24), (20, 50, 140), (14, 96, 44))


def render(scene: Scene) -> np.ndarray:
    """The scene's picture, uint8 RGB (64, 64, 3)."""
    rng = np.random.default_rng(scene.style)
    pixels = _ground(rng)
    if scene.words:
        pixels = _draw_sign(rng, pixels, scene.words)
    for thing in scene.things:
        color = np.clip(np.array(COLORS[thing.color]) + rng.uniform(-9, 9, 3), 0, 255)
        pixels = _over(pixels, color, thing_alpha(thing))
    return pixels.round().clip(0, 255).astype(np.uint8)


def _over(pixels: np.ndarray, color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return pixels + (color - pixels) * alpha[..., None]


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Plain, shaded from top to bottom, or parted by a horizon; always light."""
    top = np.array(GROUNDS[rng.integers(len(GROUNDS))]) + rng.uniform(-5, 5, 3)
    kind = rng.integers(3)
    shade = 1 - rng.uniform(0.04, 0.12)
    ramp = np.linspace(0, 1, SIZE)[:, None]
    if kind == 0:
        ramp = np.zeros_like(ramp)
    if kind == 2:
        ramp = np.clip((np.arange(SIZE)[:, None] - rng.integers(30, 52)) + 0.5, 0, 1)
    rows = top * (1 + (shade - 1) * ramp)
    return np.repeat(rows[:, None, :], SIZE, axis=1)


def thing_alpha(thing: Thing) -> np.ndarray:
    """Coverage of each pixel by a thing, float (64, 64) in [0, 1]."""
    half = int(np.ceil(thing.size * 0.75)) + 1
    x0, y0 = int(np.floor(thing.x)) - half, int(np.floor(thing.y)) - half
    side = 2 * half
    canvas = Image.new("L", (side * SUPERSAMPLE, side * SUPERSAMPLE))
    centre = ((thing.x - x0) * SUPERSAMPLE, (thing.y - y0) * SUPERSAMPLE)
    _DRAW_SHAPE[thing.shape](
        ImageDraw.Draw(canvas), centre, thing.size * SUPERSAMPLE / 2, np.deg2rad(thing.angle)
    )
    patch = np.asarray(canvas.reduce(SUPERSAMPLE), dtype=np.float64) / 255
    alpha = np.zeros((SIZE + 4 * half,) * 2)
    alpha[y0 + 2 * half : y0 + 2 * half + side, x0 + 2 * half : x0 + 2 * half + side] = patch
    return alpha[2 * half : 2 * half + SIZE, 2 * half : 2 * half + SIZE]


def _polygon(
    draw, centre, radius: float, angle: float, points: np.ndarray, fill: int = 255
) -> None:
    """Draw unit-circle `points` (N, 2) scaled by `radius`, turned by `angle` (radians)."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    draw.polygon([tuple(p) for p in points @ turn.T * radius + np.array(centre)], fill=fill)


def _ngon(count: int, start: float = -np.pi / 2) -> np.ndarray:
    turns = start + np.arange(count) * 2 * np.pi / count
    return np.stack([np.cos(turns), np.sin(turns)], 1)


_CIRCLE = _ngon(48)
_SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.86
_TRIANGLE = np.array([[0, -1.0], [1.0, 0.82], [-1.0, 0.82]])
_STAR = np.stack([_ngon(5), _ngon(5, -np.pi / 2 + np.pi / 5) * 0.42], 1).reshape(-1, 2) * 1.12
_CROSS = (
    np.array(
        [
            [-1, -3],
            [1, -3],
            [1, -1],
            [3, -1],
            [3, 1],
            [1, 1],
            [1, 3],
            [-1, 3],
            [-1, 1],
            [-3, 1],
            [-3, -1],
            [-1, -1],
        ]
    )
    / 3
)
_T = np.linspace(0, 2 * np.pi, 60, endpoint=False)
_HEART = (
    np.stack(
        [
            16 * np.sin(_T) ** 3,
            -(13 * np.cos(_T) - 5 * np.cos(2 * _T) - 2 * np.cos(3 * _T) - np.cos(4 * _T)),
        ],
        1,
    )
    / 16.5
)


def _draw_moon(draw, centre, radius, angle) -> None:
    _polygon(draw, centre, radius, angle, _CIRCLE * 1.05)
    _polygon(draw, centre, radius, angle, _CIRCLE * 0.88 + np.array([0.52, -0.12]), fill=0)


def _draw_ring(draw, centre, radius, angle) -> None:
    _polygon(draw, centre, radius, angle, _CIRCLE * 1.05)
    _polygon(draw, centre, radius, angle, _CIRCLE * 0.58, fill=0)


def _plain(points: np.ndarray):
    return lambda draw, centre, radius, angle: _polygon(draw, centre, radius, angle, points)


_DRAW_SHAPE = {
    "circle": _plain(_CIRCLE),
    "square": _plain(_SQUARE),
    "triangle": _plain(_TRIANGLE),
    "star": _plain(_STAR),
    "heart": _plain(_HEART),
    "cross": _plain(_CROSS),
    "moon": _draw_moon,
    "ring": _draw_ring,
}


@lru_cache(maxsize=256)
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    # matplotlib's wheel carries the DejaVu fonts: the same letters on every machine.
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), pixels
    )


def _draw_sign(
    rng: np.random.Generator, pixels: np.ndarray, sign_words: tuple[str, ...]
) -> np.ndarray:
    board = np.array(BOARDS[rng.integers(len(BOARDS))]) + rng.uniform(-6, 0, 3)
    ink = np.array(INKS[rng.integers(len(INKS))]) + rng.uniform(-8, 8, 3)
    if rng.random() < 0.2:
        board, ink = ink, board
    name, width = FONTS[rng.integers(len(FONTS))], rng.uniform(44, 54)
    fonts = _fit(name, sign_words, width)
    boxes = [f.getbbox(w) for f, w in zip(fonts, sign_words, strict=True)]
    heights = [(b[3] - b[1]) / SUPERSAMPLE for b in boxes]
    total = sum(heights) + 5 * (len(sign_words) - 1)
    top = (SIZE - total) / 2 + rng.uniform(-6, 6)
    letters = Image.new("L", (SIZE * SUPERSAMPLE, SIZE * SUPERSAMPLE))
    plate = Image.new("L", (SIZE * SUPERSAMPLE, SIZE * SUPERSAMPLE))
    panel = np.array([3, top - 6, SIZE - 3, top + total + 6]) * SUPERSAMPLE
    ImageDraw.Draw(plate).rounded_rectangle(tuple(panel), radius=4 * SUPERSAMPLE, fill=255)
    y = top
    for font, word, box, height in zip(fonts, sign_words, boxes, heights, strict=True):
        x = SIZE * SUPERSAMPLE / 2 - (box[0] + box[2]) / 2
        ImageDraw.Draw(letters).text((x, y * SUPERSAMPLE - box[1]), word, fill=255, font=font)
        y += height + 5
    for mask, color in ((plate, board), (letters, ink)):
        pixels = _over(pixels, color, np.asarray(mask.reduce(SUPERSAMPLE), dtype=np.float64) / 255)
    return pixels


def _fit(name: str, sign_words: tuple[str, ...], width: float) -> list[ImageFont.FreeTypeFont]:
    """One font size for all words, as large as the width (and 20 pixels of letter height) allows."""
    trial = _font(name, 100)
    widest = max(trial.getlength(w) for w in sign_words)
    pixels = min(100 * width * SUPERSAMPLE / widest, 26 * SUPERSAMPLE)
    return [_font(name, int(pixels))] * len(sign_words)
