"""OCR reward: does the image say what the prompt puts in double quotes?

Source: NVlabs/DiffusionNFT@24af555 flow_grpo/ocr.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from rapidfuzz.distance import Levenshtein

from rewards.base import ConfigError, Prompt, Reward, RewardInfo, Scores, unfit
from rewards.ocr import engines as ocr_engines
from rewards.ocr.engines import Line, OcrEngine, OcrFailure


def quoted_text(prompt: str) -> str:
    """The text that an image should show: what follows the prompt's first `"`, up to the next one.

    Empty where the prompt has no straight quote. Quirk: a quote that is never closed runs to the
    end, as upstream.
    """
    return prompt.split('"')[1] if '"' in prompt else ""


def plain(text: str) -> str:
    """Text as it is compared: lower case, without spaces; accents and punctuation stay."""
    return text.replace(" ", "").lower()


def read_text(lines: Sequence[Line]) -> str:
    """All lines joined without a gap in reading order; those of confidence <= 0 do not count."""
    return "".join(line.text for line in lines if line.confidence > 0)


def ocr_reward(read: str, target: str) -> float:
    """1 - edit distance / length of the target, both texts `plain`, the distance cut at the length.

    Quirk: a target that stands anywhere within the text read scores 1, however much else was read.

    Args:
        read: text found in the image.
        target: text asked for, with at least one character that is not a space.

    Returns:
        In [0, 1]; 1 is best.
    """
    read, target = plain(read), plain(target)
    assert target, "the target must not be blank"
    distance = 0 if target in read else min(Levenshtein.distance(read, target), len(target))
    return 1 - distance / len(target)


def spam_share(read: str, target: str) -> float:
    """Share of the characters read beyond the target's length, 0 to 1; 0 where nothing was read."""
    read, target = plain(read), plain(target)
    return max(0, len(read) - len(target)) / len(read) if read else 0.0


class Ocr:
    """How much of the quoted text can be read in the image, in [0, 1].

    Parts: `exact` is 1 where all that was read is the target and nothing else; `spam` is the share
    of text beyond the target, which the value itself does not punish. Evidence: `target`, `read`,
    `lines` (text, confidence, box).

    Differs: upstream reads RGB pixels as BGR, and scores 0 where its engine fails; here colours are
    right, but for `@pp2.9`, and a failure is NaN with the engine's message.
    """

    def __init__(self, engine: OcrEngine, *, info: RewardInfo, scale: int = 1) -> None:
        """Put a variant together.

        Args:
            engine: reads the lines of one picture.
            info: what the numbers of this variant mean.
            scale: pictures are enlarged this many times (bicubic) before they are read.
        """
        self.info = info
        self._engine = engine
        self._scale = scale

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Judge images: see `Reward.score`."""
        unseen = unfit(images)
        judged = [self._judge(*pair, unseen) for pair in zip(images, prompts, strict=True)]
        rows = np.array([numbers for numbers, _, _ in judged], dtype=np.float32).reshape(-1, 3)
        return Scores(
            values=rows[:, 0],
            reasons=tuple(reason for _, reason, _ in judged),
            parts={"exact": rows[:, 1], "spam": rows[:, 2]},
            evidence=tuple(evidence for _, _, evidence in judged),
        )

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that quote nothing.

        Raises:
            ConfigError: naming the first such prompt.
        """
        for prompt in prompts:
            fault = _fault(prompt)
            if fault:
                raise ConfigError(
                    f"prompt {prompt.id!r} cannot be scored by {self.info.key}: {fault}."
                )

    def _judge(
        self, image: np.ndarray, prompt: Prompt, unseen: str
    ) -> tuple[tuple[float, float, float], str, dict[str, Any]]:
        """Value, `exact` and `spam`; the reason where they are NaN; the evidence."""
        unscored = (np.nan, np.nan, np.nan)
        fault = _fault(prompt) or unseen
        if fault:
            return unscored, fault, {}
        target = quoted_text(prompt.text)
        try:
            lines = self._engine.read(_enlarge(image, self._scale))
        except OcrFailure as failure:
            return unscored, f"the OCR engine failed: {failure}", {"target": target}
        read = read_text(lines)
        exact = float(plain(read) == plain(target))
        numbers = (ocr_reward(read, target), exact, spam_share(read, target))
        return numbers, "", {"target": target, "read": read, "lines": _json(lines, self._scale)}


def _fault(prompt: Prompt) -> str:
    if plain(quoted_text(prompt.text)):
        return ""
    return f'it has no text in straight double quotes ("..."): {prompt.text!r}'


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    if scale == 1:
        return image
    height, width = image.shape[:2]
    size = (width * scale, height * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _json(lines: Sequence[Line], scale: int) -> list[dict[str, Any]]:
    """Lines for evidence, boxes in pixels of the picture as it was before it was enlarged."""
    return [
        {
            "text": line.text,
            "confidence": round(line.confidence, 3),
            "box": [round(edge / scale, 1) for edge in line.box],
        }
        for line in lines
    ]


# --- the registered variants ----------------------------------------------------------------------


def _variant(engine: type[OcrEngine], scale: int) -> Callable[..., Reward]:
    """Factory of one variant, with its `info`."""
    enlarged = f", pictures enlarged {scale}x (bicubic)" if scale > 1 else ""
    info = RewardInfo(
        name="ocr",
        variant=engine.name + (f"-x{scale}" if scale > 1 else ""),
        summary=f"share of the quoted text that {engine.summary} reads{enlarged}",
        low=0.0,
        high=1.0,
        needs="quoted text",
        weights=engine.weights,
        files=engine.files,
        licence=engine.licence,
        source="NVlabs/DiffusionNFT@24af555 flow_grpo/ocr.py",
    )

    def factory(*, device: str = "cpu") -> Reward:
        del device  # the engines run on the CPU
        return Ocr(engine(), info=info, scale=scale)

    factory.info = info  # type: ignore[attr-defined]
    return factory


rapidocr = _variant(ocr_engines.RapidOcr, 1)
rapidocr_x4 = _variant(ocr_engines.RapidOcr, 4)
paddleocr = _variant(ocr_engines.PaddleOcr, 1)
paddleocr_x4 = _variant(ocr_engines.PaddleOcr, 4)
pp2_9 = _variant(ocr_engines.PpOcr29, 1)
pp3 = _variant(ocr_engines.PaddleOcr3, 1)
tesseract = _variant(ocr_engines.Tesseract, 1)
tesseract_x4 = _variant(ocr_engines.Tesseract, 4)
