"""Word accuracy of rendered text, as MARIO-Eval counts it: keywords in single quotes against the words read.

Source: microsoft/unilm@159df56 textdiffuser/eval/ocr_eval.py.
"""

import re
from collections import Counter
from collections.abc import Sequence

from rewards.ocr import engines as ocr_engines
from rewards.ocr.engines import TextLine
from rewards.ocr.scorer import Reading, TextScorer, variant


def keywords(prompt: str) -> list[str]:
    """The words that an image should show: all that stands between pairs of `'`, lower case, cut at spaces.

    Quirk: an apostrophe opens a pair as well, as upstream.

    Source: ocr_eval.py:32 get_key_words.
    """
    return [word for part in re.findall("'(.*?)'", prompt.lower()) for word in part.split()]


def words_read(lines: Sequence[TextLine]) -> list[str]:
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


class OcrWords(TextScorer):
    """How many of the single-quoted words can be read in the image: F, in [0, 1].

    Parts: `precision`, `recall`, `f` (the value itself) and `exact`. Evidence: `target`, `read`.

    Differs: upstream reads with MaskTextSpotter v3; a failure of the engine is NaN here.
    """

    parts = ("precision", "recall", "f", "exact")
    asks_nothing = "it has no word in straight single quotes ('...')"

    def target(self, prompt: str) -> list[str]:
        """The quoted words."""
        return keywords(prompt)

    def doubt(self, prompt: str) -> str:
        """See `TextScorer.doubt`: an apostrophe opens a pair of quotes."""
        remedy = "write the words in pairs of ' and no other apostrophe"
        if re.search(r"\w'\w", prompt):
            return f"an apostrophe within a word counts as a quote; {remedy}"
        return f"it has an odd number of single quotes; {remedy}" if prompt.count("'") % 2 else ""

    def compare(self, lines: Sequence[TextLine], target: Sequence[str]) -> Reading:
        """See `TextScorer.compare`."""
        read = words_read(lines)
        parts = dict(zip(self.parts, word_scores(read, target), strict=True))
        return Reading(value=parts["f"], parts=parts, evidence={"target": target, "read": read})


rapidocr = variant(
    OcrWords,
    ocr_engines.RapidOcr,
    name="ocr-words",
    summary="F of the single-quoted words that {engine} reads, as MARIO-Eval counts",
    source="microsoft/unilm@159df56 textdiffuser/eval/ocr_eval.py:32,58",
)
