"""The OCR metric: closed forms, a slow edit distance, the reference's values; then real engines."""

import json
import shutil
from functools import cache
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftbench.benchmark.registry import load_benchmark
from nftbench.pocket.world import drawing, scenes
from rewards import load_reward
from rewards.base import ConfigError, MissingExtra, MissingWeights, Prompt, RewardInfo
from rewards.checked import checked
from rewards.ocr import models as ocr_models
from rewards.ocr import reward as ocr
from rewards.ocr.engines import (
    OcrFailure,
    PaddleOcr,
    PaddleOcr3,
    PpOcr29,
    RapidOcr,
    Tesseract,
    TextLine,
)
from rewards.ocr.reward import Ocr, ocr_reward, plain, quoted_text, read_text, spam_share
from tests.helpers.paths import GOLDEN
from tests.helpers.signs import signs

GOLDEN = json.loads((GOLDEN / "ocr_metric.json").read_text("utf-8"))
INFO = RewardInfo(name="ocr", variant="fake", summary="", low=0, high=1, needs="quoted text")
BOX = (8.0, 4.0, 40.0, 20.0)


class FakeEngine:
    """Says the lines it was given; None breaks."""

    at_once = 1

    def __init__(self, *pages):
        self.pages = list(pages)
        self.seen = []

    def read(self, image):
        self.seen.append(image)
        page = self.pages.pop(0)
        if page is None:
            raise OcrFailure("it broke")
        return [TextLine(text, confidence, BOX) for text, confidence in page]


def scored(prompt: str, page, scale: int = 1):
    reward = Ocr(FakeEngine(page), info=INFO, scale=scale)
    return reward.score(np.zeros((1, 16, 16, 3), dtype=np.uint8), [Prompt(id="p", text=prompt)])


def slow_distance(a: str, b: str) -> int:
    """Edit distance by its recursive definition."""

    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        change = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(change, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(a), len(b))


@pytest.mark.parametrize(
    ("read", "target", "reward"),
    [
        ("HELLO", "hello", 1.0),
        ("he llo", "Hel lo", 1.0),
        ("say hello world", "hello", 1.0),  # anything beside the target is free
        ("hellx", "hello", 0.8),
        ("", "hello", 0.0),
        ("a much longer line", "xyz", 0.0),  # the distance is cut at the target's length
        ("stra\u00dfe", "STRASSE", 5 / 7),  # lower case, not case folding
    ],
)
def test_ocr_reward(read, target, reward):
    assert ocr_reward(read, target) == pytest.approx(reward, abs=1e-15)


words = st.text(alphabet="abC é", max_size=8)


@given(words, words.filter(lambda text: plain(text)))
def test_ocr_reward_against_a_slow_distance(read, target):
    a, b = plain(read), plain(target)
    expected = 1.0 if b in a else 1 - min(slow_distance(a, b), len(b)) / len(b)
    assert ocr_reward(read, target) == expected


@pytest.mark.parametrize(
    ("read", "target", "share"),
    [("ab", "ab", 0.0), ("abcd", "ab", 0.5), ("", "ab", 0.0), ("a", "ab", 0.0)],
)
def test_spam_share(read, target, share):
    assert spam_share(read, target) == share


def test_quoted_text():
    assert quoted_text('a sign "STOP" and "GO"') == "STOP"
    assert quoted_text('a sign "STOP') == "STOP"
    assert quoted_text("a sign \u201cSTOP\u201d") == ""


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ('a 12" ruler beside a card that says "HELLO"', "it has 3 double quotes"),
        (r"a sign that says \"KITE\"", "a backslash stands before"),
        ('a sign "STOP" and a sign "GO"', "it has 4 double quotes"),
        ('a sign "STOP', "never closed"),
        ('a 12" ruler and a 5" pen', "stands behind a digit"),
        ('a sign "STOP" and one \u201cGO\u201d', "curly double quotes"),
    ],
)
def test_a_users_own_prompt_says_which_text_it_means(text, doubt):
    """Of published prompts the reference's rule holds, whatever it makes of them."""
    image, reward = np.zeros((1, 16, 16, 3), np.uint8), Ocr(FakeEngine([("X", 1.0)]), info=INFO)
    reward.check([Prompt(id="p", text=text)])
    assert not np.isnan(reward.score(image, [Prompt(id="p", text=text)]).values[0])
    mine = Prompt(id="p", text=text, origin="mine.txt, line 3")
    with pytest.raises(ConfigError, match=rf"^mine.txt, line 3: prompt 'p' cannot .*{doubt}"):
        checked(reward).check([Prompt(id="q", text='a sign "GO"'), mine])
    scores = reward.score(image, [mine])
    assert np.isnan(scores.values[0]) and doubt in scores.reasons[0]


