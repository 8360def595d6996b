"""Whole networks of the CLIP family at full size, rebuilt from their parameters' names, against the references."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rewards.base import Prompt
from rewards.certify import Check, compare
from rewards.certify.clip.facts import FACTS, HPS_PACKAGE, UNRESIZED, TowerFacts, reference_of
from rewards.certify.loaded import load_blank, load_seeded, no_detector, pixels_of, replaced
from rewards.certify.preprocessing import crop_of, pictures_of, read_golden
from rewards.geneval.colours import Crop


def _scores(
    reward: Any,
    rows: Iterable[tuple[str, int, float]],
    golden: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
) -> tuple[list[float], list[float]]:
    """Our values and the reference's of (picture, prompt, value), each by a call of its own."""
    ours, theirs = [], []
    for image, prompt, value in rows:
        if image in pictures:
            text = Prompt(id=str(prompt), text=golden["prompts"][prompt])
            ours.append(float(reward.score(pictures[image][None], [text]).values[0]))
            theirs.append(value)
    return ours, theirs


def _rows(golden: Mapping[str, Any], field: str) -> list[tuple[str, int, float]]:
    return [(row["image"], row["prompt"], row["score"]) for row in golden[field]]


def _embeds(
    name: str, ours: Tensor, theirs: Iterable[Mapping[str, Any]], reference: str
) -> Iterator[Check]:
    """First numbers of embeddings, and their lengths unless they are 1."""
    theirs = list(theirs)
    lengths = np.array([t["norm"] for t in theirs])
    if np.abs(lengths - 1).max() > 1e-5:
        yield compare(
            f"lengths of {name} embeddings",
            ours.double().norm(dim=-1),
            lengths,
            tolerance=2e-6,
            relative=True,
            reference=reference,
        )
    yield compare(
        f"first numbers of {name} embeddings",
        ours[:, :8],
        [t["first8"] for t in theirs],
        tolerance=5e-5,
        reference=reference,
    )


def network(key: str, folder: Path) -> Iterator[Check]:
    """Embeddings, all their cosines, and the values, through the reward that is loaded by its key."""
    facts = FACTS[key]
    golden, pictures = read_golden(folder, facts.file), pictures_of(folder)
    reward = load_seeded(key, golden["weight_seed"])
    yield from _embeddings(reward.tower, golden, pictures, facts)
    yield from _own_values(reward, golden, pictures)
    if not facts.own_values:
        pictures = {UNRESIZED: pictures[UNRESIZED]}
    yield from VALUES[golden.get("scorer", facts.file)](reward, golden, pictures)


def _embeddings(
    tower: Any, golden: Mapping[str, Any], pictures: Mapping[str, np.ndarray], facts: TowerFacts
) -> Iterator[Check]:
    """Of every prompt, and of every picture as the reference of the golden file prepares it."""
    here = [i for i, image in enumerate(golden["images"]) if image in pictures]
    transform = pixels_of_first(facts.file)
    seen = torch.stack([transform(pictures[golden["images"][i]]) for i in here])
    images, reference = tower.embed_images(seen), reference_of(golden)
    unit = "image_features" in golden
    field = "features" if unit else "embeds"
    unit_images = normalize(images, dim=-1)
    theirs = [golden[f"image_{field}"][i] for i in here]
    yield from _embeds("image", unit_images if unit else images, theirs, reference)
    if not facts.tokens:
        return
    texts = tower.embed_texts(golden["prompts"])
    unit_texts = normalize(texts, dim=-1)
    yield from _embeds("text", unit_texts if unit else texts, golden[f"text_{field}"], reference)
    yield compare(
        "cosines of every text and image",
        unit_texts @ unit_images.T,
        np.array(golden["cosine_text_by_image"])[:, here],
        tolerance=2e-6,
        reference=reference,
    )


def pixels_of_first(file: str) -> Any:
    """What the variant whose values a golden file holds hands to its network."""
    key = next(key for key, facts in FACTS.items() if facts.file == file and facts.own_values)
    return partial(pixels_of, load_blank(key))


def _own_values(
    reward: Any, golden: Mapping[str, Any], pictures: Mapping[str, np.ndarray]
) -> Iterator[Check]:
    """Each value is the scaled cosine of the embeddings of what the reward itself hands over."""
    if "prompts" not in golden:
        return
    text, ours, theirs = golden["prompts"][0], [], []
    one = normalize(reward.tower.embed_texts([text]).double(), dim=-1)[0]
    for picture in pictures.values():
        seen = _handed(reward, picture)
        other = normalize(reward.tower.embed_images(seen).double(), dim=-1)[0]
        theirs.append(
            float(one @ other)
            * reward.tower.logit_scale ** ("raw_scale_scores_batch_diagonal" in golden)
        )
        ours.append(float(reward.score(picture[None], [Prompt(id="0", text=text)]).values[0]))
    scale = max(1.0, np.abs(theirs).max())
    yield compare(
        "values, from the embeddings",
        ours,
        theirs,
        tolerance=2e-6 * scale,
        reference=reference_of(golden),
    )


