"""What is true of a scene, and scenes of which it is almost true."""

from dataclasses import replace
from itertools import permutations

import numpy as np

from nftbench.pocket.world.scenes import (
    COLORS,
    NUMBERS,
    RELATIONS,
    SHAPES,
    SIZE,
    Scene,
    Thing,
    article,
    plural,
    sign_caption,
)

CROP_TEMPLATES = (
    "a photo of a {color} {shape}",
    "a photo of a {color}-colored {shape}",
    "a photo of a {color} object",
)
"""How the colour check of GenEval speaks of a crop; it writes `a orange`.

The world's tokenizer has no hyphen and takes it for the end of the text: what follows is not read.
"""


def true_captions(scene: Scene) -> dict[str, set[str]]:
    """Every caption of the world that fits a scene, by task."""
    if scene.words:
        return {"sign": {sign_caption(scene.words)}}
    first, *others = scene.things
    if not others:
        noun = f"{first.color} {first.shape}"
        texts = {"single_object": article(first.shape), "colors": article(noun)}
        return {tag: {f"a photo of {text}"} for tag, text in texts.items()}
    if len({t.shape for t in scene.things}) == 1:
        return {"counting": {f"a photo of {NUMBERS[len(scene.things)]} {plural(first.shape)}"}}
    return _of_pairs(scene.things)


def _of_pairs(things: tuple[Thing, ...]) -> dict[str, set[str]]:
    captions: dict[str, set[str]] = {"two_object": set(), "position": set(), "color_attr": set()}
    for a, b in permutations(things, 2):
        captions["two_object"].add(f"a photo of {article(a.shape)} and {article(b.shape)}")
        nouns = [article(f"{t.color} {t.shape}") for t in (a, b)]
        captions["color_attr"].add(f"a photo of {nouns[0]} and {nouns[1]}")
        for relation in _relations(a, b):
            captions["position"].add(f"a photo of {article(a.shape)} {relation} {article(b.shape)}")
    return captions


def _relations(a: Thing, b: Thing) -> list[str]:
    """Directions of a seen from b that hold within about 30 degrees, as the scenes are drawn."""
    offset = np.array([a.x - b.x, a.y - b.y])
    along = {name: offset @ axis / np.linalg.norm(offset) for name, axis in RELATIONS.items()}
    return [name for name, value in along.items() if value > 0.85]


def all_true(scene: Scene) -> set[str]:
    """Every caption that fits a scene, whatever its task."""
    return set().union(*true_captions(scene).values())


def near_miss(rng: np.random.Generator, scene: Scene) -> Scene:
    """A scene with one other fact, under a caption of the same task that does not fit `scene`."""
    fitting = all_true(scene)
    while True:
        missed = _misspelt(rng, scene) if scene.words else _changed(rng, scene)
        wrong = sorted(true_captions(missed).get(scene.tag, set()) - fitting)
        if wrong:
            return replace(missed, caption=str(rng.choice(wrong)))


def _changed(rng: np.random.Generator, scene: Scene) -> Scene:
    """One shape, colour, place or number is another."""
    things = list(scene.things)
    index = int(rng.integers(len(things)))
    match rng.choice(("shape", "color", "swap colors", "swap places", "number")):
        case "shape" if scene.tag == "counting":
            shape = str(rng.choice(SHAPES))
            things = [replace(t, shape=shape) for t in things]
        case "shape":
            things[index] = replace(things[index], shape=str(rng.choice(SHAPES)))
        case "color":
            things[index] = replace(things[index], color=str(rng.choice(list(COLORS))))
        case "swap colors":
            pairs = zip(things, things[::-1], strict=True)
            things = [replace(t, color=o.color) for t, o in pairs]
        case "swap places":
            pairs = zip(things, things[::-1], strict=True)
            things = [replace(t, x=o.x, y=o.y, size=o.size) for t, o in pairs]
        case "number":
            things = _renumbered(rng, things) if scene.tag == "counting" else things
    return replace(scene, things=tuple(things))


def _renumbered(rng: np.random.Generator, things: list[Thing]) -> list[Thing]:
    """One thing fewer, or one more where there is room."""
    if len(things) > 2 and rng.random() < 0.5:
        return things[:-1]
    for _ in range(20):
        x, y = rng.uniform(10, SIZE - 10, 2)
        size = min(t.size for t in things)
        if len(things) < 4 and all(
            np.hypot(x - t.x, y - t.y) > 0.56 * (size + t.size) + 2 for t in things
        ):
            return [*things, replace(things[0], x=float(x), y=float(y), size=size)]
    return things


def _misspelt(rng: np.random.Generator, scene: Scene) -> Scene:
    """One letter is another, or two neighbours change places."""
    words = list(scene.words)
    index = int(rng.integers(len(words)))
    letters = list(words[index])
    place = int(rng.integers(len(letters)))
    if rng.random() < 0.7:
        letters[place] = chr(ord("A") + int(rng.integers(26)))
    else:
        letters[place - 1], letters[place] = letters[place], letters[place - 1]
    words[index] = "".join(letters)
    return replace(scene, words=tuple(words))


def of_crop(thing: Thing) -> set[str]:
    """Every caption that fits the crop of one object."""
    fitting = {t.format(color=thing.color, shape=thing.shape) for t in CROP_TEMPLATES}
    fitting |= {f"a photo of a {thing.color}-colored {shape}" for shape in SHAPES}
    return fitting | all_true(Scene("colors", "", (thing,)))


def crop_captions(rng: np.random.Generator, thing: Thing) -> tuple[str, str]:
    """A caption of the colour check that fits an object's crop, and one that does not."""
    template = str(rng.choice(CROP_TEMPLATES))
    fitting = of_crop(thing)
    while True:
        other = replace(thing, color=str(rng.choice([*COLORS, "white"])))
        if rng.random() < 0.3:
            other = replace(thing, shape=str(rng.choice(SHAPES)))
        wrong = template.format(color=other.color, shape=other.shape)
        if wrong not in fitting:
            return template.format(color=thing.color, shape=thing.shape), wrong
