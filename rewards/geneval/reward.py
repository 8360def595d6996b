"""GenEval as a reward: a detector finds objects, a colour head names colours, the rules decide.

Source: djghosh13/geneval@af4902f evaluation/evaluate_images.py; NVlabs/DiffusionNFT@24af555
flow_grpo/gen_eval.py.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image

from rewards.base import ConfigError, Prompt, RewardInfo, Scores, unfit
from rewards.geneval.colours import ColorHead, Crop, cut_out
from rewards.geneval.detector import Detections, Detector
from rewards.geneval.judge import (
    COUNTING_THRESHOLD,
    RELATIONS,
    SCORE_THRESHOLD,
    Verdict,
    boxes_to_color,
    judge,
    keep,
)
from rewards.images.jpeg import MAX_SIDE


@dataclass(frozen=True, slots=True)
class _Case:
    """One image on its way to a verdict; `fault` says why there can be none."""

    prompt: Prompt
    boxes: Mapping[str, np.ndarray]
    crops: Sequence[Crop]
    fault: str


class GenEval:
    """Whether an image shows the objects, counts, colours and positions that its prompt asks for.

    The value is one of `correct` (0 or 1 by the official rule), `strict` and `partial` (DiffusionNFT's
    reward); the other two are parts. Evidence, an image: `boxes` that counted (class -> [x1,
    y1, x2, y2, score]), `colors` that were answered (class -> answers for the leading boxes), `reason`
    and `strict_reason`.
    """

    def __init__(
        self,
        detector: Detector,
        color_head: ColorHead,
        *,
        info: RewardInfo,
        rule: Literal["official", "strict", "nft"] = "official",
        threshold: float = SCORE_THRESHOLD,
        counting_threshold: float = COUNTING_THRESHOLD,
        jpeg_quality: int | None = None,
    ) -> None:
        """Put a variant together.

        Args:
            detector: finds objects.
            color_head: names the colour of a crop.
            info: what the numbers of this variant mean.
            rule: which number is the value: `official` correctness, `strict` correctness, or the partial reward
                of `nft`.
            threshold: detections count above this score, 0-1.
            counting_threshold: the same for prompts tagged `counting`.
            jpeg_quality: images are scored as JPEG leaves them, 0-100; None scores them as they are.
        """
        self.info = info
        self.detector = detector
        self.cut_out = cut_out
        self.color_head = color_head
        self._value = {"official": "correct", "strict": "strict", "nft": "partial"}[rule]
        self._thresholds = (threshold, counting_threshold)
        self._jpeg_quality = jpeg_quality

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`.

        The crops of all images go through the colour head together.
        """
        unseen = unfit(images) or self._unfit_for_jpeg(images)
        if self._jpeg_quality is not None and len(images) and not unseen:
            images = np.stack([through_jpeg(image, self._jpeg_quality) for image in images])
        nothing = [Detections(boxes={})] * len(images)
        found = nothing if unseen or not len(images) else self.detector.detect(images)
        cases = [self._case(*each, unseen) for each in zip(images, prompts, found, strict=True)]
        answers = iter(self.color_head.classify([crop for case in cases for crop in case.crops]))
        answered = [_by_class(case.crops, answers) for case in cases]
        verdicts = [_verdict(case, colors) for case, colors in zip(cases, answered, strict=True)]
        numbers = {
            name: np.array(
                [np.nan if v is None else getattr(v, name) for v in verdicts], dtype=np.float32
            )
            for name in ("correct", "strict", "partial")
        }
        return Scores(
            values=numbers.pop(self._value),
            reasons=tuple(case.fault for case in cases),
            parts=numbers,
            evidence=tuple(map(_evidence, cases, answered, verdicts)),
        )

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts without a target that the detector and the colour head know.

        Raises:
            ConfigError: naming the first such prompt and the fault of its target.
        """
        for prompt in prompts:
            fault = self._fault(prompt)
            if fault:
                raise ConfigError(
                    f"prompt {prompt.id!r} cannot be scored by {self.info.key}: {fault}."
                )

    def _unfit_for_jpeg(self, images: np.ndarray) -> str:
        if self._jpeg_quality is None or max(images.shape[1:3]) <= MAX_SIDE:
            return ""
        return f"a side of {max(images.shape[1:3])} pixels; JPEG holds {MAX_SIDE} at most"

    def _fault(self, prompt: Prompt) -> str:
        return target_fault(prompt.target, self.detector.classes, self.color_head.colors)

    def _case(self, image: np.ndarray, prompt: Prompt, found: Detections, unseen: str) -> _Case:
        fault = self._fault(prompt) or unseen
        if fault:
            return _Case(prompt, {}, (), fault)
        kept = keep(found.boxes, self._thresholds[prompt.tag == "counting"])
        boxes = {name: found.boxes[name][indices] for name, indices in kept.items()}
        crops = []
        for name, count in boxes_to_color(boxes, prompt.target).items():
            for index in kept[name][:count]:
                pixels = self._cut(image, found, name, index)
                if pixels is None:
                    fault = "an object whose colour is asked has a box without a pixel"
                    return _Case(prompt, boxes, (), fault)
                crops.append(Crop(name=name, pixels=pixels))
        return _Case(prompt, boxes, crops, "")

    def _cut(
        self, image: np.ndarray, found: Detections, name: str, index: int
    ) -> np.ndarray | None:
        mask = found.masks[name][index] if name in found.masks else None
        return self.cut_out(image, found.boxes[name][index], mask)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What is left of a picture after it was sent as JPEG.

    Args:
        image: uint8 RGB (H, W, 3).
        quality: 0-100, of Pillow's encoder.

    Returns:
        uint8 RGB (H, W, 3).
    """
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def target_fault(
    target: Mapping[str, Any], classes: Collection[str], colors: Collection[str]
) -> str:
    """What keeps a GenEval target from being scored; empty if nothing does.

    Args:
        target: GenEval metadata; must have at least one `include` clause.
        classes: names the detector knows.
        colors: answers the colour head can give.
    """
    include, exclude = target.get("include"), target.get("exclude", ())
    if not isinstance(include, Sequence) or not include:
        return "its target has no `include` clauses; GenEval metadata is needed"
    for clause in (*include, *exclude):
        fault = _clause_fault(clause, classes, colors)
        if fault:
            return fault
    positions = [
        (place, clause["position"]) for place, clause in enumerate(include) if "position" in clause
    ]
    for place, (relation, index) in positions:
        if relation not in RELATIONS or index not in range(place):
            return (
                f"position {[relation, index]} of clause {place}: expected one of"
                f" {', '.join(RELATIONS)} and the number of an earlier clause"
            )
    return ""


