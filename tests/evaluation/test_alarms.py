"""What speaks against a number is said, in words, and only then."""

import json

import pandas as pd

from nftbench.evaluation.alarms import table_alarms

NAN = float("nan")


def table(values, evidence=None, tags=None, reasons=None) -> pd.DataFrame:
    count = len(values)
    return pd.DataFrame(
        {
            "tag": tags or [""] * count,
            "r": pd.Series(values, dtype="float32"),
            "r:reason": reasons or ["" if v == v else "refused" for v in values],
            "r:evidence": [json.dumps(e) for e in (evidence or [{}] * count)],
        }
    )


def said(one: pd.DataFrame) -> list[str]:
    return [str(a) for a in table_alarms("b", one, ["r"])]


def test_nothing_is_said_of_plain_numbers():
    assert said(table([float(i) for i in range(10)])) == []
    assert said(table([1.0, 1.0])) == []  # so few may well be alike


def test_failures_are_said_with_share_and_main_reason():
    one = table([1.0, NAN, NAN, NAN], reasons=["", "away", "away", "odd"])
    (alarm,) = table_alarms("b", one, ["r"])
    assert alarm.failed == 0.75
    assert str(alarm).startswith(
        "WARNING: b r: 3 of 4 images have no score (0.75 of them), mostly: away"
    )


def test_images_that_are_one_file_are_said():
    one = table([float(i) for i in range(5)])
    assert said(one.assign(sha256=["a", "b", "c", "d", None])) == []
    assert said(one.assign(sha256=["a", "b", "a", "", None])) == [
        "WARNING: b images: 2 of 3 images are equal to another one (1 files in all): each counts, though it says "
        "nothing new"
    ]


def test_a_reward_that_sees_nothing_is_said():
    blind = [{"boxes": {"star": []}}] * 8
    assert said(table([0.0] * 8, blind)) == [
        "WARNING: b r: every image has the same value, 0",
        "WARNING: b r: not one object was detected in any image",
    ]
    assert (
        "not one word was read" in said(table([float(i) for i in range(8)], [{"read": " "}] * 8))[0]
    )
    seen = [*blind[:7], {"boxes": {"star": [[1, 2, 3, 4, 0.9]]}}]
    assert said(table([float(i) for i in range(8)], seen)) == []


def test_a_lost_task_is_said():
    one = table([1.0, NAN], tags=["a", "b"])
    assert "not one image of b was scored: there is no task mean" in said(one)[1]
