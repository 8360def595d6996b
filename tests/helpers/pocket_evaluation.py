"""What the pocket world's shipped rewards are worth, measured on fresh scenes.

Figures are shares in [0, 1]; the seed names the scenes, none of which any reward was trained on.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from nftbench.pocket import rewards
from nftbench.pocket.train.reward_models import matches
from nftbench.pocket.world import damage, facts, training_data
from nftbench.pocket.world.scenes import COLORS, SHAPES, TASK_WEIGHTS, Scene
from rewards.base import Prompt
from rewards.geneval.colours import Crop, cut_out
from rewards.geneval.detector import Detections

SEED = 90_000_000
TASKS = tuple(tag for tag in TASK_WEIGHTS if tag != "sign")
Figures = dict[str, float]


def to_pixels(images: Tensor) -> np.ndarray:
    """Rounded pixels uint8 RGB (N, H, W, 3) of float (N, 3, H, W) in [0, 1]."""
    return (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def measure(count: int = 200, seed: int = SEED) -> dict[str, Figures]:
    """All figures of all rewards.

    Args:
        count: scenes a task, a kind of damage or a colour.
        seed: names the scenes.
    """
    return {
        "detector": detector(count, seed),
        "mush": mush(count, seed),
        "colors": colors(count, seed),
        "captions": captions(count, seed),
        "damage": clip_damage(count, seed),
        "pickscore": preferences(count, seed),
        "ceiling": ceiling(count, seed),
    }


def detector(count: int, seed: int = SEED) -> Figures:
    """Precision and recall at GenEval's two thresholds, on clean and on softened scenes."""
    rng, generator = np.random.default_rng(seed), Generator().manual_seed(seed)
    drawn = [damage.picture(training_data.any_scene(rng, t)) for t in TASKS for _ in range(count)]
    clean = training_data.to_tensor(drawn)
    told = [training_data.detector_target(p.boxes, p.shapes) for p in drawn]
    figures = {}
    for name, images in (("clean", clean), ("soft", damage.soften(clean, generator))):
        found = rewards.load_detector().detect(to_pixels(images))
        for threshold in (0.3, 0.9):
            precision, recall = _precision_recall(found, told, threshold)
            figures[f"{name} precision > {threshold}"] = precision
            figures[f"{name} recall > {threshold}"] = recall
    return figures


def _precision_recall(
    found: list[Detections], told: list[dict[str, Tensor]], threshold: float
) -> tuple[float, float]:
    kept = [_kept(f, threshold) for f in found]
    right = sum(int(matches(*k, t).sum()) for k, t in zip(kept, told, strict=True))
    return right / sum(len(b) for b, _ in kept), right / sum(len(t["labels"]) for t in told)


