"""Trainings in the report: one, and several seeds of one recipe."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from nftbench.reporting.html_report import curves, trainings
from nftbench.reporting.html_report import data as report_data
from nftbench.reporting.html_report.build import write_report
from nftbench.runs.seeds import write_parent
from nftbench.stats.estimates import clustered_mean
from nftbench.stats.intervals import UNBOUNDED
from tests.helpers.runs import made_runs

HELD_OUT = "held_out/made/pick@made"


def quiet(*_):
    """Told of progress, says nothing."""


@pytest.fixture
def parent(tmp_path):
    """Three seeds that gain 1, 2 and 3 an iteration."""
    folder = tmp_path / "seeds"
    for slope, run in enumerate(write_parent(folder, [0, 1, 2]), 1):
        made_runs.training(run, slope=float(slope))
    return folder


def one_of(*folders, **more):
    _, (one,) = report_data.read_runs(folders, **more)
    return one


def test_a_curve_runs_from_corner_to_corner(tmp_path):
    _, (one,) = report_data.read_runs([made_runs.training(tmp_path / "run", slope=2.0)])
    plot = curves.curve([one], "held_out/made/pick@made", "minutes", "pick")
    assert json.loads(plot.box) == [0, 2, 20, 28]
    assert plot.lines[0].path == "M0.00 100.00L50.00 50.00L100.00 0.00"
    assert json.loads(plot.lines[0].points) == [[0, 20], [1, 24], [2, 28]]
    assert plot.lines[0].last == "28"
    assert (0.0, "0") in plot.x_ticks and (100.0, "28") in plot.y_ticks
    assert curves.curve([one], "held_out/none", "minutes", "") is None


def test_a_flat_curve_has_room_above_and_below(tmp_path):
    _, (one,) = report_data.read_runs([made_runs.training(tmp_path / "run", slope=0.0)])
    plot = curves.curve([one], "reward/pick@made", "iteration", "pick")
    assert json.loads(plot.box)[2:] == [19, 21]
    assert plot.lines[0].path.startswith("M0.00 50.00L25.00 50.00")


def test_what_a_training_gained(tmp_path):
    _, (one,) = report_data.read_runs([made_runs.training(tmp_path / "run", slope=2.0)])
    (gain,) = trainings.changes(one)
    assert (gain.benchmark, gain.metric, gain.aggregate) == ("made", "pick@made", "image mean")
    assert (gain.before.value, gain.after.value, gain.difference.value) == (23.5, 28.5, 5.0)
    wanted = clustered_mean(
        np.array([2, 2, 4, 4, 6, 6, 8, 8.0]), np.repeat(np.arange(4), 2), UNBOUNDED
    )
    low = min(wanted.low, 0)  # four prompts cannot tell a gain from chance
    assert (gain.difference.low, gain.difference.high) == (low, wanted.high)
    assert one.guards == [("iteration 3", "warn: <b>x_0_norm</b> grew")]


# --- bands ----------------------------------------------------------------------------------------


def with_interval(folder, half):
    """Give each validation an interval."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        if HELD_OUT in line:
            line |= {
                f"{HELD_OUT}_low": line[HELD_OUT] - half,
                f"{HELD_OUT}_high": line[HELD_OUT] + half,
            }
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")


def test_a_curve_carries_its_interval_and_the_axis_holds_it(tmp_path):
    folder = made_runs.training(tmp_path / "run", slope=0.01)
    with_interval(folder, 2.0)
    plot = curves.curve([one_of(folder)], HELD_OUT, "iteration", "pick")
    assert json.loads(plot.box)[2:] == pytest.approx([18, 22.04])
    assert json.loads(plot.lines[0].points)[0] == [0, 20, 18, 22]
    assert plot.lines[0].band.startswith("M0.00") and plot.lines[0].band.endswith("Z")
    assert plot.lines[0].last == "20.04 (18.04 to 22.04)"
    assert curves.groups([one_of(folder)])[0][0] == "Held-out reward by iteration"


def test_noise_is_not_drawn_as_a_mountain(tmp_path):
    """A metric that moves by a thousandth of itself stays near a line, interval or not."""
    folder = made_runs.training(tmp_path / "run", slope=0.005)
    plot = curves.curve([one_of(folder)], "reward/pick@made", "iteration", "pick")
    low, high = json.loads(plot.box)[2:]
    assert high - low > 30 * 0.02


# --- seeds ----------------------------------------------------------------------------------------


def test_seeds_are_one_curve_with_each_of_them_beside(parent):
    for run in parent.glob("seed-*"):
        with_interval(run, 0.5)
    one = one_of(parent)
    plot = curves.curve([one], HELD_OUT, "iteration", "pick")
    (line,) = plot.lines
    assert len(line.thin) == 3
    x, value, low, high = json.loads(line.points)[-1]
    half = np.sqrt(
        0.5**2 + (4.302653 * 4 / np.sqrt(3)) ** 2
    )  # seeds 24, 28, 32: Student's t of 2 freedoms
    assert (x, value) == (4, 28) and (value - low, high - value) == pytest.approx(
        (half, half), rel=1e-4
    )
    assert one.done == "3 seeds, 4 + 4 + 4 iterations done, 6.0 minutes"


def test_seeds_before_and_after_are_the_mean_with_the_error_of_seeds(parent):
    (gain,) = trainings.changes(one_of(parent))
    assert gain.difference.value == pytest.approx(5)  # 2.5 times the slopes' mean
    assert gain.difference.high - gain.difference.value > 4.3 * 2.5 / np.sqrt(3)
    assert gain.difference.low < 0  # three seeds that differ so cannot tell


def test_an_unfinished_seed_is_said_and_left_out(parent, tmp_path):
    (parent / "seed-2" / "held_out" / "after.parquet").unlink()
    (gain,) = trainings.changes(one_of(parent))
    assert gain.difference.value == pytest.approx(3.75)
    one = one_of(parent, whole=True)
    assert one.result.lacking == (2,)
    assert "seeds: seed 2 missing or not finished, left out." in one.result.notes
    (parent / "seed-2" / "metrics.jsonl").unlink()
    page = write_report([parent], tmp_path / "out", quiet).page.read_text("utf-8")
    assert "seed 2 missing or not finished" in page and "mean over seeds 0, 1" in page


def test_a_mean_is_over_iterations_that_all_seeds_have(parent):
    path = parent / "seed-1" / "metrics.jsonl"
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:3]), "utf-8")
    (line,) = curves.curve([one_of(parent)], HELD_OUT, "iteration", "pick").lines
    assert [p[0] for p in json.loads(line.points)] == [0, 2] and len(line.thin) == 3


def test_the_page_of_seeds_names_labels_and_which_prompts(parent, tmp_path):
    table = pd.read_parquet(parent / "seed-0" / "held_out" / "before.parquet")
    made_runs.write_table(parent / "seed-0" / "held_out" / "first.parquet", table[:2])
    single = made_runs.training(tmp_path / "alone")
    runs = [f"{parent}=<b>Three</b>", single]
    page = write_report(runs, tmp_path / "out", quiet).page.read_text("utf-8")
    assert "&lt;b&gt;Three&lt;/b&gt;" in page and "<b>Three" not in page
    assert "made: the table is of 4 prompts, 8 images, before and after" in page
    assert "each point of a curve is of 1 prompts, 2 images" in page
    assert (
        len(re.findall(r"The same prompts from", page)) == 4
    )  # a grid a seed, and the other run's
    assert (tmp_path / "out" / "images" / "A-gridsseed-0" / "00000.png").is_file()
