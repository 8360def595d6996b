"""A user's own prompts and benchmarks on the command line: runs keep what was asked."""

import numpy as np
import pandas as pd
import pytest

from tests.helpers.commands import run_here
from tests.helpers.paths import written


@pytest.mark.slow
def test_a_run_of_own_prompts_is_scored_anywhere(start, tmp_path):
    written(tmp_path, "my.txt", "a red circle\na blue square\na red circle\n")
    made = start("eval", "pocket", "--prompts", "my.txt", "--rewards", "jpeg", "--steps", "2")
    code, _, error = made.finish()
    assert code == 0, error
    (run,) = (tmp_path / "runs").iterdir()
    table = pd.read_parquet(next(run.glob("*/samples.parquet")))
    assert table["cluster"].tolist() == ["00000", "00001", "00000"]
    rows = pd.read_csv(run / "rows.csv")
    assert rows["n_prompts"].tolist() == [2] and rows["n"].tolist() == [3]
    assert np.isclose(rows["value"][0], table["jpeg"].mean())
    (tmp_path / "my.txt").unlink()
    code, _, error = start("score", str(run), "--rewards", "pickscore@pocket").finish()
    assert code == 0, error


def test_own_prompts_need_rewards_and_no_suite(start, tmp_path):
    written(tmp_path, "my.txt", "a red circle\n")
    code, _, error = start("eval", "pocket", "--prompts", "my.txt").finish()
    assert code == 2 and "--rewards" in error
    both = ("--prompts", "my.txt", "--suite", "pocket", "--rewards", "jpeg")
    code, _, error = start("eval", "pocket", *both).finish()
    assert code == 2 and "leave out one" in error


def test_an_own_benchmark_s_lines_mean_what_they_say(tmp_path, caplog):
    """Null is no cluster of that name, one text is one cluster, and what is not followed is named."""
    lines = '{"prompt": "a", "cluster": null, "tag": null}\n{"prompt": "a", "cluster": null}\n'
    lines += '{"prompt": "b", "seed": 3, "cluster": null}\n'
    written(tmp_path, "mine/prompts/three.jsonl", lines)
    written(tmp_path, "mine/three.toml", 'rewards = ["jpeg"]\n[prompts]\nfile = "three.jsonl"\n')
    command = ("eval", "pocket", "--suite", "mine/three.toml", "--steps", "1", "--out", "run")
    code, out = run_here(tmp_path, *command)
    assert code == 0, out
    assert caplog.text.count("passed over, for they mean nothing here: 'seed'") == 1
    table = pd.read_parquet(tmp_path / "run" / "three" / "samples.parquet")
    assert table["cluster"].tolist() == ["00000", "00000", "00002"]
    assert table["tag"].tolist() == [""] * 3


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.txt", "one\rtwo\r"), ("a.jsonl", '{"prompt": "one"}\r{"prompt": "two"}\r')],
)
def test_lines_that_a_carriage_return_alone_ends_are_lines(tmp_path, name, text):
    written(tmp_path, name, text)
    command = ("--rewards", "jpeg", "--steps", "1", "--limit", "2", "--out", "run")
    code, out = run_here(tmp_path, "eval", "pocket", "--prompts", name, *command)
    assert code == 0, out
    (table,) = (tmp_path / "run").glob("*/samples.parquet")
    assert pd.read_parquet(table)["prompt"].tolist() == ["one", "two"]


LONG = "a" * 100_000
"""A file of another kind, whose text has no line ends: the tokenizer alone would take minutes."""
BENCHMARK = 'rewards = ["jpeg"]\n[prompts]\nfile = "one.%s"\n'


@pytest.mark.parametrize(
    ("files", "command", "said"),
    [
        ({"a.txt": LONG}, ("--prompts", "a.txt", "--rewards", "jpeg"), "a.txt, line 1: "),
        ({"prompts/one.txt": LONG, "b.toml": BENCHMARK % "txt"}, ("--suite", "b.toml"), "line 1: "),
        (
            {"a.csv": f"prompt\n{LONG}\n"},
            ("--prompts", "a.csv", "--rewards", "jpeg"),
            "a.csv, line 2: ",
        ),
    ],
)
def test_a_text_that_is_no_prompt_is_refused_at_once(tmp_path, files, command, said):
    for name, text in files.items():
        written(tmp_path, name, text)
    code, out = run_here(tmp_path, "eval", "pocket", *command, "--steps", "1", "--out", "run")
    assert code == 2 and said in out and "at most 20000 characters, got 100000" in out, out[:400]
    assert "a" * 41 not in out and not (tmp_path / "run").exists()


TWO = '[[more_prompts]]\nfile = "two.txt"\n'


def two_files(folder, more: str) -> tuple[int, str]:
    """A benchmark of two prompt files, and what comes of it."""
    written(folder, "prompts/one.txt", "a red square\n")
    written(folder, "prompts/two.txt", "a blue circle\n")
    written(folder, "both.toml", BENCHMARK % "txt" + more)
    command = ("--suite", "both.toml", "--steps", "1", "--out", "run")
    return run_here(folder, "eval", "pocket", *command)


def test_two_files_whose_prompts_have_one_id_are_refused_before_anything_is_drawn(tmp_path):
    code, out = two_files(tmp_path, TWO)
    assert code == 2 and "id '00000' stands in two of its files" in out, out
    assert "of the files a `tag`" in out and not (tmp_path / "run").exists()
    code, out = two_files(tmp_path, f'tag = "red"\n{TWO}tag = "blue"\n')
    assert code == 0 and len([*(tmp_path / "run").rglob("images/*.png")]) == 2, out


@pytest.mark.parametrize("said", ['"four"', "1.5", "[1]"])
def test_copies_that_are_no_number_are_said_in_the_file_s_terms(tmp_path, said):
    code, out = two_files(tmp_path, f"copies = {said}\n")
    assert code == 2 and "both.toml: prompts.copies: expected a whole number" in out, out


def test_a_benchmark_that_is_scored_by_nothing_is_refused(tmp_path):
    """As own prompts without rewards are: the drawing would end with exit code 0 and an empty table."""
    written(tmp_path, "prompts/one.txt", "a\n")
    written(tmp_path, "own.toml", '[prompts]\nfile = "one.txt"\n')
    asked = ("--suite", "own.toml", "--steps", "1", "--out", "run")
    code, out = run_here(tmp_path, "eval", "pocket", *asked)
    assert code == 2 and "own names no rewards" in out and not (tmp_path / "run").exists(), out
    code, out = run_here(tmp_path, "eval", "pocket", *asked, "--rewards", "jpeg")
    assert code == 0, out


def test_a_prompt_of_blanks_is_none(tmp_path):
    written(tmp_path, "prompts/one.jsonl", '{"prompt": "a"}\n{"prompt": "  "}\n')
    written(tmp_path, "own.toml", BENCHMARK % "jsonl")
    code, out = run_here(tmp_path, "eval", "pocket", "--suite", "own.toml", "--out", "run")
    assert code == 2 and "one.jsonl, line 2: expected 'prompt' to be a non-empty str" in out, out
