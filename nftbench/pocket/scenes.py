"""The pocket world: anti-aliased 64x64 scenes with exact captions in GenEval's phrasing.

A scene is drawn from a `numpy` generator, so that a number names it for ever. Captions that `held_out` picks are
never trained on; the pocket benchmarks ask exactly those.
"""

import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 64
"""Side of a scene in pixels."""
HELD_OUT_SALT = 69
"""Chosen so that ten of the 24 counting captions are held out, three or four of each number."""
SUPERSAMPLE = 4
"""Shapes and letters are drawn this much larger and box-filtered down: anti-aliased edges."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "moon", "cross", "ring")
COLORS = {
    "red": (218, 38, 38),
    "orange": (246, 138, 24),
    "yellow": (246, 214, 38),
    "green": (38, 158, 68),
    "blue": (38, 88, 222),
    "purple": (128, 52, 182),
    "pink": (246, 128, 190),
    "brown": (128, 78, 38),
    "black": (28, 28, 30),
}
"""GenEval's ten colours without white, which the light grounds would swallow. RGB, 0-255."""
GROUNDS = ((242, 242, 240), (228, 232, 238), (240, 232, 220), (222, 234, 224), (212, 214, 218))
NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Direction of the first object seen from the second, in image axes (y down)."""
TASK_WEIGHTS = {
    "single_object": 0.06,
    "two_object": 0.13,
    "counting": 0.14,
    "colors": 0.10,
    "position": 0.17,
    "color_attr": 0.14,
    "sign": 0.26,
}
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")
BOARDS = ((255, 255, 255), (250, 244, 224), (250, 226, 120), (206, 230, 250))
INKS = ((20, 20, 24), (150, 20, 24), (20, 50, 140), (14, 96, 44))


@dataclass(frozen=True)
class Thing:
    """One object: centre (x, y) and size in pixels, angle in degrees."""

    shape: str
    color: str
    x: float
    y: float
    size: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows: GenEval's tag (or `sign`), the exact caption, the things or the words."""

    tag: str
    caption: str
    things: tuple[Thing, ...] = ()
    words: tuple[str, ...] = ()
    style: int = field(default=0, compare=False)
    """Seed of all that the caption does not tell: ground, tints, font."""


def held_out(caption: str) -> bool:
    """Whether a caption belongs to the pocket benchmarks (about one in three) and is never trained on.

    Captions of the same words in another order (a pair named the other way round, colours swapped) go together.
    """
    return zlib.crc32(" ".join(sorted(caption.split())).encode(), HELD_OUT_SALT) % 3 == 0


@lru_cache(maxsize=1)
def words() -> tuple[str, ...]:
    """Sign words of three to six letters, in capitals."""
    text = (files("nftbench.pocket") / "words.txt").read_text(encoding="utf-8")
    return tuple(w.upper() for w in text.split() if 3 <= len(w) <= 6)


def article(noun: str) -> str:
    """The noun with `a` or `an`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(shape: str) -> str:
    """Plural of a shape's name."""
    return shape + ("es" if shape.endswith("s") else "s")


def sign_caption(sign_words: tuple[str, ...]) -> str:
    """Caption of a sign."""
    return f'a sign that says "{" ".join(sign_words)}"'


# --- drawing a scene's contents -----------------------------------------------------------------------------------


def random_scene(rng: np.random.Generator, tag: str | None = None) -> Scene:
    """A training scene: its caption is never one of `held_out`.

    Args:
        rng: the only source of chance.
        tag: one of `TASK_WEIGHTS`; drawn by weight when None.
    """
    tag = tag or str(rng.choice(list(TASK_WEIGHTS), p=list(TASK_WEIGHTS.values())))
    while True:
        scene = draw_scene(rng, tag)
        if tag == "single_object" or not held_out(scene.caption):
            return scene


def draw_scene(rng: np.random.Generator, tag: str) -> Scene:
    """A scene of one task, held-out captions included."""
    return _DRAW[tag](rng)