def _kept(found: Detections, threshold: float) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) and labels (n,) with a score above the threshold, best first."""
    rows = [(row, SHAPES.index(name)) for name, boxes in found.boxes.items() for row in boxes]
    rows = sorted((r for r in rows if r[0][4] > threshold), key=lambda r: -r[0][4])
    boxes = torch.tensor([row[:4].tolist() for row, _ in rows]).view(-1, 4)
    return boxes, torch.tensor([label for _, label in rows], dtype=torch.int64)


def mush(count: int, seed: int = SEED) -> Figures:
    """Share of ruined and of spoilt pictures, kind by kind, in which anything scores above 0.3."""
    rng, generator = np.random.default_rng(seed + 1), Generator().manual_seed(seed + 1)
    drawn = [training_data.any_scene(rng, TASKS[i % len(TASKS)]) for i in range(count)]
    clean = training_data.to_tensor([damage.picture(s) for s in drawn])
    kinds = {k.__name__.strip("_"): damage.ruin(clean, generator, (k,)) for k in damage.RUINS}
    for kind in damage.SPOILERS:
        spoilt = [damage.spoil(rng, s, kinds=(kind,)) for s in drawn]
        kinds[kind.__name__] = training_data.to_tensor(spoilt)
    figures = {name: _share_found(images) for name, images in kinds.items()}
    return figures | {"all": float(np.mean(list(figures.values())))}


def _share_found(images: Tensor) -> float:
    found = rewards.load_detector().detect(to_pixels(images))
    return float(np.mean([len(_kept(f, 0.3)[0]) > 0 for f in found]))


def colors(count: int, seed: int = SEED) -> Figures:
    """How often the colour check names the colour of a clean crop, colour by colour."""
    rng = np.random.default_rng(seed + 2)
    head = rewards.load_color_head()
    figures = {}
    for color in COLORS:
        scenes = [training_data.crowd(rng) for _ in range(count)]
        scenes = [replace(s, things=(replace(s.things[0], color=color),)) for s in scenes]
        drawn = [damage.picture(s) for s in scenes]
        cuts = [cut_out(p.pixels, np.array(p.boxes[0])) for p in drawn]
        crops = [Crop(name=p.shapes[0], pixels=c) for p, c in zip(drawn, cuts, strict=True)]
        figures[color] = float(np.mean([told == color for told in head.classify(crops)]))
    return figures | {"all": float(np.mean(list(figures.values())))}


def captions(count: int, seed: int = SEED) -> Figures:
    """How often CLIPScore puts the true caption above one with another fact, by task."""
    rng = np.random.default_rng(seed + 3)
    figures = {}
    for tag in TASK_WEIGHTS:
        drawn = [training_data.any_scene(rng, tag) for _ in range(count)]
        images = np.stack([damage.picture(s).pixels for s in drawn])
        missed = [facts.near_miss(rng, s) for s in drawn]
        figures[tag] = float(np.mean(_clipscore(images, drawn) > _clipscore(images, missed)))
    return figures | {"all": float(np.mean(list(figures.values())))}


def _clipscore(images: np.ndarray, scenes: list[Scene]) -> np.ndarray:
    return rewards.clipscore().score(images, prompts(scenes)).values


def prompts(scenes: list[Scene]) -> list[Prompt]:
    """What is asked of scenes: their captions, with GenEval's metadata where there are things."""
    return [
        Prompt(
            id=str(i), text=s.caption, tag=s.tag, target=training_data.target(s) if s.things else {}
        )
        for i, s in enumerate(scenes)
    ]


def clip_damage(count: int, seed: int = SEED) -> Figures:
    """How often CLIPScore puts a clean picture above the same one damaged, and both mean values."""
    rng, generator = np.random.default_rng(seed + 4), Generator().manual_seed(seed + 4)
    drawn = [training_data.any_scene(rng) for _ in range(count)]
    images = training_data.to_tensor([damage.picture(s) for s in drawn])
    worse = to_pixels(training_data.damage_all(rng, drawn, images, generator))
    clean, damaged = _clipscore(to_pixels(images), drawn), _clipscore(worse, drawn)
    return {
        "clean above damaged": float(np.mean(clean > damaged)),
        "mean cosine, clean": float(clean.mean()),
        "mean cosine, damaged": float(damaged.mean()),
    }


def preferences(count: int, seed: int = SEED) -> Figures:
    """How often PickScore prefers the better picture, by kind of pair; its values of good ones."""
    shown = training_data.preference_pairs(seed + 5, 3 * count)
    prompts = [Prompt(id=str(i), text=text) for i, text in enumerate(shown.captions)]
    reward = rewards.pickscore()
    better, worse = (
        reward.score(to_pixels(p), prompts).values for p in (shown.better, shown.worse)
    )
    right = better > worse
    kinds = np.array(shown.kinds)
    figures = {kind: float(right[kinds == kind].mean()) for kind in training_data.PAIR_KINDS}
    good = better[kinds != "stronger"]
    return figures | {
        "all": float(right.mean()),
        "value, mean of good": float(good.mean()),
        "value, 99th percentile of good": float(np.quantile(good, 0.99)),
    }


def ceiling(count: int, seed: int = SEED) -> Figures:
    """Share of true scenes that GenEval calls correct: what a perfect model would get, by task."""
    rng = np.random.default_rng(seed + 6)
    figures = {}
    for tag in TASKS:
        drawn = [training_data.any_scene(rng, tag) for _ in range(count)]
        images = np.stack([damage.picture(s).pixels for s in drawn])
        scores = rewards.geneval().score(images, prompts(drawn))
        figures[tag] = float(scores.values.mean())
        figures[f"{tag}, strict"] = float(scores.parts["strict"].mean())
    return figures