def _clause_fault(
    clause: Mapping[str, Any], classes: Collection[str], colors: Collection[str]
) -> str:
    name, count, color = clause.get("class"), clause.get("count"), clause.get("color")
    if name not in classes:
        return f"class {name!r} is none of the detector's {len(classes)} classes"
    if not isinstance(count, int) or count < 1:
        return f"count of {name!r} must be a whole number >= 1, got {count!r}"
    if color is not None and color not in colors:
        return f"colour {color!r} of {name!r} is none of {', '.join(colors)}"
    return ""


def _by_class(crops: Sequence[Crop], answers: Any) -> dict[str, list[str]]:
    """Answers of one image's crops, taken from the stream of all."""
    answered: dict[str, list[str]] = {}
    for crop in crops:
        answered.setdefault(crop.name, []).append(next(answers))
    return answered


def _verdict(case: _Case, colors: Mapping[str, Sequence[str]]) -> Verdict | None:
    return None if case.fault else judge(case.boxes, case.prompt.target, colors)


def _evidence(
    case: _Case, colors: Mapping[str, Sequence[str]], verdict: Verdict | None
) -> dict[str, Any]:
    boxes = {
        name: [[round(float(value), 3) for value in box] for box in found]
        for name, found in case.boxes.items()
    }
    reasons = {k: v for k, v in asdict(verdict).items() if "reason" in k} if verdict else {}
    return {"boxes": boxes, "colors": dict(colors), **reasons}