@pytest.mark.parametrize("text", ['a sign saying"HI"', 'route "66" in 1950', 'say "it\'s 5" now'])
def test_one_text_in_quotes_is_no_doubt(text):
    Ocr(FakeEngine(), info=INFO).check([Prompt(id="p", text=text, origin="mine.txt, line 1")])


def test_every_official_prompt_would_pass_as_a_users_own():
    for name in ("ocr", "ocr-pocket"):
        try:
            prompts = load_benchmark(name).load()
        except ConfigError:
            continue  # the official file is not shipped
        assert [p.text for p in prompts if ocr.quoting_doubt(p.text)] == []


@pytest.mark.parametrize(
    ("read", "target"),
    [
        ("\uff28\uff25\uff2c\uff2c\uff2f", "HELLO"),
        ("CAFE\u0301", "caf\u00e9"),
        ("DON'T", "don\u2019t"),
        ("\ufb01ne\u00a0day", "fine day"),
    ],
)
def test_nfkc_takes_what_looks_alike_for_alike(read, target):
    prompt, image = [Prompt(id="p", text=f'a sign "{target}"')], np.zeros((1, 16, 16, 3), np.uint8)
    values = [
        kind(FakeEngine([(read, 1.0)]), info=INFO).score(image, prompt).values[0]
        for kind in (Ocr, ocr.OcrNfkc)
    ]
    assert values[0] < 1 == values[1]
    assert ocr.rapidocr_nfkc.info.key == "ocr@rapidocr-nfkc"


@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)))
def test_nfkc_changes_no_plain_text(read, target):
    assert (ocr.normalised(read), ocr.normalised(target)) == (read, target)


def test_read_text_joins_lines_without_a_gap():
    lines = [
        TextLine("ab", 0.9, BOX),
        TextLine("x", 0.0, BOX),
        TextLine("y", -0.1, BOX),
        TextLine("c", 0.1, BOX),
    ]
    assert read_text(lines) == "abc"


@pytest.mark.parametrize("kind", sorted({case["kind"] for case in GOLDEN["cases"]}))
def test_golden(kind):
    for case in (c for c in GOLDEN["cases"] if c["kind"] == kind):
        page = None if case["engine_failure_swallowed"] else case["lines"] or []
        scores = scored(case["prompt"], page)
        if case["raises"] or case["engine_failure_swallowed"]:
            assert np.isnan(scores.values[0]) and scores.reasons[0], case["id"]
            continue
        assert scores.values[0] == np.float32(case["reward"]), case["id"]
        lines = [TextLine(text, confidence, BOX) for text, confidence in page]
        exact = ocr_reward(read_text(lines), quoted_text(case["prompt"]))
        assert exact == pytest.approx(case["reward"], abs=1e-15), case["id"]


def test_golden_is_whole():
    assert len(GOLDEN["cases"]) == 266


def test_exact_and_spam_tell_what_the_value_hides():
    scores = scored('a sign "STOP"', [("STOP", 0.9), ("SALE", 0.9)])
    assert (scores.values[0], scores.parts["exact"][0], scores.parts["spam"][0]) == (1, 0, 0.5)
    clean = scored('a sign "STOP"', [("st op", 0.9)])
    assert (clean.values[0], clean.parts["exact"][0], clean.parts["spam"][0]) == (1, 1, 0)


