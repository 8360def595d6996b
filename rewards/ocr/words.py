"""Word accuracy of rendered text, as MARIO-Eval counts it: keywords in single quotes against the words read.

Source: microsoft/unilm@159df56 textdiffuser/eval/ocr_eval.py.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rewards.base import ConfigError, Prompt, Reward, RewardInfo, Scores, unfit
from rewards.ocr import engines as ocr_engines
from rewards.ocr.engines import Line, OcrEngine, OcrFailure

PARTS = ("precision", "recall", "f", "exact")


def keywords(prompt: str) -> list[str]:
    """The words that an image should show: all that stands between pairs of `'`, lower case, cut at spaces.

    Quirk: an apostrophe opens a pair as well, as upstream.

    Source: ocr_eval.py:32 get_key_words.
    """
    return [word for part in re.findall("'(.*?)'", prompt.lower()) for word in part.split()]


def words_read(lines: Sequence[Line]) -> list[str]:
    """The words of all lines that count (confidence > 0), lower case, in reading order."""
    return [w for line in lines if line.confidence > 0 for w in line.text.lower().split()]


def word_scores(read: Sequence[str], target: Sequence[str]) -> tuple[float, float, float, float]:
    """How well the words read are the words asked for.

    Args:
        read: words found in the image, in any order.
        target: words asked for, at least one.

    Returns:
        Precision and recall, with multiplicity; F, their harmonic mean (0 where both are 0); and `exact`, 1 where both
        multisets are equal. All in [0, 1].

    Source: ocr_eval.py:58 get_p_r_acc.
    Differs: upstream adds 1e-8 to the denominators; takes F once, of the means of precision and recall over all
        images; and compares the sorted words joined without a gap, so that `new york` read for `newyork` is exact
        to it and is not here.
    """
    assert target, "there must be words to look for"
    shared = (Counter(read) & Counter(target)).total()
    precision = shared / len(read) if read else 0.0
    recall = shared / len(target)
    f = 2 * shared / (len(read) + len(target))
    return precision, recall, f, float(Counter(read) == Counter(target))


class OcrWords:
    """How many of the single-quoted words can be read in the image: F, in [0, 1].

    Parts: `precision`, `recall`, `f` (the value itself) and `exact`. Evidence: `target`, `read`.

    Differs: upstream reads with MaskTextSpotter v3; a failure of the engine is NaN here.
    """

    def __init__(self, engine: OcrEngine, *, info: RewardInfo) -> None:
        """Put a variant together.

        Args:
            engine: reads the lines of one picture.
            info: what the numbers of this variant mean.
        """
        self.info = info
        self._engine = engine

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Judge images: see `Reward.score`."""
        unseen, count = unfit(images), len(PARTS)
        judged = [self._judge(*pair, unseen) for pair in zip(images, prompts, strict=True)]
        rows = np.array([numbers for numbers, _, _ in judged], dtype=np.float32).reshape(-1, count)
        return Scores(
            values=rows[:, PARTS.index("f")],
            reasons=tuple(reason for _, reason, _ in judged),
            parts={part: rows[:, place] for place, part in enumerate(PARTS)},
            evidence=tuple(evidence for _, _, evidence in judged),
        )

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts without a word in single quotes.

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
    ) -> tuple[tuple[float, ...], str, dict[str, Any]]:
        """The parts; the reason where they are NaN; the evidence."""
        unscored = (np.nan,) * len(PARTS)
        fault = _fault(prompt) or unseen
        if fault:
            return unscored, fault, {}
        target = keywords(prompt.text)
        try:
            read = words_read(self._engine.read(image))
        except OcrFailure as failure:
            return unscored, f"the OCR engine failed: {failure}", {"target": target}
        return word_scores(read, target), "", {"target": target, "read": read}


def _fault(prompt: Prompt) -> str:
    if keywords(prompt.text):
        return ""
    return f"it has no word in straight single quotes ('...'): {prompt.text!r}"


def _variant(engine: type[OcrEngine]) -> Callable[..., Reward]:
    """Factory of one variant, with its `info`."""
    info = RewardInfo(
        name="ocr-words",
        variant=engine.name,
        summary=f"F of the single-quoted words that {engine.summary} reads, as MARIO-Eval counts",
        low=0.0,
        high=1.0,
        needs="quoted text",
        weights=engine.weights,
        licence=engine.licence,
        source="microsoft/unilm@159df56 textdiffuser/eval/ocr_eval.py:32,58",
    )

    def factory(*, device: str = "cpu") -> Reward:
        del device  # the engines run on the CPU
        return OcrWords(engine(), info=info)

    factory.info = info  # type: ignore[attr-defined]
    return factory


rapidocr = _variant(ocr_engines.RapidOcr)
