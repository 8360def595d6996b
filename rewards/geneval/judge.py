"""GenEval's rules: detected boxes and answered colours in, a verdict out. No model, no file, no image.

Two rules judge the same detections. The official one asks for *at least* the wanted objects;
DiffusionNFT's asks for exactly that many and also gives partial credit, which is what training
uses.

Source: djghosh13/geneval@af4902f evaluation/evaluate_images.py; NVlabs/DiffusionNFT@24af555
flow_grpo/gen_eval.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SCORE_THRESHOLD = 0.3
"""A detection counts when its score is above this."""
COUNTING_THRESHOLD = 0.9
"""The same for prompts of the task `counting`, for every class."""
MAX_OBJECTS = 16
"""Objects kept per class."""
OVERLAP = 0.1
"""Share of the summed sizes by which two centres must be apart before one is left of, above, ...
the other."""
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")

Kept = Mapping[str, np.ndarray]
"""Class -> boxes that count, float32 (n, >= 4) [x1, y1, x2, y2, ...] in pixels, best score first.
"""
Colors = Mapping[str, Sequence[str]]
"""Class -> colour of its kept boxes, in their order; only as many as `boxes_to_color` says are looked
at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What both rules say of one image."""

    correct: bool
    """Official rule: at least the wanted objects, `exclude` heeded."""
    strict: bool
    """DiffusionNFT's rule: exactly the wanted objects, `exclude` ignored."""
    partial: float
    """DiffusionNFT's partial reward, <= 1; negative where far too many objects are found."""
    reason: str
    """Why not `correct`, one line a failed clause; empty when correct."""
    strict_reason: str
    """The same for `strict`."""


def keep(boxes: Mapping[str, np.ndarray], threshold: float) -> dict[str, np.ndarray]:
    """Which detections count.

    Args:
        boxes: class -> float32 (n, 5) [x1, y1, x2, y2, score], any order.
        threshold: scores must be above it, compared in float32: float32(0.3) is not above 0.3.

    Returns:
        Class -> indices into its boxes, highest score first (ties in the given order), at most
        `MAX_OBJECTS`; classes of which nothing counts are left out.
    """
    chosen = {name: _keep(np.asarray(found)[:, 4], threshold) for name, found in boxes.items()}
    return {name: indices for name, indices in chosen.items() if len(indices)}


def _keep(scores: np.ndarray, threshold: float) -> np.ndarray:
    scores = scores.astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return order[scores[order] > np.float32(threshold)][:MAX_OBJECTS]


def relative_position(a: np.ndarray, b: np.ndarray) -> set[str]:
    """Where object a lies, seen from object b.

    The offset of the centres is shortened on each axis by a tenth of both sizes; what is left, over
    the length of the whole offset, must pass one half. Two relations can hold at once. Computed in
    float32, as upstream does.

    Args:
        a: box [x1, y1, x2, y2, ...] in pixels, y down.
        b: the same for the other object.

    Returns:
        Those of `RELATIONS` that hold.
    """
    corners = np.array([a[:4], b[:4]], dtype=np.float32).reshape(2, 2, 2)
    offset = np.subtract(*corners.mean(axis=1))
    sizes = np.abs(corners[:, 1] - corners[:, 0])
    gap = np.maximum(np.abs(offset) - OVERLAP * (sizes[0] + sizes[1]), 0) * np.sign(offset)
    if np.all(np.abs(gap) < 1e-3):
        return set()
    dx, dy = gap / np.linalg.norm(offset)
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, true in holds.items() if true}


def boxes_to_color(kept: Kept, target: Mapping[str, Any]) -> dict[str, int]:
    """How many leading boxes of each class need a colour before the target can be judged."""
    counts: dict[str, int] = {}
    for clause in target.get("include", ()):
        name, count = clause["class"], clause["count"]
        if "color" in clause and len(kept.get(name, ())) >= count:
            counts[name] = max(count, counts.get(name, 0))
    return counts


def judge(kept: Kept, target: Mapping[str, Any], colors: Colors) -> Verdict:
    """Judge one image by both rules.

    Args:
        kept: boxes that count, by class.
        target: GenEval metadata: `include` and `exclude` clauses `{class, count, color?,
            position?}`.
        colors: colour of the leading boxes that `boxes_to_color` names.
    """
    correct, reason = judge_official(kept, target, colors)
    strict, partial, strict_reason = judge_nft(kept, target, colors)
    return Verdict(
        correct=correct, strict=strict, partial=partial, reason=reason, strict_reason=strict_reason
    )


