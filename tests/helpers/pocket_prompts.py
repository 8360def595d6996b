"""The prompts of the pocket benchmarks, which training never sees (`scenes.held_out`), and those to train on.

The files under `benchmarks/prompts/` are what these functions give; a test compares them.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from nftbench.pocket.world.scenes import (
    COLORS,
    NUMBERS,
    RELATIONS,
    SHAPES,
    article,
    held_out,
    plural,
    sign_caption,
    words,
)

PER_TASK = 28
"""Prompts of a task, where there are so many held-out captions."""
SIGNS = 72
TRAINING_PER_TASK = 60
"""Lines of a task to train on: an even draw meets each task as often, as GenEval's overall figure weighs them."""
WIDE = 600
"""Captions of a task to train on where every caption stands once."""


def geneval_lines() -> list[str]:
    """JSON lines in GenEval's metadata format, task by task.

    All eight single objects were trained on, as GenEval's are; everything else is a held-out composition.
    """
    rng = np.random.default_rng(2509)
    lines = [_line(i, record) for i, record in enumerate(_singles())]
    for records in (_two_objects(), _countings(), _colors(), _positions(), _color_attributes()):
        asked = [r for r in records if held_out(r["prompt"])]
        chosen = sorted(rng.permutation(len(asked))[:PER_TASK])
        lines += [_line(len(lines) + i, asked[j]) for i, j in enumerate(chosen)]
    return lines


def sign_lines() -> list[str]:
    """One-word sign captions, held-out words only."""
    asked = [sign_caption((w,)) for w in words() if held_out(sign_caption((w,)))]
    chosen = sorted(np.random.default_rng(2509).permutation(len(asked))[:SIGNS])
    return [asked[i] for i in chosen]


def training_geneval_lines() -> list[str]:
    """JSON lines to train on in GenEval's metadata format, as many of every task; ids begin with `t`.

    No caption is held out, except that the eight single objects are asked as well, as GenEval's are. A task with
    fewer captions repeats them under other ids: noise is seeded by the id, so a repeated line asks for new images.
    """
    rng = np.random.default_rng(2509)
    chosen = _spread(rng, list(_singles()))
    for records in (_two_objects(), _countings(), _colors(), _positions(), _color_attributes()):
        chosen += _spread(rng, [r for r in records if not held_out(r["prompt"])])
    return [_line(i, record, "t") for i, record in enumerate(chosen)]


def wide_training_geneval_lines() -> list[str]:
    """JSON lines to train on, every caption once, of a task at most `WIDE`; ids begin with `w`.

    All captions that are not held out and the eight single objects, but of colour attributes' 2,604 only `WIDE`.
    """
    return [_line(i, record, "w") for i, record in enumerate(_each_once(WIDE))]


def all_training_geneval_lines() -> list[str]:
    """JSON lines to train on, every caption that is not held out once, and the eight single objects; ids: `a`."""
    return [_line(i, record, "a") for i, record in enumerate(_each_once(None))]


def _each_once(most: int | None) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(2509)
    yield from _singles()
    for records in (_two_objects(), _countings(), _colors(), _positions(), _color_attributes()):
        allowed = [r for r in records if not held_out(r["prompt"])]
        yield from (allowed[i] for i in sorted(rng.permutation(len(allowed))[:most]))


def training_sign_lines() -> list[str]:
    """All one-word sign captions that are not held out, in the word list's order."""
    captions = [sign_caption((w,)) for w in words()]
    return [caption for caption in captions if not held_out(caption)]


def _spread(rng: np.random.Generator, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A task's training lines, of which no caption has two more than another."""
    order = rng.permutation(len(records))
    chosen = sorted(order[i % len(records)] for i in range(TRAINING_PER_TASK))
    return [records[i] for i in chosen]


def _line(number: int, record: dict[str, Any], prefix: str = "") -> str:
    return json.dumps({"id": f"{prefix}{number:04d}"} | record)


def _record(tag: str, prompt: str, include: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"tag": tag, "prompt": prompt, "include": include} | more


def _singles():
    for shape in SHAPES:
        yield _record(
            "single_object", f"a photo of {article(shape)}", [{"class": shape, "count": 1}]
        )


def _two_objects():
    for a, b in itertools.permutations(SHAPES, 2):
        include = [{"class": a, "count": 1}, {"class": b, "count": 1}]
        yield _record("two_object", f"a photo of {article(a)} and {article(b)}", include)


def _countings():
    for shape, (count, number) in itertools.product(SHAPES, NUMBERS.items()):
        yield _record(
            "counting",
            f"a photo of {number} {plural(shape)}",
            [{"class": shape, "count": count}],
            exclude=[{"class": shape, "count": count + 1}],
        )


def _colors():
    for shape, color in itertools.product(SHAPES, COLORS):
        include = [{"class": shape, "count": 1, "color": color}]
        yield _record("colors", f"a photo of {article(color)} {shape}", include)


def _positions():
    for (a, b), relation in itertools.product(itertools.permutations(SHAPES, 2), RELATIONS):
        include = [{"class": b, "count": 1}, {"class": a, "count": 1, "position": [relation, 0]}]
        yield _record("position", f"a photo of {article(a)} {relation} {article(b)}", include)


def _color_attributes():
    for (a, b), (c, d) in itertools.product(
        itertools.permutations(SHAPES, 2), itertools.permutations(COLORS, 2)
    ):
        include = [{"class": a, "count": 1, "color": c}, {"class": b, "count": 1, "color": d}]
        yield _record("color_attr", f"a photo of {article(c)} {a} and {article(d)} {b}", include)
