"""Rewards without weights, and the rules of those with them: JPEG size, OCR's arithmetic, GenEval's judge."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rewards import available
from rewards.base import Prompt, RewardInfo
from rewards.certify import Check, Checks, compare
from rewards.geneval.judge import (
    COUNTING_THRESHOLD,
    SCORE_THRESHOLD,
    Verdict,
    colors_asked,
    judge,
    keep,
    relative_position,
)
from rewards.jpeg import Compressibility, Incompressibility
from rewards.ocr.engines import OcrFailure, TextLine
from rewards.ocr.reward import Ocr, ocr_reward, quoted_text, read_text

JPEG = "NVlabs/DiffusionNFT@24af555 flow_grpo/rewards.py (Pillow 10.4)"
OCR = "NVlabs/DiffusionNFT@24af555 flow_grpo/ocr.py"
GENEVAL = "djghosh13/geneval@af4902f evaluation/evaluate_images.py"
NFT = "NVlabs/DiffusionNFT@24af555 flow_grpo/gen_eval.py"
FEW_BYTES = 0.02
"""kB: JPEG encoders differ by a few bytes."""


def jpeg(folder: Path) -> Iterator[Check]:
    """File size of pictures, in kB, and its negative in units of 500 kB."""
    golden = _json(folder, "extras")["jpeg"]
    with np.load(folder / "preprocessing.npz") as stored:
        images = {name: stored[f"image/{name}"] for name in golden if f"image/{name}" in stored}
    for reward, key, tolerance in (
        (Incompressibility(), "incompressibility_kB", FEW_BYTES),
        (Compressibility(), "compressibility", FEW_BYTES / 500),
    ):
        prompt = Prompt(id="any", text="")
        ours = [reward.score(image[None], [prompt]).values[0] for image in images.values()]
        theirs = [golden[name][key] for name in images]
        yield compare(reward.info.summary, ours, theirs, tolerance=tolerance, reference=JPEG)


# --- OCR ------------------------------------------------------------------------------------------


class _Given:
    """An engine that reads what it is given; None breaks it."""

    def __init__(self, page: list[TextLine] | None) -> None:
        self._page = page

    def read(self, image: np.ndarray) -> list[TextLine]:
        if self._page is None:
            raise OcrFailure("no page")
        return self._page


def ocr(folder: Path) -> Iterator[Check]:
    """The reward for given lines; where upstream's engine or arithmetic failed, ours must be NaN with a reason."""
    cases = _json(folder, "ocr_metric")["cases"]
    fine = [case for case in cases if not _failed(case)]
    yield compare(
        "reward of the lines read",
        [ocr_reward(read_text(_lines(case) or []), quoted_text(case["prompt"])) for case in fine],
        [case["reward"] for case in fine],
        tolerance=1e-15,
        reference=OCR,
    )
    yield compare(
        "cases without a value, upstream's exceptions and swallowed failures",
        [np.isnan(_ocr_value(case)) for case in cases],
        [_failed(case) for case in cases],
        tolerance=0,
        reference=OCR,
    )


def _failed(case: dict[str, Any]) -> bool:
    return bool(case["raises"]) or case["engine_failure_swallowed"]


def _lines(case: dict[str, Any]) -> list[TextLine] | None:
    if case["engine_failure_swallowed"]:
        return None
    return [TextLine(text, confidence, (0, 0, 1, 1)) for text, confidence in case["lines"] or []]


def _ocr_value(case: dict[str, Any]) -> float:
    info = RewardInfo(name="ocr", variant="given", summary="", low=0, high=1)
    reward = Ocr(_Given(_lines(case)), info=info)
    prompt = Prompt(id=str(case["id"]), text=case["prompt"])
    return reward.score(np.zeros((1, 8, 8, 3), np.uint8), [prompt]).values[0]


# --- GenEval --------------------------------------------------------------------------------------


def geneval(folder: Path) -> Iterator[Check]:
    """Both rules on given boxes and colours: what counts, the verdicts, the reasons, the partial reward."""
    golden = _json(folder, "geneval_judge")
    cases = golden["cases"]
    judged = [_judged(case) for case in cases]
    official, nft = ([case[rule] for case in cases] for rule in ("official", "nft"))
    others = [kept != case["kept"] for (kept, _), case in zip(judged, cases, strict=True)]
    yield _count("cases in which other boxes count", others, GENEVAL)
    verdicts = [verdict for _, verdict in judged]
    for name, reference, ours, theirs in (
        ("correct", GENEVAL, [v.correct for v in verdicts], [o["correct"] for o in official]),
        ("strict", NFT, [v.strict for v in verdicts], [n["strict_correct"] for n in nft]),
        ("partial reward", NFT, [v.partial for v in verdicts], [n["score"] for n in nft]),
    ):
        yield compare(name, ours, theirs, tolerance=1e-12, reference=reference)
    for name, reference, ours, theirs in (
        ("reason", GENEVAL, [v.reason for v in verdicts], official),
        ("strict reason", NFT, [v.strict_reason for v in verdicts], nft),
    ):
        said = zip(ours, theirs, strict=True)
        other = [_parsed(mine) != _parsed(their["reason"]) for mine, their in said]
        yield _count(f"cases with another {name}", other, reference)
    pairs = golden["relative_position"]
    relations = [relative_position(*(np.float32(pair[side]) for side in "ab")) for pair in pairs]
    other = [sorted(r) != pair["relations"] for r, pair in zip(relations, pairs, strict=True)]
    yield _count("pairs of boxes in another relation", other, GENEVAL)


def _count(name: str, other: list[bool], reference: str) -> Check:
    return compare(name, other, np.zeros(len(other)), tolerance=0, reference=reference)


def _judged(case: dict[str, Any]) -> tuple[dict[str, list[int]], Verdict]:
    """Indices of the boxes that count, by class, and the verdict on them."""
    found = {
        name: np.array(rows, dtype=np.float32).reshape(-1, 5)
        for name, rows in case["detections"].items()
    }
    counting = case["metadata"]["tag"] == "counting"
    indices = keep(found, COUNTING_THRESHOLD if counting else SCORE_THRESHOLD)
    kept = {name: found[name][places] for name, places in indices.items()}
    colors = {
        name: [case["colors"][name][place] for place in indices[name][:count]]
        for name, count in colors_asked(kept, case["metadata"]).items()
    }
    verdict = judge(kept, case["metadata"], colors)
    return {name: places.tolist() for name, places in indices.items()}, verdict


def _parsed(reason: str) -> list[tuple[str, str | frozenset[str]]]:
    """Lines of a reason; the order of the relations found carries no meaning in the reference."""
    halves = [line.partition(", found ") for line in reason.splitlines()]
    return [
        (head, frozenset(tail[:-7].split(" and ")) if tail.endswith(" target") else tail)
        for head, _, tail in halves
    ]


def _json(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


_BY_NAME: dict[str, tuple[Checks, ...]] = {"jpeg": (jpeg,), "ocr": (ocr,), "geneval": (geneval,)}
CHECKS: dict[str, tuple[Checks, ...]] = {
    key: _BY_NAME[key.partition("@")[0]] for key in available() if key.partition("@")[0] in _BY_NAME
}