def test_failure_is_nan_and_leaves_the_others_alone():
    images = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    prompts = [Prompt(id=i, text=t) for i, t in [("a", '"GO"'), ("b", '"GO"'), ("c", "no quote")]]
    scores = Ocr(FakeEngine(None, [("GO", 0.9)]), info=INFO).score(images, prompts)
    np.testing.assert_array_equal(scores.values, [np.nan, 1, np.nan])
    np.testing.assert_array_equal(scores.parts["exact"], [np.nan, 1, np.nan])
    assert "it broke" in scores.reasons[0] and "quotes" in scores.reasons[2]


def test_check_names_the_prompt_that_quotes_nothing():
    reward = Ocr(FakeEngine(), info=INFO)
    reward.check([Prompt(id="good", text='a sign "GO"')])
    for text in ("no quote", 'an empty ""', 'a blank "  "', "curly \u201cGO\u201d"):
        with pytest.raises(ConfigError, match=r"'bad'.*quotes"):
            reward.check([Prompt(id="good", text='"GO"'), Prompt(id="bad", text=text)])


def test_pictures_are_enlarged_and_boxes_told_in_the_original():
    image = np.zeros((1, 16, 12, 3), dtype=np.uint8)
    engine = FakeEngine([("GO", 0.98765)])
    scores = Ocr(engine, info=INFO, scale=4).score(image, [Prompt(id="p", text='"GO"')])
    assert engine.seen[0].shape == (64, 48, 3)
    line = {"text": "GO", "confidence": 0.988, "box": [2.0, 1.0, 10.0, 5.0]}
    assert scores.evidence == ({"target": "GO", "read": "GO", "lines": [line]},)


def test_variants_say_what_they_read():
    assert (
        ocr.rapidocr.info.key == "ocr@rapidocr" and ocr.tesseract_x4.info.key == "ocr@tesseract-x4"
    )
    assert (
        "enlarged 4x" in ocr.rapidocr_x4.info.summary
        and "enlarged" not in ocr.rapidocr.info.summary
    )
    assert all("sha256" in source for source in ocr.rapidocr.info.weights)


# --- real engines ---------------------------------------------------------------------------------


@cache
@pytest.mark.slow
def test_rapidocr_reads_clean_signs():
    images, prompts = signs(8)
    reward = ocr.rapidocr_x4()
    scores = reward.score(images, prompts)
    assert scores.values.mean() > 0.95 and scores.parts["exact"].mean() >= 7 / 8
    json.dumps(scores.evidence)
    swapped = reward.score(images[:4], prompts[4:])
    assert swapped.values.mean() < 0.5


def test_rapidocr_reads_nothing_on_a_plain_picture():
    assert RapidOcr().read(np.full((64, 64, 3), 200, dtype=np.uint8)) == []


def test_rapidocr_tells_lines_in_reading_order_with_boxes():
    two = next(s for s in map(_sign, range(100)) if len(s.words) == 2)
    lines = RapidOcr().read(drawing.render(two).repeat(4, axis=0).repeat(4, axis=1))
    assert tuple(line.text for line in lines) == two.words
    (top, bottom) = (line.box for line in lines)
    assert 0 <= top[0] < top[2] <= 256 and top[3] <= bottom[3] and top[1] < bottom[1]


def _sign(seed: int):
    return scenes.random_scene(np.random.default_rng(seed), "sign")


