"""GenEval's detector against mmdet itself, on weights rebuilt from names.

`tests/extras/golden_mmdet.py` wrote the numbers; `mmdet2` are those of mmdet 2.28.2, the generation of GenEval and of
the published rewards, `mmdet3` those of 3.3.0.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rewards.certify import Check, Checks, compare
from rewards.certify.preprocessing import pictures_of
from rewards.certify.seeded import seeded
from rewards.geneval.convert import to_v3
from rewards.geneval.mask2former import (
    SCALE,
    Mask2FormerDetector,
    Pipeline,
    converted,
    network_input,
    swin_s_config,
)

REFERENCES = {
    "mmdet2": "open-mmlab/mmdetection@v2.28.2 apis/inference.py `inference_detector`",
    "mmdet3": "open-mmlab/mmdetection@v3.3.0 apis/inference.py `inference_detector`",
}
SMALL = ("up100x150", "sq64")
"""Golden pictures; the first one has to be padded."""
APART = 1e-4
"""Objects of one class whose scores are nearer than this are not told apart, so their boxes are not compared."""


LIVELY = {"query_embed": 16.0, "query_feat": 16.0, "level_": 16.0, "cls_embed.weight": 4.0}
"""Part of a name -> how many times `seeded`'s value: embeddings as wide as they are initialised, and classes that
differ, without which all queries would find the same."""


def rebuilt(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """An mmdet state dict.

    Args:
        shapes: mmdet's name -> shape. Values go by mmdet 3's names, whichever the generation.
        seed: see `seeded`.
    """
    weights = (name for name in shapes if not name.endswith("position_index"))
    return {name: _rebuilt(*to_v3({name: shapes[name]}).popitem(), seed) for name in weights}


def _rebuilt(name: str, shape: Sequence[int], seed: int) -> Tensor:
    factor = next((factor for part, factor in LIVELY.items() if part in name), 1.0)
    return factor * seeded(name, shape, seed)


def small_detector(folder: Path, generation: Pipeline) -> Mask2FormerDetector:
    """The small network, converted from the names of one generation, with its preprocessing."""
    facts = _facts(folder, generation)
    model = converted(rebuilt(facts["state"], facts["seed"]), swin_s_config(**facts["config"]))
    return Mask2FormerDetector(model, pipeline=generation, scale=tuple(facts["scale"]), floor=0)


def small(generation: Pipeline, folder: Path) -> Iterator[Check]:
    """Conversion, preprocessing and post-processing on a small network."""
    detector, scale = small_detector(folder, generation), _facts(folder, generation)["scale"]
    pictures = pictures_of(folder)
    for name in SMALL:
        theirs = _arrays(folder, generation, f"small/{name}/")
        yield from _compared(
            detector, pictures[name], theirs, generation, f"{name}, small", tuple(scale)
        )


def full(folder: Path) -> Iterator[Check]:
    """The published network's size on 512x512 pixels; 69 million weights, half a minute."""
    facts = _facts(folder, "mmdet3")
    model = converted(rebuilt(facts["full_state"], facts["seed"]))
    detector = Mask2FormerDetector(model, pipeline="mmdet3", floor=0)
    picture = pictures_of(folder)["sq64"].repeat(8, axis=0).repeat(8, axis=1)
    theirs = _arrays(folder, "mmdet3", "full/sq512/")
    yield from _compared(detector, picture, theirs, "mmdet3", "sq512, Swin-S", SCALE)


def _facts(folder: Path, generation: Pipeline) -> dict[str, Any]:
    return json.loads((folder / f"geneval_{generation}.json").read_text("utf-8"))


def _arrays(folder: Path, generation: Pipeline, start: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"geneval_{generation}.npz") as stored:
        return {k.removeprefix(start): stored[k] for k in stored if k.startswith(start)}


def _compared(
    detector: Mask2FormerDetector,
    picture: np.ndarray,
    theirs: Mapping[str, np.ndarray],
    generation: Pipeline,
    about: str,
    scale: tuple[int, int],
) -> Iterator[Check]:
    """Input, logits and objects of one picture."""
    check = partial(_check, about=f"{generation}, {about}", reference=REFERENCES[generation])
    pixels, _ = network_input(picture, generation, scale)
    if "pixels" in theirs:
        yield check("network input", pixels[0, :, ::7, ::7], theirs["pixels"], 1e-5)
    classes, masks = detector.logits(pixels)
    yield check("class logits", classes[0], theirs["class_logits"], 1e-4)
    step = len(masks[0]) // len(theirs["mask_logits"])
    yield check("mask logits", masks[0, ::step, ::5, ::5], theirs["mask_logits"], 1e-4)
    found = detector.instances(picture)
    order = np.lexsort((found.scores, found.labels))
    yield check("labels", found.labels[order], theirs["labels"], 0)
    yield check("scores", found.scores[order], theirs["scores"], 1e-4)
    alone = apart(theirs["labels"], theirs["scores"])
    yield check("boxes, px", found.boxes[order][alone], theirs["boxes"][alone], 1)
    shares = found.masks[order].flatten(1).sum(1) / found.masks[0].numel()
    wanted = theirs["areas"] / found.masks[0].numel()
    yield check("share of the picture in masks", shares[alone], wanted[alone], 1e-3)


def _check(
    name: str, ours: Any, theirs: np.ndarray, tolerance: float, *, about: str, reference: str
) -> Check:
    return compare(f"{name} ({about})", ours, theirs, tolerance=tolerance, reference=reference)


def apart(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which objects cannot be taken for another one of their class.

    Args:
        labels: (n,), sorted.
        scores: (n,), sorted within a label.

    Returns:
        bool (n,).
    """
    near = (np.diff(scores) < APART) & (np.diff(labels) == 0)
    return ~(np.append(near, False) | np.append(False, near))


CHEAP: dict[str, tuple[Checks, ...]] = {
    f"geneval@{variant}": (partial(small, "mmdet2"), partial(small, "mmdet3"))
    for variant in ("official", "nft", "flowgrpo", "promptrl")
}
"""Seconds each."""
FULL_SIZE: dict[str, tuple[Checks, ...]] = dict.fromkeys(CHEAP, (full,))
CHECKS = {key: CHEAP[key] + FULL_SIZE[key] for key in CHEAP}
