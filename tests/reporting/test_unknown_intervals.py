"""An interval that nothing was measured of is unknown, wherever it is shown; a number that there is not is none."""

import numpy as np
import pandas as pd

from nftbench.runs.io import write_table
from tests.helpers.commands import run_here
from tests.helpers.runs.made_runs import GENEVAL, OCR, PICK, evaluation


def test_images_that_are_the_same_have_no_interval_of_the_range(tmp_path):
    """Right and wrong keep theirs: a share of so many prompts is known that well."""
    for name in ("a", "b"):
        evaluation(tmp_path / name, [f"prompt {i}" for i in range(8)])
    code, said = run_here(tmp_path, "compare", "a", "b", "--format", "markdown")
    lines = {line.split("|")[1].strip(): line for line in said.splitlines() if line.count("|") > 5}
    assert code == 0 and "| +0.000 | unknown |" in lines[PICK.key]
    assert "unknown" not in lines[GENEVAL.key] and "| +0.000 | -0." in lines[GENEVAL.key]


def test_what_nobody_scored_in_one_run_is_no_number(tmp_path):
    for name in ("a", "b"):
        evaluation(tmp_path / name, ["one", "two"])
    (path,) = (tmp_path / "a").glob("*/samples.parquet")
    table = pd.read_parquet(path)
    write_table(path, table.assign(**{OCR.key: np.full(len(table), np.nan, np.float32)}))
    code, said = run_here(tmp_path, "compare", "a", "b", "--format", "markdown")
    (line,) = (line for line in said.splitlines() if line.startswith(f"| {OCR.key} |"))
    assert code == 0 and "| none | none | none | unknown |" in line, said
