"""What the pocket world's rewards are trained and evaluated on. A seed always names the same batch."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from nftbench.pocket.world import damage, facts, scenes
from nftbench.pocket.world.damage import LabelledImage
from nftbench.pocket.world.scenes import COLORS, SHAPES, SIZE, Scene

PATCH = 8
UNLABELLED = -100
BOX_SLACK = 0.06
"""Deviation of a detected box's edges, as a share of its sides."""


def any_scene(rng: np.random.Generator, tag: str | None = None) -> Scene:
    """A scene of a random task, held-out captions included: rewards may see all that there is."""
    tags, weights = list(scenes.TASK_WEIGHTS), list(scenes.TASK_WEIGHTS.values())
    return scenes.draw_scene(rng, tag or str(rng.choice(tags, p=weights)))


def crowd(rng: np.random.Generator) -> Scene:
    """One to four things of any shapes and colours: what a policy draws when it miscounts."""
    count = int(rng.integers(1, 5))
    shapes = [str(s) for s in rng.choice(SHAPES, count)]
    things = scenes.make_things(rng, shapes, scenes.random_colors(rng, count))
    return Scene("crowd", "", things, style=int(rng.integers(2**31)))


def to_tensor(pictures: list[LabelledImage]) -> Tensor:
    """Pixels of pictures, float32 (N, 3, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.stack([p.pixels for p in pictures]))
    return pixels.permute(0, 3, 1, 2).float() / 255


# --- detector -------------------------------------------------------------------------------------


def detector_batch(seed: int, count: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Pictures and their boxes: 7/16 whole (3/16 softened), 4/16 spoilt and softened, 5/16 ruined.

    Args:
        seed: the only source of chance.
        count: number of pictures, a multiple of 16.

    Returns:
        Images (count, 3, 64, 64) in [0, 1] and, an image, `boxes` (n, 4) and `labels` (n,).
    """
    rng, generator = np.random.default_rng(seed), Generator().manual_seed(seed)
    part = count // 16
    drawn = [damage.picture(_any(rng)) for _ in range(7 * part)]
    drawn += [damage.spoil(rng, _any(rng), rng.choice([0.5, 1.0])) for _ in range(4 * part)]
    targets = [detector_target(p.boxes, p.shapes) for p in drawn] + [
        detector_target((), ())
    ] * 5 * part
    drawn += [damage.picture(_any(rng)) for _ in range(5 * part)]
    clean, soft, mush = to_tensor(drawn).split([4 * part, 7 * part, 5 * part])
    return torch.cat([clean, damage.soften(soft, generator), damage.ruin(mush, generator)]), targets


def _any(rng: np.random.Generator) -> Scene:
    return crowd(rng) if rng.random() < 0.35 else any_scene(rng)


def detector_target(boxes: tuple[damage.Box, ...], shapes: tuple[str, ...]) -> dict[str, Tensor]:
    """What torchvision's detectors expect as the target of a picture."""
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor([SHAPES.index(s) for s in shapes], dtype=torch.int64),
    }


# --- CLIP -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipBatch:
    """B pictures, each with a caption that fits, one that almost fits, and all that fit."""

    images: Tensor
    """(B, 3, 64, 64) in [0, 1]."""
    damaged: Tensor
    """(D, 3, 64, 64) in [0, 1]: the first D images, spoilt or ruined."""
    captions: list[str]
    wrong: list[str]
    fitting: list[set[str]]
    patches: Tensor
    """(B, 64, 2) int64: shape and colour at each patch's centre; 0 = ground, `UNLABELLED` = crop."""