def test_an_error_inside_rapidocr_is_a_failure_with_its_last_line(monkeypatch):
    def breaks(image):
        raise cv2.error("OpenCV says:\nbad picture")

    engine = RapidOcr()
    monkeypatch.setattr(engine, "_engine", breaks)
    with pytest.raises(OcrFailure, match=r"^bad picture$"):
        engine.read(np.zeros((8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (64, 16)])
def test_rapidocr_survives_odd_shapes(shape):
    assert RapidOcr().read(np.zeros((*shape, 3), dtype=np.uint8)) == []


@pytest.fixture(scope="module")
def pp29():
    """PaddleOCR 2.9's settings on the models of the wheel, which stand in for the pinned ones."""
    return PpOcr29(*ocr_models.ppocr_models())


def test_pp29_sees_red_and_blue_swapped(pp29):
    """Upstream hands an RGB array to an engine that takes it for BGR."""
    given = []
    engine, pp29._engine = pp29._engine, lambda picture: given.append(picture) or engine(picture)
    image = np.zeros((32, 48, 3), dtype=np.uint8)
    image[..., 0] = 255
    assert pp29.read(image) == [] and np.array_equal(given[0], image)
    pp29._engine = engine
    rapid = RapidOcr()
    theirs, rapid._engine = rapid._engine, lambda picture: given.append(picture) or theirs(picture)
    rapid.read(image)
    assert np.array_equal(given[1], image[..., ::-1])


def test_pp29_runs_with_paddleocr_2_9_settings(pp29):
    assert (
        pp29.read(np.full((40, 40, 3), 200, dtype=np.uint8)) == []
    )  # networks load with the first picture
    detector = pp29._engine.first.text_det
    after = detector.postprocess_op
    assert (detector.limit_type, detector.limit_side_len) == ("max", 960)
    assert list(detector.mean) == [0.485, 0.456, 0.406]
    assert list(detector.std) == [0.229, 0.224, 0.225]
    assert (after.thresh, after.box_thresh, after.unclip_ratio) == (0.3, 0.6, 1.5)
    assert after.dilation_kernel is None and after.score_mode == "fast"
    assert pp29._engine.first.text_score == 0.5


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((64, 100), (64, 96)),
        ((512, 512), (512, 512)),
        ((1920, 480), (960, 256)),
        ((40, 40), (32, 32)),
    ],
)
def test_pp29_shrinks_to_960_and_enlarges_nothing(pp29, shape, size):
    """The longer side at most 960, then both rounded to multiples of 32."""
    pp29.read(np.full((40, 40, 3), 200, dtype=np.uint8))
    assert pp29._engine.first.text_det.get_preprocess().resize(
        np.zeros((*shape, 3), np.uint8)
    ).shape == (
        *size,
        3,
    )


@pytest.mark.slow
def test_pp29_reads_large_signs(pp29):
    images, prompts = signs(8)
    scores = Ocr(pp29, info=ocr.pp2_9.info, scale=8).score(images, prompts)
    assert scores.values.mean() > 0.9


def test_fetched_models_are_pinned(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"nftbench rewards pull ocr@pp2\.9"):
        load_reward("ocr@pp2.9")
    assert [file.name for file in ocr.pp2_9.info.files] == [
        "pp-ocr-2.9/en_PP-OCRv3_det_mobile.onnx",
        "pp-ocr-2.9/en_PP-OCRv4_rec_mobile.onnx",
    ]
    assert len(ocr.pp3.info.files) == 10 and ocr.rapidocr.info.files == ()
    unknown = [file.name for file in ocr.pp3.info.files if len(file.sha256) != 64]
    assert unknown == ["PP-LCNet_x1_0_doc_ori_onnx/inference.yml"]


@pytest.mark.skipif(find_spec("paddleocr") is not None, reason="PaddleOCR is installed")
@pytest.mark.parametrize("engine", [PaddleOcr, PaddleOcr3])
def test_missing_paddleocr_names_the_extra(engine):
    with pytest.raises(MissingExtra, match=r"pip install 'nftbench\[paddle\]'"):
        engine()


@pytest.mark.skipif(find_spec("pytesseract") is not None, reason="pytesseract is installed")
def test_missing_pytesseract_names_the_extra():
    with pytest.raises(MissingExtra, match=r"pip install 'nftbench\[tesseract\]'"):
        Tesseract()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pytesseract") is None, reason="pytesseract is not installed")
@pytest.mark.skipif(shutil.which("tesseract") is None, reason="the tesseract program is missing")
def test_tesseract_reads_most_clean_signs():
    images, prompts = signs(8)
    assert ocr.tesseract_x4().score(images, prompts).values.mean() > 0.5
