"""GenEval: its detector against mmdet itself, and what each loaded variant does with pictures, boxes and colours.

`tests/extras/golden_mmdet.py` wrote the numbers; `mmdet2` are those of mmdet 2.28.2, the generation of GenEval and of
the published rewards, `mmdet3` those of 3.3.0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rewards import available, load_reward
from rewards.base import Prompt, Scores
from rewards.certify import Check, Checks, compare
from rewards.certify.clip.facts import GENEVAL, PIL
from rewards.certify.clip.handed import activation, names
from rewards.certify.loaded import ANY, blank, load_blank, makers, replaced
from rewards.certify.preprocessing import (
    crop_of,
    golden_file,
    pictures_of,
    preprocessing,
    read_golden,
)
from rewards.certify.seeded import seeded
from rewards.geneval.classes import CLASSES
from rewards.geneval.convert import to_v3
from rewards.geneval.detector import Detections
from rewards.geneval.mask2former import (
    SCALE,
    Mask2FormerDetector,
    Pipeline,
    converted,
    network_input,
    swin_s_config,
)
from rewards.geneval.variants import MMDET
from rewards.images import preprocess
from rewards.weights.stand_ins import standing_in

REFERENCES = {
    "mmdet2": "open-mmlab/mmdetection@v2.28.2 apis/inference.py `inference_detector`",
    "mmdet3": "open-mmlab/mmdetection@v3.3.0 apis/inference.py `inference_detector`",
}
_CROPS = preprocessing("geneval_crop", preprocess.geneval_crop, tolerance=PIL, reference=GENEVAL)
_COLOURS = partial(names, "reward_geneval_color.json", "openai, open_clip's names")
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
    return {name: _rebuilt(*to_v3({name: shapes[name]}).popitem(), seed) for name in weights}  # pyright: ignore[reportArgumentType]


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
    for name in [name for name in SMALL if name in pictures]:
        theirs = _arrays(folder, generation, f"small/{name}/")
        yield from _compared(
            detector, pictures[name], theirs, generation, f"{name}, small", tuple(scale)
        )


def full(key: str, folder: Path) -> Iterator[Check]:
    """The loaded detector at the published size on 512x512 pixels; 69 million weights, half a minute."""
    facts = _facts(folder, "mmdet3")
    weights = {MMDET.name: partial(rebuilt, facts["full_state"], facts["seed"])}
    with standing_in("detector rebuilt", makers(blank) | weights):
        detector = load_reward(key).reward.detector  # pyright: ignore[reportAttributeAccessIssue]
    picture = pictures_of(folder)["sq64"].repeat(8, axis=0).repeat(8, axis=1)
    if FACTS[key].bgr:  # the golden numbers are of right colours
        picture = picture[..., ::-1]
    theirs = _arrays(folder, "mmdet3", "full/sq512/")
    with replaced(detector, _pipeline="mmdet3", _floor=0):
        yield from _compared(detector, picture, theirs, "mmdet3", "sq512, Swin-S", SCALE)


def _facts(folder: Path, generation: Pipeline) -> dict[str, Any]:
    return read_golden(folder, f"geneval_{generation}.json")


def _arrays(folder: Path, generation: Pipeline, start: str) -> dict[str, np.ndarray]:
    with np.load(golden_file(folder, f"geneval_{generation}.npz")) as stored:
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
    seen = picture[..., ::-1] if detector._channel_order == "bgr" else picture
    pixels, _ = network_input(seen, generation, scale)
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


# --- what a loaded variant does -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a variant's reference does, said once more and independently of `rewards.geneval.variants.PRESETS`."""

    bgr: bool = False
    """Whether the detector sees red and blue swapped."""
    jpeg_quality: int | None = None
    activation: str = "quick_gelu"
    rule: str = "official"
    reference: str = "djghosh13/geneval@af4902f evaluation/evaluate_images.py"


NFT = "NVlabs/DiffusionNFT@24af555 flow_grpo/gen_eval.py"
FACTS = {
    "geneval@official": Facts(),
    "geneval@hf": Facts(),
    "geneval@mmdet": Facts(),
    "geneval@nft": Facts(bgr=True, activation="gelu", rule="nft", reference=NFT),
    "geneval@flowgrpo": Facts(
        bgr=True,
        jpeg_quality=75,
        activation="gelu",
        rule="nft",
        reference="yifan123/reward-server@92ac29f",
    ),
    "geneval@promptrl": Facts(
        bgr=True, jpeg_quality=75, rule="nft", reference="G-U-N/UniRL@53c28c9"
    ),
}


