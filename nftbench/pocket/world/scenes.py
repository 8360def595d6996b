"""The pocket world: anti-aliased 64x64 scenes with exact captions in GenEval's phrasing.

A scene is drawn from a `numpy` generator, so that a number names it for ever. Captions that `held_out` picks are
never trained on; the pocket benchmarks ask exactly those.
"""

import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

import numpy as np

SIZE = 64
"""Side of a scene in pixels."""
HELD_OUT_SALT = 69
"""Chosen so that ten of the 24 counting captions are held out, three or four of each number."""

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
    text = (files("nftbench.pocket.world") / "words.txt").read_text(encoding="utf-8")
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
