"""The GenEval rules: closed forms, laws that hold for any boxes, the reference's own verdicts."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.geneval.judge import (
    COUNTING_THRESHOLD,
    MAX_OBJECTS,
    SCORE_THRESHOLD,
    Verdict,
    boxes_to_color,
    judge,
    keep,
    relative_position,
)
from tests.helpers.paths import GOLDEN

GOLDEN = json.loads((GOLDEN / "geneval_judge.json").read_text("utf-8"))
KINDS = sorted({case["kind"] for case in GOLDEN["cases"]})


def boxes(*corners) -> np.ndarray:
    return np.array([[*c, 0.95] for c in corners], dtype=np.float32).reshape(-1, 5)


def at(x: float, y: float) -> tuple[float, float, float, float]:
    """A 10x10 box centred on (x, y)."""
    return (x - 5, y - 5, x + 5, y + 5)


def test_all_clauses_hold():
    target = {"include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 2}]}
    kept = {"cat": boxes(at(9, 9)), "dog": boxes(at(40, 9), at(60, 9))}
    expected = Verdict(correct=True, strict=True, partial=1.0, reason="", strict_reason="")
    assert judge(kept, target, {}) == expected


@pytest.mark.parametrize(
    ("found", "correct", "strict", "partial"),
    [
        (0, 0, 0, 0.0),
        (1, 0, 0, 0.5),
        (2, 1, 1, 1.0),
        (3, 1, 0, 0.5),
        (4, 1, 0, 0.0),
        (5, 1, 0, -0.5),
    ],
)
def test_count_of_two_cats(found, correct, strict, partial):
    kept = {"cat": boxes(*[at(10 * i, 9) for i in range(found)])}
    verdict = judge(kept, {"include": [{"class": "cat", "count": 2}]}, {})
    assert (verdict.correct, verdict.strict, verdict.partial) == (correct, strict, partial)


def test_reasons_say_what_was_expected_and_found():
    verdict = judge({"cat": boxes(at(9, 9))}, {"include": [{"class": "cat", "count": 2}]}, {})
    assert verdict.reason == "expected cat>=2, found 1"
    assert verdict.strict_reason == "expected cat==2, found 1"


def test_exclude_binds_the_official_rule_alone():
    clause = {"class": "cat", "count": 1}
    target = {"include": [clause], "exclude": [{"class": "dog", "count": 1}]}
    verdict = judge({"cat": boxes(at(9, 9)), "dog": boxes(at(40, 9))}, target, {})
    assert (verdict.correct, verdict.reason) == (False, "expected dog<1, found 1")
    assert (verdict.strict, verdict.partial) == (True, 1.0)


def test_wrong_color_loses_half_the_clause():
    target = {"include": [{"class": "cat", "count": 1, "color": "red"}]}
    verdict = judge({"cat": boxes(at(9, 9))}, target, {"cat": ["blue"]})
    assert verdict.reason == "expected red cat>=1, found 0 red; and 1 blue"
    assert (verdict.correct, verdict.strict, verdict.partial) == (False, False, 0.5)


def test_wrong_relation_earns_three_quarters():
    """The reference appends 0 and then 1 where a relation fails: (1 + 1 + 0 + 1) / 4."""
    target = {
        "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "position": ["left of", 0]},
        ]
    }
    kept = {"cat": boxes(at(10, 50)), "dog": boxes(at(90, 50))}
    verdict = judge(kept, target, {})
    assert verdict.reason == "expected dog left of target, found right of target"
    assert (verdict.correct, verdict.strict, verdict.partial) == (False, False, 0.75)


def test_only_the_best_boxes_are_asked_for_their_color():
    target = {
        "include": [{"class": "cat", "count": 2, "color": "red"}, {"class": "dog", "count": 1}]
    }
    assert boxes_to_color({"cat": boxes(at(9, 9), at(30, 9), at(50, 9))}, target) == {"cat": 2}
    assert boxes_to_color({"cat": boxes(at(9, 9)), "dog": boxes(at(30, 9))}, target) == {}


@pytest.mark.parametrize("counts", [(3, 1), (1, 3)])
def test_of_two_clauses_of_a_class_the_larger_says_how_many_are_asked(counts):
    clauses = [
        {"class": "cat", "count": n, "color": c}
        for n, c in zip(counts, ("red", "blue"), strict=True)
    ]
    cats = boxes(at(9, 9), at(30, 9), at(50, 9), at(70, 9))
    assert boxes_to_color({"cat": cats}, {"include": clauses}) == {"cat": 3}


def test_scores_are_compared_in_float32():
    above = np.nextafter(np.float32(SCORE_THRESHOLD), np.float32(1))
    found = np.zeros((2, 5), dtype=np.float32)
    found[:, 4] = (np.float32(SCORE_THRESHOLD), above)
    assert {k: v.tolist() for k, v in keep({"cat": found}, SCORE_THRESHOLD).items()} == {"cat": [1]}


@given(st.lists(st.floats(0, 1, width=32), max_size=30), st.sampled_from([0.3, 0.9]))
def test_keep_against_sorting_by_hand(scores, threshold):
    found = np.zeros((len(scores), 5), dtype=np.float32)
    found[:, 4] = scores
    good = [i for i, score in enumerate(scores) if np.float32(score) > np.float32(threshold)]
    best = sorted(good, key=lambda i: (-scores[i], i))[:MAX_OBJECTS]
    kept = keep({"cat": found, "dog": found[:0]}, threshold)
    assert {name: indices.tolist() for name, indices in kept.items()} == (
        {"cat": best} if best else {}
    )


# --- positions ------------------------------------------------------------------------------------

edges = st.integers(0, 200)
any_box = st.builds(
    lambda x, y, w, h: np.array([x, y, x + w, y + h], dtype=np.float32),
    edges,
    edges,
    st.integers(1, 80),
    st.integers(1, 80),
)
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@pytest.mark.parametrize(
    ("a", "b", "relations"),
    [
        (at(10, 50), at(90, 50), {"left of"}),
        (at(90, 50), at(10, 50), {"right of"}),
        (at(50, 10), at(50, 90), {"above"}),
        (at(50, 90), at(50, 10), {"below"}),
        (at(10, 10), at(90, 90), {"left of", "above"}),
        (at(50, 50), at(50, 50), set()),
        (at(50, 50), at(52, 50), set()),  # 2 px is the tenth of both widths
        (at(50, 50), at(55, 50), {"left of"}),  # (5 - 2) / 5 > 0.5
        (at(50, 50), at(54, 50), set()),  # (4 - 2) / 4 = 0.5 is not above it
    ],
)
def test_relative_position(a, b, relations):
    assert relative_position(np.array(a), np.array(b)) == relations


@given(any_box, any_box)
def test_relations_turn_round_with_the_objects(a, b):
    assert relative_position(b, a) == {OPPOSITE[r] for r in relative_position(a, b)}


@given(any_box, any_box, st.integers(-64, 64), st.integers(-64, 64))
def test_relations_do_not_depend_on_the_place_in_the_image(a, b, dx, dy):
    shift = np.array([dx, dy, dx, dy], dtype=np.float32)
    assert relative_position(a + shift, b + shift) == relative_position(a, b)


@given(any_box, any_box)
def test_relations_against_the_definition_in_exact_numbers(a, b):
    """Twenty times every length is a whole number: no rounding decides but at ties, left out."""
    ax, ay, bx, by = (int(10 * (box[i] + box[i + 2])) for box in (a, b) for i in (0, 1))
    offset = (ax - bx, ay - by)
    slack = [int(2 * (a[i + 2] - a[i] + b[i + 2] - b[i])) for i in (0, 1)]
    gap = [max(abs(o) - s, 0) * (1 if o > 0 else -1) for o, s in zip(offset, slack, strict=True)]
    quarter = offset[0] ** 2 + offset[1] ** 2  # gap / norm > 1/2  <=>  4 gap^2 > norm^2
    if any(abs(4 * g * g - quarter) <= 1e-5 * quarter for g in gap):
        return
    names = (("right of", "left of"), ("below", "above"))
    expected = {n[g < 0] for g, n in zip(gap, names, strict=True) if 4 * g * g > quarter}
    assert relative_position(a, b) == expected


# --- laws -----------------------------------------------------------------------------------------

clauses = st.fixed_dictionaries(
    {"class": st.sampled_from(["cat", "dog"]), "count": st.integers(1, 3)},
    optional={"color": st.sampled_from(["red", "blue"])},
)
scenes = st.dictionaries(
    st.sampled_from(["cat", "dog", "cow"]),
    st.lists(st.tuples(edges, edges), min_size=1, max_size=4),
)


def judged(scene, include, colors) -> Verdict:
    kept = {name: boxes(*[at(*centre) for centre in places]) for name, places in scene.items()}
    return judge(kept, {"include": include}, dict.fromkeys(kept, colors))


colors_of_four = st.lists(st.sampled_from(["red", "blue", "green"]), min_size=4, max_size=4)


@given(scenes, st.lists(clauses, min_size=1, max_size=3), colors_of_four)
def test_strict_is_full_reward_and_implies_correct(scene, include, colors):
    verdict = judged(scene, include, colors)
    assert verdict.strict == (verdict.partial == 1.0) == (verdict.strict_reason == "")
    assert verdict.correct == (verdict.reason == "")
    assert verdict.correct or not verdict.strict
    assert verdict.partial <= 1.0


@given(scenes, st.lists(clauses, min_size=1, max_size=3), colors_of_four)
def test_other_objects_do_not_matter_without_exclude(scene, include, colors):
    more = {**scene, "zebra": [(5, 5)]}
    assert judged(more, include, colors) == judged(scene, include, colors)


# --- golden ---------------------------------------------------------------------------------------


def as_lines(reason: str) -> list:
    """Reasons by line; the order of the relations found carries no meaning in the reference."""
    lines = []
    for line in reason.splitlines():
        head, found, tail = line.partition(", found ")
        is_relation = tail.endswith(" target")
        tail = frozenset(tail.removesuffix(" target").split(" and ")) if is_relation else tail
        lines.append((head, found, tail))
    return lines


@pytest.mark.parametrize("kind", KINDS)
def test_golden(kind):
    for case in (c for c in GOLDEN["cases"] if c["kind"] == kind):
        target, official, nft = case["metadata"], case["official"], case["nft"]
        found = {
            name: np.array(rows, dtype=np.float32).reshape(-1, 5)
            for name, rows in case["detections"].items()
        }
        counting = target["tag"] == "counting"
        indices = keep(found, COUNTING_THRESHOLD if counting else SCORE_THRESHOLD)
        assert {name: list(i) for name, i in indices.items()} == case["kept"], case["id"]
        kept = {name: found[name][i] for name, i in indices.items()}
        colors = {
            name: [case["colors"][name][i] for i in indices[name][:count]]
            for name, count in boxes_to_color(kept, target).items()
        }
        verdict = judge(kept, target, colors)
        assert verdict.correct == official["correct"] == nft["correct"], case["id"]
        assert verdict.strict == nft["strict_correct"], case["id"]
        assert verdict.partial == pytest.approx(nft["score"], abs=1e-12), case["id"]
        assert as_lines(verdict.reason) == as_lines(official["reason"]), case["id"]
        assert as_lines(verdict.strict_reason) == as_lines(nft["reason"]), case["id"]


def test_golden_is_whole():
    assert (len(GOLDEN["cases"]), len(GOLDEN["relative_position"])) == (536, 200)


def test_golden_relative_position():
    for pair in GOLDEN["relative_position"]:
        a, b = (np.array(pair[name], dtype=np.float32) for name in "ab")
        assert sorted(relative_position(a, b)) == pair["relations"], pair
