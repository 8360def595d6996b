"""Rewards and rules without weights against the reference's figures."""

import pytest

from rewards import available
from rewards.certify import plain
from tests.helpers.paths import GOLDEN

FOLDER = GOLDEN


@pytest.mark.parametrize(
    ("function", "cases"),
    [
        (plain.jpeg, [7, 7]),
        (plain.ocr, [252, 266]),
        (plain.geneval, [536, 536, 536, 536, 536, 536, 200]),
    ],
)
def test_golden(function, cases):
    checks = list(function(FOLDER))
    assert [check for check in checks if not check.passed] == []
    assert [check.cases for check in checks] == cases


def test_every_variant_is_checked():
    named = {key for key in available() if key.partition("@")[0] in {"jpeg", "ocr", "geneval"}}
    assert plain.CHECKS.keys() == named
    assert plain.CHECKS["jpeg@compressibility"] == (plain.jpeg,)


def test_a_wrong_answer_fails(monkeypatch):
    """The checks can say no."""
    monkeypatch.setattr(plain, "ocr_reward", lambda read, target: 0.5)
    monkeypatch.setattr(plain, "relative_position", lambda a, b: {"above"})
    assert not next(plain.ocr(FOLDER)).passed
    failed = [check.name for check in plain.geneval(FOLDER) if not check.passed]
    assert failed == ["pairs of boxes in another relation"]