def judge_official(kept: Kept, target: Mapping[str, Any], colors: Colors) -> tuple[bool, str]:
    """GenEval's own rule.

    Quirk: of more objects than wanted only those with the best scores are looked at, for colour and
    position too.

    Returns:
        Whether the image is correct, and why not.

    Source: djghosh13/geneval@af4902f evaluation/evaluate_images.py `evaluate`.
    """
    reasons: list[str] = []
    groups: list[np.ndarray | None] = []
    for clause in target.get("include", ()):
        name, count = clause["class"], clause["count"]
        found = _boxes(kept, name)[:count]
        if len(found) < count:
            failure = f"expected {name}>={count}, found {len(found)}"
        else:
            failure = _color_failure(clause, colors) or _position_failure(clause, found, groups)
        groups.append(None if failure else found)
        if failure:
            reasons.append(failure)
    for clause in target.get("exclude", ()):
        name, count = clause["class"], clause["count"]
        if len(_boxes(kept, name)) >= count:
            reasons.append(f"expected {name}<{count}, found {len(_boxes(kept, name))}")
    return not reasons, "\n".join(reasons)


def judge_nft(kept: Kept, target: Mapping[str, Any], colors: Colors) -> tuple[bool, float, str]:
    """DiffusionNFT's strict rule and partial reward.

    Returns:
        Whether the image is strictly correct, the partial reward (mean of the clauses' entries; 0
        without clauses), and why it is not correct.

    Quirk: a position that fails adds 0 *and* 1 to the mean, so right counts in a wrong relation
    earn 0.75 and not 0.667. `exclude` is never looked at. The entry of a count is negative past
    twice the wanted number.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/gen_eval.py `evaluate_reward` (the quirk: line
    277).
    """
    reasons: list[str] = []
    entries: list[float] = []
    groups: list[np.ndarray | None] = []
    for clause in target.get("include", ()):
        found = _boxes(kept, clause["class"])
        failure, earned = _strict_clause(clause, found, groups, colors)
        groups.append(None if failure else found)
        if failure:
            reasons.append(failure)
        entries += earned
    return not reasons, sum(entries) / len(entries) if entries else 0.0, "\n".join(reasons)


def _strict_clause(
    clause: Mapping[str, Any],
    found: np.ndarray,
    groups: Sequence[np.ndarray | None],
    colors: Colors,
) -> tuple[str, list[float]]:
    """Why a clause fails strictly ("" if it holds), and its entries of the partial reward."""
    name, count = clause["class"], clause["count"]
    entries = [1 - abs(count - len(found)) / count]
    if len(found) != count:
        failure = f"expected {name}=={count}, found {len(found)}"
        return failure, entries + [0.0] * ("color" in clause or "position" in clause)
    if "color" in clause:
        of_color = list(colors[name][:count]).count(clause["color"])
        entries.append(1 - abs(count - of_color) / count)
        failure = _color_failure(clause, colors)
        if failure:
            return failure, entries
    if "position" not in clause:
        return "", entries
    failure = _position_failure(clause, found, groups)
    if failure and groups[clause["position"][1]] is None:
        return failure, [*entries, 0.0]
    return failure, entries + [0.0] * bool(failure) + [1.0]


def _boxes(kept: Kept, name: str) -> np.ndarray:
    return kept.get(name, np.zeros((0, 5), dtype=np.float32))


def _color_failure(clause: Mapping[str, Any], colors: Colors) -> str:
    if "color" not in clause:
        return ""
    name, count, wanted = clause["class"], clause["count"], clause["color"]
    answers = list(colors[name][:count])
    if answers.count(wanted) >= count:
        return ""
    others = ", ".join(f"{answers.count(color)} {color}" for color in _in_order(answers))
    return (
        f"expected {wanted} {name}>={count}, found {answers.count(wanted)} {wanted}; and {others}"
    )


def _in_order(answers: Sequence[str]) -> list[str]:
    """Distinct colours: GenEval's ten in its order, then others by name."""
    extra = sorted(set(answers) - set(COLORS))
    return [color for color in (*COLORS, *extra) if color in answers]


def _position_failure(
    clause: Mapping[str, Any], found: np.ndarray, groups: Sequence[np.ndarray | None]
) -> str:
    if "position" not in clause:
        return ""
    name, (relation, index) = clause["class"], clause["position"]
    targets = groups[index]
    if targets is None:
        return f"no target for {name} to be {relation}"
    for relations in (relative_position(a, b) for a in found for b in targets):
        if relation not in relations:
            return (
                f"expected {name} {relation} target, found {' and '.join(sorted(relations))} target"
            )
    return ""