def facts_of(key: str) -> Facts:
    """Of a variant; those of other packages say by their names whose rule they follow."""
    rule = next((rule for rule in ("nft", "strict") if key.endswith(rule)), "official")
    return FACTS.get(key) or (Facts() if rule == "official" else Facts(rule=rule, reference=NFT))


def handed_over(key: str, folder: Path) -> Iterator[Check]:
    """What the loaded variant shows its detector and its colour check: channels, JPEG, crops, activation."""
    facts, reward = FACTS[key], load_blank(key)
    picture = pictures_of(folder)["sq224"]
    objects = [{"box_xyxy_score": [16, 20, 150, 190, 0.95], "mask": "none"}]
    shown, crops, texts = _shown(
        reward, picture, np.array([objects[0]["box_xyxy_score"]], np.float32)
    )
    wanted = _jpeg(picture, facts.jpeg_quality)
    ordered = wanted[..., ::-1] if facts.bgr else wanted
    expected, _ = network_input(np.ascontiguousarray(ordered), scale=(1333, 800))
    order = "blue, green, red" if facts.bgr else "red, green, blue"
    how = f"{order}; {'lossless' if facts.jpeg_quality is None else f'JPEG {facts.jpeg_quality}'}"
    yield compare(
        f"pixels of the detector ({how})", shown, expected, tolerance=0, reference=facts.reference
    )
    cut = preprocess.geneval_crop(crop_of(wanted, objects[0]), 224)
    yield compare("pixels of the colour check", crops, cut, tolerance=0, reference=facts.reference)
    other = [mine != theirs for mine, theirs in zip(texts, _texts("dog"), strict=True)]
    yield compare(
        "other texts of the colour check", other, [0] * 30, tolerance=0, reference=facts.reference
    )
    yield from activation(reward.color_head.tower, facts.activation, facts.reference)


