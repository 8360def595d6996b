"""OCR reward: does the image say what the prompt puts in double quotes?

Source: NVlabs/DiffusionNFT@24af555 flow_grpo/ocr.py.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rapidfuzz.distance import Levenshtein

from rewards.ocr import engines as ocr_engines
from rewards.ocr.engines import TextLine
from rewards.ocr.scorer import Reading, TextScorer, variant

CURLY = "\u201c\u201d\u201e\u00ab\u00bb"
"""Double quotes that no rule looks at."""
STRAIGHT = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a", "'") | dict.fromkeys("\u201c\u201d\u201e", '"')
)
"""Curly quotes -> straight ones; an apostrophe is most often one of the former."""


def quoted_text(prompt: str) -> str:
    """The text that an image should show: what follows the prompt's first `"`, up to the next one.

    Empty where the prompt has no straight quote. Quirk: a quote that is never closed runs to the
    end, as upstream.
    """
    return prompt.split('"')[1] if '"' in prompt else ""


def quoting_doubt(prompt: str) -> str:
    """What makes it open which text a prompt puts in double quotes, in words; empty where nothing does."""
    before, *rest = prompt.split('"')
    remedy = "write one text in straight double quotes, and no other (inches as a word)"
    if len(rest) == 1:
        return f"its double quote is never closed; {remedy}"
    if len(rest) > 2:
        return f"it has {len(rest)} double quotes, of which the first two would count; {remedy}"
    if before[-1:].isdigit():
        return f"its first double quote stands behind a digit, as if for inches; {remedy}"
    if before.endswith("\\"):
        return f"a backslash stands before its double quote; {remedy}"
    if any(mark in before + rest[-1] for mark in CURLY):
        return f"it has curly double quotes beside straight ones; {remedy}"
    return ""


def plain(text: str) -> str:
    """Text as it is compared: lower case, without spaces; accents and punctuation stay."""
    return text.replace(" ", "").lower()


def read_text(lines: Sequence[TextLine]) -> str:
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


class Ocr(TextScorer):
    """How much of the quoted text can be read in the image, in [0, 1].

    Parts: `exact` is 1 where all that was read is the target and nothing else; `spam` is the share
    of text beyond the target, which the value itself does not punish. Evidence: `target`, `read`,
    `lines` (text, confidence, box).

    Differs: upstream reads RGB pixels as BGR, and scores 0 where its engine fails; here colours are
    right, but for `@pp2.9`, and a failure is NaN with the engine's message.
    """

    parts = ("exact", "spam")
    asks_nothing = 'it has no text in straight double quotes ("...")'

    def target(self, prompt: str) -> str:
        """The quoted text; empty where it is blank."""
        text = quoted_text(prompt)
        return text if plain(text) else ""

    def doubt(self, prompt: str) -> str:
        """See `TextScorer.doubt`."""
        return quoting_doubt(prompt)

    def compare(self, lines: Sequence[TextLine], target: str) -> Reading:
        """See `TextScorer.compare`."""
        read = read_text(lines)
        exact = float(plain(read) == plain(target))
        return Reading(
            value=ocr_reward(read, target),
            parts={"exact": exact, "spam": spam_share(read, target)},
            evidence={"target": target, "read": read, "lines": _json(lines)},
        )


class OcrNfkc(Ocr):
    """The same of texts in one Unicode form: what looks alike to a reader is alike.

    Full width, ligatures, accents written apart and no-break spaces become plain (NFKC), curly quotes straight. On
    texts that these leave as they are it equals `Ocr`.

    Source: Unicode Standard Annex 15; the quotes are this project's.
    """

    def target(self, prompt: str) -> str:
        """The quoted text, normalised; empty where it is blank."""
        text = normalised(super().target(prompt))
        return text if plain(text) else ""

    def compare(self, lines: Sequence[TextLine], target: str) -> Reading:
        """See `TextScorer.compare`."""
        return super().compare([replace(x, text=normalised(x.text)) for x in lines], target)


def normalised(text: str) -> str:
    """Text in Unicode's form NFKC, with straight quotes."""
    return unicodedata.normalize("NFKC", text.translate(STRAIGHT))


def _json(lines: Sequence[TextLine]) -> list[dict[str, Any]]:
    """Lines for evidence."""
    return [
        {
            "text": line.text,
            "confidence": round(line.confidence, 3),
            "box": [round(edge, 1) for edge in line.box],
        }
        for line in lines
    ]


# --- the registered variants ----------------------------------------------------------------------

_variant = partial(
    variant,
    Ocr,
    name="ocr",
    summary="share of the quoted text that {engine} reads",
    source="NVlabs/DiffusionNFT@24af555 flow_grpo/ocr.py",
)
rapidocr = _variant(ocr_engines.RapidOcr)
rapidocr_x4 = _variant(ocr_engines.RapidOcr, scale=4)
paddleocr = _variant(ocr_engines.PaddleOcr)
paddleocr_x4 = _variant(ocr_engines.PaddleOcr, scale=4)
pp2_9 = _variant(ocr_engines.PpOcr29)
pp3 = _variant(ocr_engines.PaddleOcr3)
tesseract = _variant(ocr_engines.Tesseract)
tesseract_x4 = _variant(ocr_engines.Tesseract, scale=4)

_nfkc = partial(
    variant,
    OcrNfkc,
    name="ocr",
    ending="-nfkc",
    summary="share of the quoted text that {engine} reads, both in one Unicode form (NFKC)",
    source="NVlabs/DiffusionNFT@24af555 flow_grpo/ocr.py; Unicode Standard Annex 15",
)
rapidocr_nfkc = _nfkc(ocr_engines.RapidOcr)
paddleocr_nfkc = _nfkc(ocr_engines.PaddleOcr)
pp2_9_nfkc = _nfkc(ocr_engines.PpOcr29)
pp3_nfkc = _nfkc(ocr_engines.PaddleOcr3)
tesseract_nfkc = _nfkc(ocr_engines.Tesseract)
