"""Rewards without weights, and the rules of OCR: JPEG size, and what a loaded variant makes of lines read."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rewards import available, load_reward
from rewards.base import Prompt
from rewards.certify import Check, Checks, compare
from rewards.certify.preprocessing import pictures_of, read_golden
from rewards.ocr.engines import OcrFailure, RapidOcr, TextLine
from rewards.weights.stand_ins import standing_in

JPEG = "NVlabs/DiffusionNFT@24af555 flow_grpo/rewards.py (Pillow 10.4)"
OCR = "NVlabs/DiffusionNFT@24af555 flow_grpo/ocr.py"
Form = Callable[[str], str]
CURLY = re.compile("[\u2018\u2019\u201a\u201c\u201d\u201e]")
FEW_BYTES = 0.02
"""kB: JPEG encoders differ by a few bytes."""
JPEG_FIELDS = {
    "jpeg": ("incompressibility_kB", FEW_BYTES),
    "jpeg@compressibility": ("compressibility", FEW_BYTES / 500),
}


def jpeg(key: str, folder: Path) -> Iterator[Check]:
    """The loaded reward's values of pictures."""
    golden, pictures = read_golden(folder, "extras.json")["jpeg"], pictures_of(folder)
    (field, tolerance), reward = JPEG_FIELDS[key], load_reward(key)
    here = [name for name in golden if name in pictures]
    ours = [reward.score(pictures[name][None], [""]).values[0] for name in here]
    theirs = [golden[name][field] for name in here]
    yield compare(reward.info.summary, ours, theirs, tolerance=tolerance, reference=JPEG)


# --- OCR ------------------------------------------------------------------------------------------


class _Given:
    """An engine that reads what it is given, and keeps the picture; no page breaks it."""

    at_once = 1
    page: list[TextLine] | None = None

    def read(self, image: np.ndarray) -> list[TextLine]:
        self.picture = image
        if self.page is None:
            raise OcrFailure("no page")
        return self.page


def _with_given(key: str) -> tuple[Any, _Given]:
    """A reward as it is loaded, but for the engine that reads."""
    engine = _Given()
    name = key.partition("@")[2].removesuffix("-x4").removesuffix("-nfkc")
    with standing_in("lines given", {f"engine {name}": lambda: engine}):
        return load_reward(key), engine


def ocr(key: str, folder: Path) -> Iterator[Check]:
    """The loaded reward for given lines; where upstream's engine or arithmetic failed, ours is NaN with a reason."""
    cases = read_golden(folder, "ocr_metric.json")["cases"]
    if key.endswith("-nfkc"):
        cases = [case for case in cases if _is_plain(case)]
        yield _in_other_forms(key, cases)
    values = _values(key, cases)
    fine = [i for i, case in enumerate(cases) if not _failed(case)]
    yield compare(
        "reward of the lines read",
        [values[i] for i in fine],
        [np.float32(cases[i]["reward"]) for i in fine],
        tolerance=1e-7,
        reference=OCR,
    )
    yield compare(
        "cases without a value, upstream's exceptions and swallowed failures",
        np.isnan(values),
        [_failed(case) for case in cases],
        tolerance=0,
        reference=OCR,
    )
    yield from _enlarged(key, folder)


def _values(key: str, cases: Sequence[dict[str, Any]], form: Form = str) -> list[float]:
    """The loaded reward of lines given, each written in another form."""
    reward, engine = _with_given(key)
    values = []
    for case in cases:
        lines = _lines(case)
        engine.page = lines and [replace(line, text=form(line.text)) for line in lines]
        prompt = Prompt(id=str(case["id"]), text=case["prompt"])
        values.append(float(reward.score(np.zeros((1, 8, 8, 3), np.uint8), [prompt]).values[0]))
    return values


def _is_plain(case: dict[str, Any]) -> bool:
    """Whether a case's texts are in Unicode's form NFKC, and their quotes are straight."""
    texts = [case["prompt"], *(text for text, _ in case["lines"] or [])]
    return all(unicodedata.is_normalized("NFKC", t) and not CURLY.search(t) for t in texts)


def _in_other_forms(key: str, cases: Sequence[dict[str, Any]]) -> Check:
    """The same values where the lines read are in full width, taken apart, or with curly apostrophes."""
    fine = [case for case in cases if not _failed(case)]
    forms: tuple[Form, ...] = (
        lambda text: text.translate({i: i + 0xFEE0 for i in range(0x21, 0x7F)}),
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: text.replace("'", "\u2019"),
    )
    return compare(
        "reward of the lines read in full width, NFD, curly apostrophes",
        [value for form in forms for value in _values(key, fine, form)],
        [np.float32(case["reward"]) for _ in forms for case in fine],
        tolerance=1e-7,
        reference=OCR,
    )


def _enlarged(key: str, folder: Path) -> Iterator[Check]:
    """The picture that the loaded reward's engine is given."""
    reward, engine = _with_given(key)
    picture = pictures_of(folder)["sq64"]
    engine.page = []
    reward.score(picture[None], ['a sign that says "A"'])
    size = (256, 256) if key.endswith("-x4") else (64, 64)
    wanted = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    name = f"picture of {size[0]}x{size[1]} for the engine"
    yield compare(name, engine.picture, wanted, tolerance=0, reference=OCR)


def channels(key: str, folder: Path) -> Iterator[Check]:
    """The order of channels in which the true engine is given a picture: right colours, as PP-OCR was trained."""
    reader, given = load_reward(key).reward.engine, []  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(reader, RapidOcr)
    inner = reader._engine
    reader._engine = lambda picture: given.append(picture) or inner(picture)  # pyright: ignore[reportAttributeAccessIssue]
    picture = pictures_of(folder)["sq64"]
    reader.read(picture)
    yield compare(
        "channels of the engine, blue first",
        given[0],
        picture[..., ::-1],
        tolerance=0,
        reference="RapidAI/RapidOCR@v3.10.0 (arrays are BGR)",
    )


def _failed(case: dict[str, Any]) -> bool:
    return bool(case["raises"]) or case["engine_failure_swallowed"]


def _lines(case: dict[str, Any]) -> list[TextLine] | None:
    if case["engine_failure_swallowed"]:
        return None
    return [TextLine(text, confidence, (0, 0, 1, 1)) for text, confidence in case["lines"] or []]


CHECKS: dict[str, tuple[Checks, ...]] = {
    **{key: (partial(jpeg, key),) for key in JPEG_FIELDS},
    **{key: (partial(ocr, key),) for key in available() if key.startswith("ocr@")},
}
CHECKS["ocr@rapidocr"] += (partial(channels, "ocr@rapidocr"),)
