"""The pocket world's README shows the published rows, no others."""

import csv
import re

import pytest

from tests.helpers.paths import ROOT

CELL = r" ([^|]+) \|"
LINE = re.compile(
    rf"^\| ((?:geneval|ocr)-pocket) \| (\w+)@(\w+) \|{CELL * 3} (\d+) \| (\d+) \|$", re.M
)
GUIDANCE = ("guidance_scale=1.0", "guidance_scale=4.5")


def lines() -> list[tuple[str, ...]]:
    return LINE.findall((ROOT / "nftbench" / "pocket" / "README.md").read_text("utf-8"))


def published(benchmark: str, metric: str, variant: str, of: str) -> list[str]:
    """A line's two cells, number of images and of failures, from the leaderboard."""
    aggregate = of.strip("*").replace(" ", "_")
    aggregate = aggregate if aggregate.endswith("_mean") else f"task:{aggregate}"
    with (ROOT / "leaderboards" / f"{benchmark}.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["model"] == "pocket"]
    wanted = (metric, variant, aggregate)
    mine = [r for r in rows if (r["metric"], r["variant"], r["aggregate"]) == wanted]
    found = [next(r for r in mine if guidance in r["settings"]) for guidance in GUIDANCE]
    digits = 2 if metric == "pickscore" else 3
    numbers = [[f"{float(r[k]):.{digits}f}" for k in ("value", "low", "high")] for r in found]
    cells = [f"{value} ({low} to {high})" for value, low, high in numbers]
    return [*cells, found[0]["n"], found[0]["n_failed"]]


@pytest.mark.parametrize("line", lines(), ids=" ".join)
def test_a_line_is_as_published(line):
    assert list(line[4:]) == published(*line[:4])


def test_no_line_is_lost():
    assert len(lines()) == 11
