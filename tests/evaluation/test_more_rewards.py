"""A run that is scored by further rewards, and what could not be scored."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nftbench.commands import score_run
from nftbench.evaluation import evaluate
from nftbench.evaluation.evaluate import score
from rewards.base import Scores
from rewards.images.jpeg import Incompressibility
from tests.helpers.runs.small_evaluation import Stop, quietly, table, work


def test_another_reward_keeps_the_old_columns(whole, copy):
    rows = score_run(copy.folder, "jpeg@compressibility", quietly)
    assert [(r.metric, r.variant) for r in rows] == [("jpeg", ""), ("jpeg", "compressibility")]
    before, after = table(whole), table(copy)
    pd.testing.assert_frame_equal(after[before.columns], before)
    np.testing.assert_allclose(after["jpeg@compressibility"], -before["jpeg"] / 500, rtol=1e-6)
    assert list(copy.manifest["rewards"]["geneval-pocket"]) == ["jpeg", "jpeg@compressibility"]


def test_a_reward_stopped_half_way_is_left_out_until_it_is_done(whole, copy, policy):
    def report(stage, done, total):
        if "compressibility" in stage:
            raise Stop

    with pytest.raises(Stop):
        score_run(copy.folder, "jpeg@compressibility", report)
    rows = evaluate.evaluate(copy, [work()], policy, "geneval-pocket", quietly)
    assert [r.metric for r in rows] == ["jpeg"] and "jpeg@compressibility" not in table(copy)
    score_run(copy.folder, "jpeg@compressibility", quietly)
    assert table(copy)["jpeg@compressibility"].notna().all()
    pd.testing.assert_frame_equal(table(copy)[table(whole).columns], table(whole))


class Moody(Incompressibility):
    """Fails on every other image."""

    def score(self, images, prompts):
        values = super().score(images, prompts).values.copy()
        values[::2] = np.nan
        return Scores(values=values, reasons=tuple("mood" if np.isnan(v) else "" for v in values))


class Dead(Incompressibility):
    """A server that is away, and then comes back."""

    alive = False

    def score(self, images, prompts):
        if self.alive:
            return super().score(images, prompts)
        nan = np.full(len(images), np.nan, np.float32)
        return Scores(values=nan, reasons=("connection refused",) * len(images))


def test_failures_are_counted_and_never_zero(copy, policy):
    shutil.rmtree(copy.folder / "geneval-pocket" / "scores")
    (row,) = score(copy, [replace(work(), rewards={"jpeg": Moody()})], quietly)
    found = table(copy)
    assert (row.n, row.n_failed) == (5, 7) and found["jpeg"].isna().sum() == 7
    assert row.value == pytest.approx(found["jpeg"].mean(), rel=1e-6) and row.value > 0.5
    assert found.loc[found["jpeg"].isna(), "jpeg:reason"].unique().tolist() == ["mood"]


def test_what_failed_is_asked_again_by_the_same_command(whole, copy):
    (row,) = score(copy, [replace(work(), rewards={"jpeg": Dead()})], quietly)
    assert (row.n, row.n_failed) == (0, 12)
    Dead.alive = True
    try:
        (row,) = score(
            copy, [replace(work(), rewards={"jpeg": Dead()})], quietly, retry_failed=False
        )
        assert row.n_failed == 12
        (row,) = score(copy, [replace(work(), rewards={"jpeg": Dead()})], quietly)
    finally:
        Dead.alive = False
    assert (row.n, row.n_failed) == (12, 0)
    assert table(copy)["jpeg"].tolist() == table(whole)["jpeg"].tolist()
