"""A misspelt name is answered at once: one line, the near name, and nothing heavy imported for it."""

import subprocess
import sys

import pytest

from tests.helpers.commands import run_here

CODE = """
import sys
from nftbench.cli.main import main
for text in sys.argv[1:]:
    sys.argv = ["nftbench", *text.split()]
    try:
        main()
    except SystemExit as stop:
        print(stop.code, sorted({"torch", "diffusers", "transformers", "pandas"} & set(sys.modules)))
"""
TYPOS = {
    "eval pocke": "unknown checkpoint 'pocke'; did you mean 'pocket'?",
    "eval ./gone": "no checkpoint at ./gone",
    "eval pocket --suite poket": "unknown suite or benchmark 'poket'; did you mean 'pocket'?",
    "eval pocket --suite gone.toml": "cannot read gone.toml: No such file",
    "eval pocket --rewards orc": "unknown reward 'orc'; did you mean 'ocr'?",
    "eval pocket --rewards gone.py:X": "no file gone.py",
    "eval ./gone.safetensors": "no checkpoint at ./gone.safetensors",
    "eval pocket --prompts gone.txt": "there is no gone.txt; expected a prompt file",
    "eval pocket --prompts gone.txt --rewards jpeg": "there is no gone.txt; expected a prompt file",
    "eval pocket --rewards ocr:0": "weights are for training; write ocr@rapidocr without one",
    "eval pocket --size 0": "--size 0: expected at least 8 pixels",
    "eval pocket --size 1024x": "--size 1024x: expected",
    "score gone.jsonl --rewards jpeg": "there is no gone.jsonl; expected a run folder or a list",
    "import gone --name x": "there is no gone; expected a folder or a list of images",
    "train poket": "unknown checkpoint 'poket'; did you mean 'pocket'?",
    "train --recipe poket": "unknown recipe 'poket'; did you mean 'pocket'?",
    "train --recipe gone.toml": "no recipe file gone.toml",
    "train --rewards orc": "unknown reward 'orc'; did you mean 'ocr'?",
    "train --rewards ocr:0": "'ocr:0' of stage 1 all have weight 0",
    "train --rewards ocr:-1": "weight of reward 'ocr' must be a finite number >= 0",
    "train --prompts gone.txt": "no prompt file gone.txt",
    "train --prompts geneval-poket": "unknown prompts 'geneval-poket'; did you mean 'geneval-pocket'?",
    "train --algorithm ntf": "did you mean 'nft'?",
    "train --set optimizer.lrr=1": "unknown key 'optimizer.lrr'; did you mean 'lr'?",
    "train --rewards ocr --set optimizer.lr=1": "recipe pocket-ocr: optimizer.lr would change nothing, as every",
    "train --set evaluation.benchmarks=ocr-poket": "did you mean 'ocr-pocket'?",
    "train --set stages.iterations=0": "stages.0.iterations: expected a number greater",
    "train --resume gone": "there is no gone; expected the folder of a training run",
    "train --seeds 0,0": "seed 0 stands twice in --seeds 0,0",
    "train --seeds x": "expected --seeds as whole numbers",
    "report gone": "there is no gone; expected a folder made by",
    "report gone=Base": "there is no gone=Base; expected a folder made by",
    "compare gone other": "there is no gone; expected a folder made by",
    "table pocket-table1 gone=pocket": "there is no gone=pocket; expected a folder made by",
    "view gone": "there is no gone; expected a run, or a folder of runs",
    "certify clipscor": "unknown reward 'clipscor'; did you mean 'clipscore'?",
    "certify clipscore --golden gone": "there is no gone; expected",
    "leaderboard add gone": "there is no gone; expected a folder made by",
    "inspect pocke": "unknown checkpoint 'pocke'; did you mean 'pocket'?",
    "stress pocke": "unknown checkpoint 'pocke'; did you mean 'pocket'?",
    "stress pocket --base pocke": "unknown checkpoint 'pocke'; did you mean 'pocket'?",
    "pull tabel1": "unknown suite, benchmark or recipe 'tabel1'; did you mean 'table1'?",
    "data pull ocrr": "unknown suite or benchmark 'ocrr'; did you mean 'ocr'?",
    "recipes poket": "unknown recipe 'poket'; did you mean 'pocket'?",
    "table tabel1": "unknown suite or benchmark 'tabel1'; did you mean 'table1'?",
    "rewards pull orc": "unknown reward 'orc'; did you mean 'ocr'?",
    "rewards benchmark orc": "unknown reward 'orc'; did you mean 'ocr'?",
}
"""Command -> what it says."""
GROUPS = ("data ", "rewards ", "leaderboard ")
"""Of these a command is two words."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Every command of `TYPOS` in one real process, in a folder that must stay empty."""
    folder = tmp_path_factory.mktemp("typos")
    command = [sys.executable, "-c", CODE, *TYPOS]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    assert done.stdout.count("\n") == done.stderr.count("\n") == len(TYPOS), done.stderr
    lines = zip(TYPOS, done.stdout.splitlines(), done.stderr.splitlines(), strict=True)
    return {command: (out, err) for command, out, err in lines}


@pytest.mark.parametrize("command", TYPOS)
def test_a_typo_is_one_line_and_imports_nothing_heavy(answers, command):
    out, err = answers[command]
    assert err.startswith("nftbench: ") and TYPOS[command] in err, err
    assert out == "2 []"
    asked = command.split()[: 2 if command.startswith(GROUPS) else 1]
    assert err.endswith(f"(see nftbench {' '.join(asked)} --help)"), err


def test_a_run_in_the_place_of_a_suite_is_told_apart(tmp_path):
    """`nftbench table RUN`: it was an unknown suite, with the list of all."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    code, out = run_here(tmp_path, "table", "mine")
    assert code == 2 and "mine is a run's folder; expected a suite or benchmark" in out, out
    assert "`nftbench score mine` shows a run's own numbers" in out
