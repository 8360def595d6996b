"""Certificates of the algorithms: equal to the references on the golden numbers, and able to say no."""

import json

import pytest

from nftbench.certify import algorithms
from rewards.base import ConfigError
from tests.helpers.paths import GOLDEN


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_an_algorithm_equals_its_reference(name):
    (made,) = algorithms.certify([name], GOLDEN)
    assert [check for check in made.checks if not check.passed] == []
    assert (made.verdict, made.needs, made.full) == ("equal", "", True)
    assert made.golden and made.code


def test_a_wrong_decay_differs(monkeypatch):
    monkeypatch.setattr(algorithms, "old_decay", lambda name, step: 0.5)
    (made,) = algorithms.certify(["nft"], GOLDEN)
    assert made.verdict == "differs" and not made.passed


def test_what_is_missing_is_named(tmp_path):
    (made,) = algorithms.certify(["statistics"], tmp_path)
    assert made.verdict == "not compared" and "summary.json is not in" in made.needs
    with pytest.raises(ConfigError, match="not a folder"):
        list(algorithms.certify(["statistics"], tmp_path / "none"))


def test_the_command_writes_them(start, tmp_path):
    code, out, err = start("certify", "statistics", "--golden", str(GOLDEN), "--out", "c").finish()
    assert (code, err) == (0, "") and "statistics: equal\n" in out
    assert json.loads((tmp_path / "c" / "statistics.json").read_bytes())["verdict"] == "equal"