def _style(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _place(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Places (x, y, size) for `count` things that do not touch; smaller where they are many."""
    low, high = {1: (20, 40), 2: (17, 27), 3: (14, 21), 4: (13, 18)}[count]
    while True:
        sizes = rng.uniform(low, high, count)
        xs, ys = (rng.uniform(sizes / 2 + 2, SIZE - 2 - sizes / 2) for _ in range(2))
        places = list(zip(xs, ys, sizes, strict=True))
        if all(_apart(places[i], places[j]) for i in range(count) for j in range(i)):
            return places


def _apart(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    return float(np.hypot(a[0] - b[0], a[1] - b[1])) > 0.56 * (a[2] + b[2]) + 2


def make_things(
    rng: np.random.Generator,
    shapes: list[str],
    colors: list[str],
    places: list[tuple[float, float, float]] | None = None,
) -> tuple[Thing, ...]:
    """Things of given shapes and colours at given places (x, y, size), or at random ones."""
    places = places or _place(rng, len(shapes))
    angles = rng.uniform(-10, 10, len(shapes))
    return tuple(
        Thing(s, c, float(x), float(y), float(z), float(a))
        for s, c, (x, y, z), a in zip(shapes, colors, places, angles, strict=True)
    )


def random_colors(rng: np.random.Generator, count: int) -> list[str]:
    """`count` colours of the world."""
    return [str(c) for c in rng.choice(list(COLORS), count)]


def _single(rng: np.random.Generator) -> Scene:
    shape = str(rng.choice(SHAPES))
    return Scene(
        "single_object",
        f"a photo of {article(shape)}",
        make_things(rng, [shape], random_colors(rng, 1)),
        style=_style(rng),
    )


def _two(rng: np.random.Generator) -> Scene:
    a, b = (str(s) for s in rng.choice(SHAPES, 2, replace=False))
    caption = f"a photo of {article(a)} and {article(b)}"
    return Scene(
        "two_object", caption, make_things(rng, [a, b], random_colors(rng, 2)), style=_style(rng)
    )


def _counting(rng: np.random.Generator) -> Scene:
    shape, count = str(rng.choice(SHAPES)), int(rng.choice(list(NUMBERS)))
    colors = random_colors(rng, 1) * count if rng.random() < 0.5 else random_colors(rng, count)
    caption = f"a photo of {NUMBERS[count]} {plural(shape)}"
    return Scene("counting", caption, make_things(rng, [shape] * count, colors), style=_style(rng))


def _one_color(rng: np.random.Generator) -> Scene:
    shape, color = str(rng.choice(SHAPES)), str(rng.choice(list(COLORS)))
    caption = f"a photo of {article(color)} {shape}"
    return Scene("colors", caption, make_things(rng, [shape], [color]), style=_style(rng))


def _position(rng: np.random.Generator) -> Scene:
    a, b = (str(s) for s in rng.choice(SHAPES, 2, replace=False))
    relation = str(rng.choice(list(RELATIONS)))
    caption = f"a photo of {article(a)} {relation} {article(b)}"
    while True:
        places = _place(rng, 2)
        dx, dy = places[0][0] - places[1][0], places[0][1] - places[1][1]
        along = (dx * RELATIONS[relation][0] + dy * RELATIONS[relation][1]) / np.hypot(dx, dy)
        if along > 0.85:  # within about 30 degrees of the axis: no second relation can hold
            return Scene(
                "position",
                caption,
                make_things(rng, [a, b], random_colors(rng, 2), places),
                style=_style(rng),
            )


def _color_attr(rng: np.random.Generator) -> Scene:
    a, b = (str(s) for s in rng.choice(SHAPES, 2, replace=False))
    c, d = (str(s) for s in rng.choice(list(COLORS), 2, replace=False))
    caption = f"a photo of {article(c)} {a} and {article(d)} {b}"
    return Scene("color_attr", caption, make_things(rng, [a, b], [c, d]), style=_style(rng))


def _sign(rng: np.random.Generator) -> Scene:
    count = 1 if rng.random() < 0.75 else 2
    chosen = tuple(_word(rng, 6 if count == 1 else 5) for _ in range(count))
    return Scene("sign", sign_caption(chosen), words=chosen, style=_style(rng))


def _word(rng: np.random.Generator, longest: int) -> str:
    """A dictionary word, or (two in five) random letters: spelling must be learnt, not words."""
    while True:
        if rng.random() < 0.4:
            word = "".join(
                rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), int(rng.integers(3, longest + 1)))
            )
        else:
            word = str(rng.choice(words()))
        if len(word) <= longest and not held_out(sign_caption((word,))):
            return word


_DRAW = {
    "single_object": _single,
    "two_object": _two,
    "counting": _counting,
    "colors": _one_color,
    "position": _position,
    "color_attr": _color_attr,
    "sign": _sign,
}


# --- pixels -------------------------------------------------------------------------------------------------------


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
    canvas = Image.new("L", (side * SUPERSAMPLE,) * 2)
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
    letters = Image.new("L", (SIZE * SUPERSAMPLE,) * 2)
    plate = Image.new("L", (SIZE * SUPERSAMPLE,) * 2)
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