def clip_batch(seed: int, whole: int, crops: int, damaged: int) -> ClipBatch:
    """Scenes and crops of objects, half of them softened.

    Args:
        seed: the only source of chance.
        whole: number of scenes.
        crops: number of crops.
        damaged: number of scenes that come damaged as well.
    """
    rng, generator = np.random.default_rng(seed), Generator().manual_seed(seed)
    chosen_scenes = [captioned(rng, any_scene(rng)) for _ in range(whole)]
    pictures = [damage.picture(s) for s in chosen_scenes]
    clean = to_tensor(pictures)
    filled = [i for i, s in enumerate(chosen_scenes) if s.things]
    chosen = rng.choice(filled, crops)
    cut, fitting, wrong, fits = zip(
        *(crop(rng, chosen_scenes[i], pictures[i]) for i in chosen), strict=True
    )
    images = torch.cat([clean, torch.stack(cut)])
    soft = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    none = torch.full((crops, (SIZE // PATCH) ** 2, 2), UNLABELLED)
    return ClipBatch(
        images=torch.where(soft, damage.soften(images, generator), images),
        damaged=damage_all(rng, chosen_scenes[:damaged], clean[:damaged], generator),
        captions=[s.caption for s in chosen_scenes] + list(fitting),
        wrong=[facts.near_miss(rng, s).caption for s in chosen_scenes] + list(wrong),
        fitting=[_fitting(s) for s in chosen_scenes] + list(fits),
        patches=torch.cat([torch.stack([_patches(p) for p in pictures]), none]),
    )


def captioned(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene under one of the captions that fit it, with that caption's task."""
    captions = {tag: sorted(texts) for tag, texts in facts.true_captions(scene).items() if texts}
    tag = str(rng.choice(list(captions)))
    return replace(scene, tag=tag, caption=str(rng.choice(captions[tag])))


def _fitting(scene: Scene) -> set[str]:
    alone = facts.of_crop(scene.things[0]) if len(scene.things) == 1 else set()
    return facts.all_true(scene) | alone


def damage_all(
    rng: np.random.Generator, chosen_scenes: list[Scene], images: Tensor, generator: Generator
) -> Tensor:
    """The same scenes damaged, (N, 3, 64, 64): every second one spoilt, all others ruined."""
    damaged = damage.ruin(images, generator)
    for index, scene in enumerate(chosen_scenes):
        if scene.things and index % 2:
            damaged[index] = to_tensor([damage.spoil(rng, scene)])[0]
    return damaged


def crop(
    rng: np.random.Generator, scene: Scene, drawn: LabelledImage
) -> tuple[Tensor, str, str, set[str]]:
    """One object as the colour check sees it; a caption that fits, a wrong one, all that fit."""
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    fitting, wrong = facts.crop_captions(rng, thing)
    return _cropped(rng, drawn, index), fitting, wrong, facts.of_crop(thing)


def _cropped(rng: np.random.Generator, drawn: LabelledImage, index: int) -> Tensor:
    """What lies in a box slightly off, short side stretched to 64, centre crop: (3, 64, 64)."""
    box = np.array(drawn.boxes[index])
    box += rng.normal(0, BOX_SLACK * np.tile(box[2:] - box[:2], 2))
    x1, y1, x2, y2 = box.round().clip(0, SIZE).astype(int)
    inside = to_tensor([drawn])[:, :, y1:y2, x1:x2]
    scale = SIZE / min(inside.shape[2:])
    size = [round(scale * side) for side in inside.shape[2:]]
    large = F.interpolate(inside, size, mode="bicubic", antialias=True).clamp(0, 1)[0]
    top, left = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
    return large[:, top : top + SIZE, left : left + SIZE]


def _patches(drawn: LabelledImage) -> Tensor:
    """(64, 2): shape and colour of the box that a patch's centre lies in, from 1 up; 0 = none."""
    centres = np.arange(SIZE // PATCH) * PATCH + PATCH / 2
    labels = torch.zeros(len(centres), len(centres), 2, dtype=torch.int64)
    for (x1, y1, x2, y2), shape, color in zip(drawn.boxes, drawn.shapes, drawn.colors, strict=True):
        rows, columns = ((a <= centres) & (centres < b) for a, b in ((y1, y2), (x1, x2)))
        inside = torch.from_numpy(np.outer(rows, columns))
        labels[inside] = torch.tensor([1 + SHAPES.index(shape), 1 + list(COLORS).index(color)])
    return labels.flatten(0, 1)


# --- preferences ----------------------------------------------------------------------------------

PAIR_KINDS = ("damaged", "mismatching", "stronger")


@dataclass(frozen=True)
class PreferencePairs:
    """Captions, each with a picture that is preferred and one that is not."""

    captions: list[str]
    better: Tensor
    """(B, 3, 64, 64) in [0, 1]."""
    worse: Tensor
    """(B, 3, 64, 64) in [0, 1]."""
    kinds: list[str]
    """Why: damaged objects, another scene's picture, or more of the same damage."""


def preference_pairs(seed: int, count: int) -> PreferencePairs:
    """Preferences of the three kinds, as many of each; half of the pictures are softened.

    Args:
        seed: the only source of chance.
        count: number of pairs, a multiple of 3.
    """
    rng, generator = np.random.default_rng(seed), Generator().manual_seed(seed)
    chosen_scenes = [captioned(rng, any_scene(rng)) for _ in range(count)]
    third = count // 3
    clean = to_tensor([damage.picture(s) for s in chosen_scenes])
    missed = to_tensor(
        [damage.picture(_mismatch(rng, s)) for s in chosen_scenes[third : 2 * third]]
    )
    mild = torch.rand(third, generator=generator) * 0.7
    strong = mild + 0.12 + (0.88 - mild) * torch.rand(third, generator=generator)
    better = torch.cat([clean[: 2 * third], damage.degrade(clean[2 * third :], mild, generator)])
    worse = torch.cat(
        [
            damage_all(rng, chosen_scenes[:third], clean[:third], generator),
            missed,
            damage.degrade(clean[2 * third :], strong, generator),
        ]
    )
    soft = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    soft[2 * third :] = False
    better, worse = (torch.where(soft, damage.soften(p, generator), p) for p in (better, worse))
    kinds = [kind for kind in PAIR_KINDS for _ in range(third)]
    return PreferencePairs([s.caption for s in chosen_scenes], better, worse, kinds)


def _mismatch(rng: np.random.Generator, scene: Scene) -> Scene:
    """A scene that the caption does not fit: one fact is another, or (one in four) all are."""
    if rng.random() < 0.75:
        return facts.near_miss(rng, scene)
    while True:
        other = any_scene(rng)
        if scene.caption not in facts.all_true(other):
            return other


# --- what a scene's caption asks of GenEval -------------------------------------------------------


def target(scene: Scene) -> dict[str, list]:
    """GenEval's metadata of a scene with things: `include`, and `exclude` for counting."""
    first = scene.things[0]
    if scene.tag == "counting":
        count = len(scene.things)
        clause = {"class": first.shape, "count": count}
        return {"include": [clause], "exclude": [clause | {"count": count + 1}]}
    clauses = [{"class": t.shape, "count": 1} for t in scene.things]
    if scene.tag in ("colors", "color_attr"):
        clauses = [c | {"color": t.color} for c, t in zip(clauses, scene.things, strict=True)]
    if scene.tag == "position":
        relation = next(r for r in scenes.RELATIONS if f" {r} " in scene.caption)
        clauses = [clauses[1], clauses[0] | {"position": [relation, 0]}]
    return {"include": clauses}
