"""MARIO-Eval's word metrics: by hand, by a slow oracle, and on a sign that is drawn and read."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

import rewards
from rewards.base import ConfigError, Prompt
from rewards.ocr.engines import OcrFailure, TextLine
from rewards.ocr.words import OcrWords, keywords, rapidocr, word_scores, words_read

words = st.lists(st.sampled_from(["a", "b", "ab", "new", "york"]), max_size=6)


class Told:
    """An engine that reads what it is told, line by line; nothing at all is a failure."""

    at_once = 1

    def __init__(self, *pictures):
        self.pictures = list(pictures)

    def read(self, image):
        lines = self.pictures.pop(0)
        if lines is None:
            raise OcrFailure("no light")
        return [TextLine(text, confidence, (0, 0, 1, 1)) for text, confidence in lines]


def judged(prompt: str, *pictures):
    judge = OcrWords(Told(*pictures), info=rapidocr.info)
    images = np.zeros((len(pictures), 4, 4, 3), dtype=np.uint8)
    return judge.score(images, [Prompt(id="0", text=prompt)] * len(pictures))


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("A film poster of 'The Dark Knight' at night", ["the", "dark", "knight"]),
        ("'One' and 'Two Three'", ["one", "two", "three"]),
        ('no quotes, "double ones" neither', []),
        ("'  '", []),
        ("it's 'late'", ["s"]),  # the apostrophe opens a pair, as upstream
    ],
)
def test_keywords(prompt, found):
    assert keywords(prompt) == found


def test_words_of_lines_that_count():
    lines = [TextLine("The DARK", 0.9, (0, 0, 1, 1)), TextLine("x", 0.0, (0, 0, 1, 1))]
    assert words_read(lines) == ["the", "dark"]


@pytest.mark.parametrize(
    ("read", "target", "scores"),
    [
        (["a", "b"], ["b", "a"], (1, 1, 1, 1)),
        (["a"], ["a", "b"], (1, 1 / 2, 2 / 3, 0)),
        (["a", "a", "b"], ["a", "b"], (2 / 3, 1, 4 / 5, 0)),
        ([], ["a"], (0, 0, 0, 0)),
        (["c"], ["a"], (0, 0, 0, 0)),
        (["new", "york"], ["newyork"], (0, 0, 0, 0)),
    ],
)
def test_scores_by_hand(read, target, scores):
    assert word_scores(read, target) == pytest.approx(scores)


@given(words, words.filter(bool))
def test_as_one_crosses_words_out(read, target):
    """The oracle strikes each word read from a list of those asked for."""
    left, hits = list(target), 0
    for word in read:
        if word in left:
            left.remove(word)
            hits += 1
    precision, recall, f, exact = word_scores(read, target)
    assert precision == pytest.approx(hits / len(read) if read else 0)
    assert recall == pytest.approx(hits / len(target))
    mean = 2 * precision * recall / (precision + recall) if hits else 0
    assert f == pytest.approx(mean)
    assert exact == (sorted(read) == sorted(target))


def test_the_value_is_f_and_a_failure_is_nan():
    scores = judged("'Dark Star'", [("dark", 1.0)], None, [("STAR dark", 1.0)])
    np.testing.assert_allclose(scores.values, [2 / 3, math.nan, 1], rtol=1e-6)
    np.testing.assert_allclose(scores.parts["precision"], [1, math.nan, 1])
    np.testing.assert_allclose(scores.parts["recall"], [0.5, math.nan, 1])
    np.testing.assert_array_equal(scores.parts["f"], scores.values)
    assert scores.reasons == ("", "the OCR engine failed: no light", "")
    assert scores.evidence[2] == {"target": ["dark", "star"], "read": ["star", "dark"]}


def test_a_prompt_without_words_is_refused_and_never_zero():
    judge = OcrWords(Told(), info=rapidocr.info)
    with pytest.raises(ConfigError, match="prompt '7' cannot be scored by ocr-words@rapidocr"):
        judge.check([Prompt(id="7", text='a "sign"')])
    scores = judged("a sign", [("a", 1.0)])
    assert np.isnan(scores.values[0]) and "single quotes" in scores.reasons[0]


@pytest.mark.parametrize(
    ("text", "doubt"), [("a dog's 'DARK'", "within a word"), ("a 'DARK' 'X", "odd number")]
)
def test_an_apostrophe_in_a_users_own_prompt_is_refused(text, doubt):
    judge = OcrWords(Told(), info=rapidocr.info)
    judge.check([Prompt(id="7", text=text)])
    with pytest.raises(ConfigError, match=rf"prompt '7' cannot .*{doubt}"):
        judge.check([Prompt(id="7", text=text, origin="mine, line 1")])


def test_the_name_means_the_only_variant():
    assert rewards.resolve("ocr-words") == "ocr-words@rapidocr"
    assert rewards.reward_info("ocr-words").needs == "quoted text"


@pytest.mark.slow
def test_a_drawn_cover_is_read():
    page = Image.new("RGB", (256, 256), "white")
    font = ImageFont.load_default(40)
    ImageDraw.Draw(page).text((30, 60), "DARK\nWINTER", fill="black", font=font)
    wanted = [Prompt(id="0", text=f"a book named '{name}'") for name in ("Dark Winter", "Dark Sun")]
    judge = rewards.load_reward("ocr-words")
    judge.check(wanted)
    scores = judge.score(np.stack([np.asarray(page)] * 2), wanted)
    np.testing.assert_allclose(scores.values, [1.0, 0.5])
    np.testing.assert_allclose(scores.parts["exact"], [1.0, 0.0])