def _shown(reward: Any, picture: np.ndarray, boxes: np.ndarray) -> tuple[Tensor, Tensor, list[str]]:
    """What a loaded variant hands to its detector's network and to its colour check's, for one object found."""
    given: dict[str, Any] = {}

    def logits(pixels: Tensor) -> tuple[Tensor, Tensor]:
        given["detector"] = pixels
        sides = [side // 4 for side in pixels.shape[-2:]]
        return torch.zeros(1, 4, len(CLASSES) + 1), torch.zeros(1, 4, *sides)

    def embed(pixels: Tensor) -> Tensor:
        given["crop"] = pixels[0]
        return torch.ones(len(pixels), 768)

    target = {"include": [{"class": "dog", "count": 1, "color": "red"}]}
    prompt = Prompt(id="0", text="a photo of a red dog", tag="colors", target=target)
    with replaced(reward.detector, logits=logits):
        reward.detector.detect(_as_given(reward, picture)[None])
    found = [Detections(boxes={"dog": boxes})]

    def embed_texts(texts: list[str]) -> Tensor:
        given["texts"] = texts
        return torch.ones(len(texts), 768)

    with (
        replaced(reward.detector, detect=lambda images: found),
        replaced(reward.color_head.tower, embed_images=embed, embed_texts=embed_texts),
        replaced(reward.color_head, classifier=reward.color_head._build_classifier),
    ):
        reward.score(picture[None], [prompt])
    return given["detector"], given["crop"], given["texts"]


def _texts(name: str) -> list[str]:
    """What CLIP is asked of an object: three sentences a colour."""
    colors = [
        "red",
        "orange",
        "yellow",
        "green",
        "blue",
        "purple",
        "pink",
        "brown",
        "black",
        "white",
    ]
    return [
        text
        for color in colors
        for text in (
            f"a photo of a {color} {name}",
            f"a photo of a {color}-colored {name}",
            f"a photo of a {color} object",
        )
    ]


def _as_given(reward: Any, picture: np.ndarray) -> np.ndarray:
    """The picture as `score` hands it to the detector."""
    given: list[np.ndarray] = []

    def detect(images: np.ndarray) -> list[Detections]:
        given.append(images[0])
        return [Detections(boxes={})]

    with replaced(reward.detector, detect=detect):
        reward.score(picture[None], [ANY])
    return given[0]


def _jpeg(picture: np.ndarray, quality: int | None) -> np.ndarray:
    if quality is None:
        return picture
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def rules(key: str, folder: Path) -> Iterator[Check]:
    """The loaded variant's value, sub-scores and reasons for given boxes and colours."""
    golden = read_golden(folder, "geneval_judge.json")
    reward, facts = load_blank(key), facts_of(key)
    cases = [case for case in golden["cases"] if case["metadata"].get("include")]
    scores = [_scored(reward, case) for case in cases]
    official, nft = ([case[rule] for case in cases] for rule in ("official", "nft"))
    main = {
        "official": [o["correct"] for o in official],
        "strict": [n["strict_correct"] for n in nft],
        "nft": [n["score"] for n in nft],
    }[facts.rule]
    yield compare(
        "value", [s.values[0] for s in scores], main, tolerance=1e-6, reference=facts.reference
    )
    for name, reference, theirs in (
        ("correct", FACTS["geneval@official"].reference, [o["correct"] for o in official]),
        ("strict", NFT, [n["strict_correct"] for n in nft]),
        ("partial", NFT, [n["score"] for n in nft]),
    ):
        if name not in scores[0].parts:
            continue  # it is the value
        ours = [s.parts[name][0] for s in scores]
        yield compare(f"part {name}", ours, theirs, tolerance=1e-6, reference=reference)


def _scored(reward: Any, case: Mapping[str, Any]) -> Scores:
    boxes = {
        name: np.array(rows, dtype=np.float32).reshape(-1, 5)
        for name, rows in case["detections"].items()
    }
    answers_of = {
        name: iter(_in_order(boxes[name], answers)) for name, answers in case["colors"].items()
    }

    def classify(crops: Sequence[Any]) -> list[str]:
        return [next(answers_of[crop.name]) for crop in crops]

    metadata = case["metadata"]
    clauses = [*metadata["include"], *metadata.get("exclude", ())]
    classes = {*boxes, *(clause["class"] for clause in clauses)}
    colors = {
        *reward.color_head.colors,
        *(a for answers in case["colors"].values() for a in answers),
    }
    prompt = Prompt(id="0", text="", tag=metadata["tag"], target=metadata)
    with (
        replaced(reward.detector, detect=lambda images: [Detections(boxes=boxes)], classes=classes),
        replaced(reward.color_head, classify=classify, colors=colors),
        replaced(reward, cut_out=lambda *_: np.zeros((1, 1, 3), np.uint8)),
    ):
        return reward.score(np.zeros((1, 8, 8, 3), np.uint8), [prompt])


def _in_order(boxes: np.ndarray, answers: Sequence[str]) -> list[str]:
    """Answers for the boxes as the rules see them: best score first."""
    return [answers[int(i)] for i in np.argsort(-boxes[:, 4], kind="stable")]


CONVERTED = ("official", "nft", "flowgrpo", "promptrl")
"""Variants over mmdet's weights, run by transformers."""
_DETECTOR = (partial(small, "mmdet2"), partial(small, "mmdet3"))
_CHECK = (_CROPS, _COLOURS)
CHEAP: dict[str, tuple[Checks, ...]] = {
    key: (partial(rules, key),) for key in available() if key.startswith("geneval@")
}
CHEAP |= {
    key: (*_CHECK, partial(handed_over, key), *CHEAP[key])
    for key in FACTS
    if key != "geneval@mmdet"  # whose detector does its own preprocessing
}
CHEAP |= {f"geneval@{name}": (*_DETECTOR, *CHEAP[f"geneval@{name}"]) for name in CONVERTED}
"""Seconds each."""
FULL_SIZE: dict[str, tuple[Checks, ...]] = {
    f"geneval@{name}": (partial(full, f"geneval@{name}"),) for name in CONVERTED
}
CHECKS = {key: CHEAP[key] + FULL_SIZE.get(key, ()) for key in CHEAP}
