"""Rewards and rules without weights against the reference's figures, through what `load_reward` gives."""

import pytest

from rewards import available
from rewards.certify import geneval, plain
from rewards.ocr import reward as ocr_reward
from tests.helpers.paths import GOLDEN


@pytest.mark.parametrize(
    ("check", "cases"),
    [
        (plain.CHECKS["jpeg"][0], [7]),
        (plain.CHECKS["jpeg@compressibility"][0], [7]),
        (plain.CHECKS["ocr@rapidocr"][0], [252, 266, 64 * 64 * 3]),
        (plain.CHECKS["ocr@pp3"][0], [252, 266, 64 * 64 * 3]),
        (plain.CHECKS["ocr@rapidocr-nfkc"][0], [723, 241, 254, 64 * 64 * 3]),
        (plain.CHECKS["ocr@tesseract-x4"][0], [252, 266, 256 * 256 * 3]),
    ],
)
def test_golden(check, cases):
    checks = list(check(GOLDEN))
    assert [check for check in checks if not check.passed] == []
    assert [check.cases for check in checks] == cases


@pytest.mark.parametrize("key", ["geneval@official", "geneval@nft", "geneval@pocket"])
def test_golden_rules_of_a_loaded_variant(key):
    checks = list(geneval.rules(key, GOLDEN))
    assert [check for check in checks if not check.passed] == []
    assert len(checks) == 3 and {check.cases for check in checks} <= set(range(500, 537))


def test_every_variant_is_checked():
    named = {key for key in available() if key.partition("@")[0] in {"jpeg", "ocr", "geneval"}}
    assert plain.CHECKS.keys() | {k for k in geneval.CHECKS if k.startswith("geneval")} == named


def test_a_wrong_answer_fails(monkeypatch):
    """The checks can say no."""
    monkeypatch.setattr(ocr_reward, "ocr_reward", lambda read, target: 0.5)
    monkeypatch.setattr("rewards.geneval.judge.relative_position", lambda a, b: {"above"})
    assert not next(plain.ocr("ocr@rapidocr", GOLDEN)).passed
    assert not next(geneval.rules("geneval@official", GOLDEN)).passed
