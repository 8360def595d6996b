"""What every reward over read text shares: engine, prompts, failures; the rules are the subclasses'."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from rewards.base import ConfigError, Prompt, Reward, RewardInfo, Scores, unfit
from rewards.ocr.engines import OcrEngine, OcrFailure, TextLine
from rewards.weights.stand_ins import made


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What was made of one image; `reason` says why there is no value."""

    value: float = np.nan
    parts: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


class TextScorer(ABC):
    """A reward over the lines of text that an engine reads.

    A prompt that asks for no text, and a picture on which the engine breaks, are NaN with the reason. So is a user's
    own prompt (`Prompt.origin`) that leaves open which text it means; published ones keep the reference's rule.
    """

    parts: ClassVar[tuple[str, ...]]
    """Names of the sub-scores."""
    asks_nothing: ClassVar[str]
    """What is wrong with a prompt that asks for no text."""

    def __init__(self, engine: OcrEngine, *, info: RewardInfo, scale: int = 1) -> None:
        """Put a variant together.

        Args:
            engine: reads the lines of one picture.
            info: what the numbers of this variant mean.
            scale: pictures are enlarged this many times (bicubic) before they are read.
        """
        self.info = info
        self.engine = engine
        self._scale = scale

    @abstractmethod
    def target(self, prompt: str) -> Any:
        """What an image should show; empty where a prompt asks for no text."""

    @abstractmethod
    def doubt(self, prompt: str) -> str:
        """What makes it open which text a prompt means, in words; empty where nothing does."""

    @abstractmethod
    def compare(self, lines: Sequence[TextLine], target: Any) -> Reading:
        """The value, every sub-score and the evidence of the lines read."""

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`."""
        unseen = unfit(images)
        with ThreadPoolExecutor(self.engine.at_once) as pool:
            pairs = zip(images, prompts, strict=True)
            found = list(pool.map(lambda pair: self._read(pair[0], pair[1], unseen), pairs))
        return Scores(
            values=np.array([each.value for each in found], dtype=np.float32),
            reasons=tuple(each.reason for each in found),
            parts={
                name: np.array([each.parts.get(name, np.nan) for each in found], dtype=np.float32)
                for name in self.parts
            },
            evidence=tuple(each.evidence for each in found),
        )

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that ask for no text, and a user's own that leave open for which.

        Raises:
            ConfigError: naming the first such prompt.
        """
        for prompt in prompts:
            fault = self._fault(prompt)
            if fault:
                raise ConfigError(
                    f"prompt {prompt.id!r} cannot be scored by {self.info.key}: {fault}."
                )

    def _fault(self, prompt: Prompt) -> str:
        if not self.target(prompt.text):
            return f"{self.asks_nothing}: {prompt.text!r}"
        doubt = self.doubt(prompt.text) if prompt.origin else ""
        return f"{doubt}: {prompt.text!r}" if doubt else ""

    def _read(self, image: np.ndarray, prompt: Prompt, unseen: str) -> Reading:
        fault = self._fault(prompt) or unseen
        if fault:
            return Reading(reason=fault)
        target = self.target(prompt.text)
        try:
            lines = self.engine.read(_enlarge(image, self._scale))
        except OcrFailure as failure:
            reason = f"the OCR engine failed: {failure}"
            return Reading(reason=reason, evidence={"target": target})
        return self.compare([_in_place(line, self._scale) for line in lines], target)


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    if scale == 1:
        return image
    height, width = image.shape[:2]
    size = (width * scale, height * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _in_place(line: TextLine, scale: int) -> TextLine:
    """A line with its box in pixels of the picture as it was before it was enlarged."""
    x1, y1, x2, y2 = line.box
    return replace(line, box=(x1 / scale, y1 / scale, x2 / scale, y2 / scale))


def variant(
    scorer: type[TextScorer], engine: type[OcrEngine], *, scale: int = 1, **about: str
) -> Callable[..., Reward]:
    """Factory of one registered variant, with its `info`.

    Args:
        scorer: the rule.
        engine: reads the pictures.
        scale: see `TextScorer`.
        about: `name`, `summary` and `source` of the `RewardInfo`; `summary` with `{engine}` for the engine's own;
            `ending` of the variant's name, where it has one.
    """
    enlarged = f", pictures enlarged {scale}x (bicubic)" if scale > 1 else ""
    info = RewardInfo(
        name=about["name"],
        variant=engine.name + (f"-x{scale}" if scale > 1 else "") + about.get("ending", ""),
        summary=about["summary"].format(engine=engine.summary) + enlarged,
        low=0.0,
        high=1.0,
        ends=(0, 1),
        needs="quoted text",
        weights=engine.weights,
        files=engine.files,
        licence=engine.licence,
        source=about["source"],
    )

    def factory(*, device: str = "cpu") -> Reward:
        del device  # the engines run on the CPU
        reader = made(f"engine {engine.name}") or engine()
        return scorer(reader, info=info, scale=scale)

    factory.info = info  # type: ignore[attr-defined]
    return factory
