"""Lines that are read are those that were written; long work is never silent for long."""

import json

import pandas as pd
import pytest
from accelerate import Accelerator

from nftbench.training.callbacks import metrics_log
from nftbench.training.callbacks.metrics_log import METRICS, MetricsLog, Pace, read_metrics
from nftbench.training.config.record import RECIPE
from rewards.base import ConfigError
from tests.helpers.runs.trainings import quietly


@pytest.fixture
def log(tmp_path) -> MetricsLog:
    found = MetricsLog(tmp_path, Accelerator(cpu=True), quietly)
    for done in range(4):
        numbers = {"reward/jpeg": 1.5 + done, "kl": 0.25, "reward/ocr": float("nan")}
        found.log(done, numbers | {"guards": ["warn: größer"]})
    return found


def test_lines_come_back(log):
    table = read_metrics(log.folder)
    assert table.columns.tolist() == ["iteration", "reward/jpeg", "kl", "guards"]
    assert table["reward/jpeg"].tolist() == [1.5, 2.5, 3.5, 4.5]
    assert "NaN" not in (log.folder / METRICS).read_text("utf-8")  # which is no JSON


@pytest.mark.parametrize(
    ("old", "new"), [("2.5", "2.7"), ('"iteration": 1', '"iteration": 7'), ("kl", "km")]
)
def test_a_line_that_was_changed_is_dropped_with_a_word(log, old, new):
    path, said = log.folder / METRICS, []
    lines = path.read_text("utf-8").splitlines()
    assert old in lines[1]
    lines[1] = lines[1].replace(old, new)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    assert read_metrics(log.folder)["iteration"].tolist() == [0, 2, 3]
    MetricsLog(log.folder, Accelerator(cpu=True), said.append).rewind(2)
    assert said == [f"warning: dropped 1 damaged line(s) of {path}"]
    assert read_metrics(log.folder)["iteration"].tolist() == [0, 2]


def test_another_runs_lines_are_dropped(log):
    (log.folder / RECIPE).write_text('{"run": {"id": "another"}}', "utf-8")
    assert read_metrics(log.folder).empty


def test_lines_of_a_run_from_before_checks_are_read(log):
    plain = {"iteration": 0, "kl": 0.25}
    (log.folder / METRICS).write_text(json.dumps(plain) + "\n", "utf-8")
    assert read_metrics(log.folder).to_dict("records") == [plain]


def test_something_is_said_every_thirty_seconds(monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: now[0])
    pace = Pace(said.append)
    for second in range(100):
        now[0] = 100.0 + second
        if second == 50:
            pace.begin()
        pace(f"at {second} s")
    assert said == ["at 30 s", "at 80 s"]


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"b": 1}', '{"b": {"m": [1]}}', '{"b": {"m": {"x": 1}}}']
)
def test_a_file_of_averaging_that_is_damaged_is_one_line(tmp_path, text):
    path = tmp_path / metrics_log.HELD_OUT / metrics_log.AVERAGING
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(
        ConfigError, match=r"averaging\.json is damaged; run: nftbench train --resume"
    ):
        metrics_log.read_averaging(tmp_path, pd.DataFrame())
