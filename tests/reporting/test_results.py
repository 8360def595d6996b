"""What a table, a comparison or a report takes: labels, parents, and which seeds are paired."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest

from nftbench.reporting.results import LONGEST, pair_seeds, read_result, read_results, split_label
from nftbench.runs.io import write_table
from nftbench.runs.seeds import write_parent
from nftbench.stats.intervals import UNBOUNDED
from nftbench.stats.paired import Averaging
from nftbench.training.callbacks.metrics_log import write_averaging
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.runs import made_runs

PROMPTS = ["a star", "two stars"]


@pytest.fixture
def run(tmp_path):
    return made_runs.evaluation(tmp_path / "run", PROMPTS)


def parent(folder, *seeds):
    for run in write_parent(folder, seeds):
        made_runs.training(run)
    return folder


def test_which_way_a_reward_of_ones_own_runs_is_as_the_training_noted_it(tmp_path):
    """Where the reward was not at hand, more of it was better: the worse training won every prompt."""
    for name, slope in (("a", 1.0), ("b", 2.0)):
        made_runs.training(tmp_path / name, slope=slope)
        how = Averaging(within=UNBOUNDED, higher_is_better=False)
        write_averaging(tmp_path / name, {made_runs.BENCHMARK: {made_runs.PICK.key: how}})
    code, said = run_here(tmp_path, "compare", "a", "b", "--format", "csv")
    (line,) = csv.DictReader(io.StringIO(said))
    assert (code, line["difference"], line["wins"], line["losses"]) == (0, "2.5", "0", "4")
    code, said = run_here(tmp_path, "compare", "a", "b", "--format", "markdown")
    assert "| pick@made | image mean, less is better |" in said, said


def test_a_label_and_a_folder_with_an_equals_sign(tmp_path):
    assert split_label("runs/a=My model") == (type(tmp_path)("runs/a"), "My model")
    assert split_label("runs/a=b=c") == (type(tmp_path)("runs/a"), "b=c")
    folder = tmp_path / "x=y"
    folder.mkdir()
    assert split_label(folder) == (folder, "")
    assert split_label(f"{folder}=z") == (folder, "z")


@pytest.mark.parametrize(
    ("label", "wrong"),
    [
        ("", "empty label; expected RUN=LABEL"),
        ("  ", "empty label"),
        ("two\nlines", "one line without control characters"),
        ("bell\x07", "one line without control characters"),
        ("\u2028x", "one line without control characters"),
        ("x" * (LONGEST + 1), f"has {LONGEST + 1} characters; expected at most {LONGEST}"),
    ],
)
def test_a_bad_label_is_one_line(run, label, wrong):
    with pytest.raises(ConfigError, match=wrong) as error:
        read_result(f"{run}={label}")
    assert "\n" not in str(error.value)


def test_one_label_or_one_run_twice_is_refused(run, tmp_path):
    other = made_runs.evaluation(tmp_path / "other", PROMPTS)
    with pytest.raises(ConfigError, match="label 'mine' stands for two runs"):
        read_results([f"{run}=mine", f"{other}=mine"])
    both = parent(tmp_path / "seeds", 0, 1)
    with pytest.raises(ConfigError, match="got one of them twice"):
        read_results([both, both / "seed-1"])


def test_a_parent_without_a_run_and_what_is_no_run(tmp_path):
    write_parent(tmp_path / "seeds", [0, 1])
    with pytest.raises(ConfigError, match="holds no finished run of seeds 0, 1 yet"):
        read_result(tmp_path / "seeds")
    with pytest.raises(ConfigError, match="nothing is not a run: it holds neither"):
        read_result(tmp_path / "nothing")
    made_runs.training(tmp_path / "seeds" / "seed-0")
    made_runs.evaluation(tmp_path / "seeds" / "seed-1", PROMPTS)
    with pytest.raises(ConfigError, match="holds trainings and evaluations"):
        read_result(tmp_path / "seeds")


def test_the_seeds_of_a_parent(tmp_path):
    one = read_result(f"{parent(tmp_path / 'seeds', 3, 1)}=NFT")
    assert (one.name, one.kind, one.seeds, one.lacking) == ("NFT", "training", (3, 1), ())
    assert one.notes == ["NFT: mean over seeds 3, 1."]
    (tmp_path / "seeds" / "seed-3" / "held_out" / "after.parquet").unlink()
    one = read_result(tmp_path / "seeds")
    assert (one.seeds, one.lacking) == ((1,), (3,))
    assert "how much seeds differ is not in the interval" in one.notes[0]
    assert "seed 3 missing or not finished, left out" in one.notes[1]


def test_seeds_that_both_have_are_paired_and_said(tmp_path, run):
    a, b = (read_result(parent(tmp_path / n, *s)) for n, s in (("a", (0, 1, 2)), ("b", (2, 5, 1))))
    found = pair_seeds(a, b)
    assert (found.places, found.same) == (((1, 2), (2, 0)), True)
    assert found.said == (
        "Paired by seeds 1, 2, which both have; seed 0 of a left out; seed 5 of b left out."
    )
    c = read_result(parent(tmp_path / "c", 0, 9))
    found = pair_seeds(a, c)
    assert (found.places, found.same) == (((0, 1, 2), (0, 1)), False)
    assert "count as independent" in found.said
    assert (
        "run: one run, whose own seed is not in the interval"
        in pair_seeds(read_result(run), a).said
    )
    assert pair_seeds(read_result(run), read_result(run)).said == ""


@pytest.mark.parametrize("how", [("--json",), ("--format", "json")])
def test_what_is_unknown_is_null_in_json_and_empty_in_csv(tmp_path, how):
    """`--format json` wrote NaN and Infinity, which is no JSON; `--json` an empty text for some of them."""
    for name in "ab":
        folder = made_runs.evaluation(tmp_path / name, ["x"] * 4, shift=float(name == "b"))
        path = folder / made_runs.BENCHMARK / "samples.parquet"
        table = pd.read_parquet(path)
        write_table(path, table.assign(**{made_runs.OCR.key: np.float32(np.nan)}))
    code, said = run_here(tmp_path, "compare", "a", "b", *how)
    assert code == 0 and "NaN" not in said and "Infinity" not in said
    found = {one["metric"]: one for one in json.loads(said)}
    numbers = ("a", "b", "difference", "stderr", "low", "high", "p", "p_holm", "smallest")
    assert [found["ocr@made"][n] for n in numbers] == [None] * len(numbers)
    assert found["pick@made"]["stderr"] is None and found["pick@made"]["difference"] == 1.0
    code, said = run_here(tmp_path, "compare", "a", "b", "--format", "csv")
    lines = {line["metric"]: line for line in csv.DictReader(io.StringIO(said))}
    assert [lines["ocr@made"][n] for n in numbers] == [""] * len(numbers)
