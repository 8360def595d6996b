"""`--json`: the result alone on standard output, for programs; what else is said goes to standard error."""

import json
import math
import sys

import pytest

from nftbench.cli import console
from nftbench.cli.main import main

LISTS = {
    "benchmarks": lambda found: {b["name"] for b in found["benchmarks"]} >= {"ocr-pocket"},
    "recipes": lambda found: "pocket" in {r["recipe"] for r in found},
    "recipes pocket": lambda found: "optimizer.lr" in {k["key"] for k in found},
    "rewards": lambda found: {"jpeg", "ocr@rapidocr"} <= {r["key"] for r in found},
    "data": lambda found: all(len(f["sha256"]) in (0, 64) and f["url"] for f in found),
    "pull pocket --dry-run": lambda found: {"kind", "name", "here", "size"} <= set(found[0]),
    "table pocket-table1": lambda found: len(found) > 3,
}
"""Commands that only read -> what their answer holds."""


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("benchmarks --json")`: exit code, output and errors, in this process."""

    def command(text: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nftbench", *text.split()])
        with pytest.raises(SystemExit) as stop:
            main()
        return (stop.value.code, *capsys.readouterr())

    return command


@pytest.mark.slow
@pytest.mark.parametrize("command", LISTS)
def test_a_list_as_json(run, command):
    code, out, error = run(f"{command} --json")
    assert code == 0, error
    assert LISTS[command](json.loads(out))
    assert "│" in run(command)[1]  # the flag is forgotten with its command


def test_numbers_that_are_none(capsys):
    console.answer_in_json(True)
    console.answer([], {"value": math.nan, "all": [1.5, math.inf], "name": "±"})
    console.line("beside it")
    console.answer_in_json(False)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"value": None, "all": [1.5, None], "name": "±"}
    assert out.isascii() and err == "beside it\n"


TALKATIVE = """
from dataclasses import replace
import numpy as np
import rewards
from rewards.base import Scores


class Talkative:
    def __init__(self, *, device):
        self.info = replace(rewards.reward_info("jpeg"), name="talkative", files=())

    def check(self, prompts):
        print("checking", len(prompts))

    def score(self, images, prompts):
        print("scoring", len(images))
        return Scores(values=np.zeros(len(images), np.float32), reasons=("",) * len(images))
"""


@pytest.mark.slow
def test_what_a_reward_of_the_users_own_prints_is_not_in_the_json(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TALKATIVE, "utf-8")
    asked = (
        "eval pocket --suite ocr-pocket --limit 2 --steps 1 --rewards mine.py:Talkative --out run"
    )
    code, out, err = run(f"{asked} --json")
    assert code == 0 and len(json.loads(out)["rows"]) == 1, err
    assert "checking" in err and "scoring" in err
    assert "checking" in run(f"{asked}2")[1], "without the flag it prints where it wants"


@pytest.mark.slow
def test_an_evaluation_as_json(start, tmp_path):
    small = ("--suite", "ocr-pocket", "--limit", "2", "--steps", "1", "--rewards", "jpeg")
    code, out, err = start("eval", "pocket", *small, "--out", "run", "--json").finish()
    assert code == 0 and "ocr-pocket: drawn at" in err and "run: run" in err
    found = json.loads(out)
    (row,) = found["rows"]
    assert (found["run"], row["metric"], row["limited"]) == ("run", "jpeg", True)
    code, out, err = start("leaderboard", "verify", "run", "--json").finish()
    assert code == 0 and json.loads(out)["ok"] and "verified" in err