def _handed(reward: Any, picture: np.ndarray) -> Tensor:
    given: list[Tensor] = []
    embed = reward.tower.embed_images

    def record(pixels: Tensor) -> Tensor:
        given.append(pixels)
        return embed(pixels)

    with replaced(reward.tower, embed_images=record):
        reward.score(picture[None], [Prompt(id="0", text="")])
    return given[0]


def _clipscore(reward: Any, golden: Any, pictures: Any) -> Iterator[Check]:
    ours, theirs = _scores(reward, _rows(golden, "scores"), golden, pictures)
    yield from _values("values", ours, theirs, 2e-6, reference_of(golden))


def _hpsv2(reward: Any, golden: Any, pictures: Any) -> Iterator[Check]:
    for field, reference in (("scores", reference_of(golden)), ("package_scores", HPS_PACKAGE)):
        ours, theirs = _scores(reward, _rows(golden, field), golden, pictures)
        yield from _values("values", ours, theirs, 2e-6, reference)


def _aesthetic(reward: Any, golden: Any, pictures: Any) -> Iterator[Check]:
    here = [i for i, image in enumerate(golden["images"]) if image in pictures]
    empty = [Prompt(id="", text="")]
    ours = [reward.score(pictures[golden["images"][i]][None], empty).values[0] for i in here]
    yield from _values(
        "values", ours, [golden["scores"][i] for i in here], 5e-6, reference_of(golden)
    )


def _pickscore(reward: Any, golden: Any, pictures: Any) -> Iterator[Check]:
    """Native units and training's."""
    reference, images = reference_of(golden), golden["images"]
    raw = golden["raw_scale_scores_batch_diagonal"]
    diagonal = zip(images, range(len(images)), raw, strict=True)
    ours, theirs = _scores(reward, diagonal, golden, pictures)
    yield from _values("values, native units", ours, theirs, 5e-4, reference)
    single, divided = _scores(reward, _rows(golden, "scores_single_pairs"), golden, pictures)
    pairs = zip(golden["scores_batch_diagonal"], images, strict=True)
    divided += [value for value, image in pairs if image in pictures]
    scaled = np.array(single + ours) / reward.info.train_scale
    yield from _values("values / 26", scaled, divided, 2e-5, reference)


VALUES = {
    "reward_clipscore.json": _clipscore,
    "reward_hpsv2.json": _hpsv2,
    "reward_aesthetic.json": _aesthetic,
    "reward_pickscore.json": _pickscore,
}


def _values(name: str, ours: Any, theirs: Any, tolerance: float, reference: str) -> Iterator[Check]:
    """A comparison, unless the folder holds none of the pictures."""
    if len(theirs):
        yield compare(name, ours, theirs, tolerance=tolerance, reference=reference)


def colours_network(key: str, folder: Path) -> Iterator[Check]:
    """The colour head of a loaded GenEval under QuickGELU: its texts, logits and answers."""
    golden, pictures = read_golden(folder, "reward_geneval_color.json"), pictures_of(folder)
    reference = reference_of(golden)
    head = seeded_head(key, golden["weight_seed"])
    rows = [row for row in golden["rows"] if row["image"] in pictures]
    for name in sorted({row["classname"] for row in rows}):
        columns = golden["classifier_columns"][name]
        yield from _embeds(f"{name!r} colour", head.classifier(name).T, columns, reference)
    crops = [Crop(name=r["classname"], pixels=crop_of(pictures[r["image"]], r)) for r in rows]
    ours, theirs = 100 * head.cosines(crops), np.array([row["logits"] for row in rows])
    yield compare("logits", ours, theirs, tolerance=2e-4, reference=reference)
    best = np.sort(theirs)[:, -2:]
    clear = np.flatnonzero(best[:, 1] - best[:, 0] > 2e-4)
    answers = [head.colors[int(row.argmax())] != rows[i]["color"] for i, row in enumerate(ours)]
    wrong = [answers[i] for i in clear]
    yield compare("wrong answers", wrong, np.zeros(len(wrong)), tolerance=0, reference=reference)


def seeded_head(key: str, seed: int) -> Any:
    """The colour head of a loaded GenEval over weights rebuilt from open_clip's names."""
    return load_seeded(key, seed, open_clip_names=True, more=no_detector()).color_head
