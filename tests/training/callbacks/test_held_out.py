"""Before and after are measured alike: whatever is resumed, changed or lost on the way."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from nftbench.benchmark.places import ENVIRONMENT
from nftbench.runs.rows import metric_range
from nftbench.stats.estimates import clustered_mean
from nftbench.training.callbacks import metrics_log
from nftbench.training.callbacks.metrics_log import held_out_columns, read_changes, read_metrics
from nftbench.training.config.recipe import Recipe
from rewards import load_reward
from rewards.base import ConfigError
from tests.helpers.commands import run_here
from tests.helpers.runs.trainings import FEW, begin, metrics_of, small

SETTINGS = (
    "stages.iterations=2",
    "stages.updates=1",
    "optimizer.lr=0.05",
    *(f"guards.{name}.stop=off" for name in ("velocity_ratio", "x_0_norm", "kl", "brightness")),
    "guards.saturation.stop=off",
    "checkpoints.every=1",
    f'evaluation.benchmarks=["{FEW}"]',
    "evaluation.num_inference_steps=1",
    "evaluation.limit=4",
    "evaluation.every=2",
    "rollout.batch_size=12",
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few")]


def recipe(*settings: str) -> Recipe:
    return small(*SETTINGS, *settings)


@pytest.fixture(scope="module")
def trained(few, tmp_path_factory) -> Path:
    """A finished run with held-out prompts; a learning rate that moves the policy far, which guards would stop."""
    folder = tmp_path_factory.mktemp("held_out") / "run"
    begin(recipe(), folder).run()
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of it that may be changed."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def before(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "held_out" / "before.parquet")


def test_training_moved_what_is_measured(trained):
    after = pd.read_parquet(trained / "held_out" / "after.parquet")
    assert (after["jpeg"] - before(trained)["jpeg"]).abs().max() > 0.05


def test_the_metrics_carry_the_interval_of_each_held_out_mean(trained):
    """The first validation is of the same images as `first`, whose estimate is computed anew here."""
    line = metrics_of(trained)[0]
    first = pd.read_parquet(trained / "held_out" / "first.parquet")
    within = metric_range(load_reward("jpeg").info)
    found = clustered_mean(first["jpeg"].to_numpy(), first["prompt_id"].to_numpy(), within)
    name = f"held_out/{FEW}/jpeg"
    assert [line[f"{name}{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        [found.value, found.low, found.high]
    )
    assert found.low < found.value < found.high
    assert held_out_columns(read_metrics(trained)) == [name]


def test_long_work_says_what_it_is_at(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_log, "SILENCE", 0.0)
    said: list[str] = []
    begin(recipe("stages.iterations=1"), tmp_path / "run", say=said.append).run()
    assert "iteration 1: rollout, batch 1" in said and "iteration 1: update, batch 1" in said
    assert any(line.startswith(f"validation: {FEW}: 12 of 16") for line in said)


def test_a_trained_reward_that_is_lost_for_another_is_said(tmp_path):
    """Of two that are each other's opposite one falls, whichever is named first."""
    said: list[str] = []
    both = "stages.rewards=jpeg@compressibility,jpeg"
    begin(recipe(both, "guards.held_out.warn=0.01"), tmp_path / "run", say=said.append).run()
    (line,) = (line for line in said if line.startswith("warn: held_out: "))
    assert "got worse by" in line and f"while the trained {FEW}/jpeg" in line


@pytest.mark.parametrize("when", ["before", "after"])
def test_another_table_is_not_shown_as_this_runs(trained, run, when):
    path = run / "held_out" / f"{when}.parquet"
    assert read_changes(run) == read_changes(trained) != []
    table = pd.read_parquet(path)
    table.assign(jpeg=table["jpeg"] + 1).to_parquet(path)
    with pytest.raises(ConfigError, match=rf"{when}\.parquet is not the table .*train --resume"):
        read_changes(run)


@pytest.mark.parametrize("lost", ["before.parquet", "first.parquet", "measured.json"])
def test_what_is_missing_is_measured_of_the_untouched_base(trained, run, lost):
    (run / "held_out" / lost).unlink()
    begin(recipe("stages.iterations=3"), run, resume=True).run()
    pd.testing.assert_frame_equal(before(run), before(trained))
    first, old = (pd.read_parquet(r / "held_out" / "first.parquet") for r in (run, trained))
    pd.testing.assert_frame_equal(first, old)


def test_a_table_of_another_run_is_not_taken_for_this_ones(trained, run):
    path = run / "held_out" / "before.parquet"
    before(trained).assign(jpeg=0.5).to_parquet(path, index=False)
    said = []
    begin(recipe("stages.iterations=3"), run, resume=True, say=said.append).run()
    assert any("before.parquet is missing or damaged; measuring it again" in s for s in said)
    pd.testing.assert_frame_equal(before(run), before(trained))


@pytest.mark.parametrize(
    "setting",
    ["num_inference_steps=2", "limit=3", "images_per_prompt=2"],
)
def test_what_would_change_a_number_already_measured_is_refused(run, setting):
    key = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=f"was measured with {key}"):
        begin(recipe(f"evaluation.{setting}"), run, resume=True)


def test_a_reward_first_named_on_resume_is_measured_of_the_untouched_base(trained, run):
    said = []
    more = recipe("stages.iterations=3", "evaluation.held_out_rewards=pickscore@pocket")
    changes = begin(more, run, resume=True, say=said.append).run()
    assert {c.metric for c in changes} >= {"jpeg", "pickscore@pocket"}
    pd.testing.assert_series_equal(before(run)["jpeg"], before(trained)["jpeg"])
    assert before(run)["pickscore@pocket"].notna().all()
    assert any("of the untouched base" in s for s in said)


def test_a_finished_run_says_so_and_keeps_its_numbers(trained, run):
    said = []
    path = run / "held_out" / "after.parquet"
    written = path.stat().st_mtime_ns
    changes = begin(recipe(), run, resume=True, say=said.append).run()
    assert changes and any("is finished (2 iterations)" in s for s in said)
    assert path.stat().st_mtime_ns == written


def test_validation_switched_off(tmp_path):
    assert begin(recipe("evaluation.every=0"), tmp_path / "run").run() == []
    assert not (tmp_path / "run" / "held_out").exists()


def test_the_best_checkpoint_is_the_best_of_what_is_measured_now(run):
    """Its value was one of other prompts, which no later policy is measured on: it stayed the best for ever."""
    places = Path(os.environ[ENVIRONMENT].split(os.pathsep)[0])
    toml = (places / "few.toml").read_text("utf-8").replace('"few"', '"fewer"')
    (places / "fewer.toml").write_text(toml, "utf-8")
    flags = [w for o in ("benchmarks=fewer", "every=100") for w in ("--set", f"evaluation.{o}")]
    code, said = run_here(run.parent, "train", "--resume", "run", "--iterations", "5", *flags)
    assert code == 0, said
    (unmeasured, measured) = (
        json.loads((run / "checkpoints" / f"{done:06d}" / "state.json").read_text("utf-8"))["best"]
        for done in (4, 5)
    )
    (line,) = [line for line in metrics_of(run) if line["iteration"] == 5]
    assert unmeasured == {} and measured["name"] == "000005"
    assert measured["value"] == pytest.approx(line["held_out/fewer/jpeg"], rel=1e-6)
