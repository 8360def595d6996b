"""Scores given while the next images are drawn: earlier, and in every byte the same."""

import signal
import threading
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

import rewards
from nftbench.evaluation import evaluate, images
from nftbench.evaluation.evaluate import score
from nftbench.evaluation.images import BEHIND, Behind, make_images
from nftbench.evaluation.scoring.early import EarlyScores, draws_elsewhere
from nftbench.evaluation.scoring.in_turn import Turns
from nftbench.generation.sampling import generate
from nftbench.runs.processes import Processes
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError, Scores
from tests.helpers.launched import environments
from tests.helpers.runs.small_evaluation import Stop, files, quietly, table, work

NAME = "geneval-pocket"
pytestmark = pytest.mark.slow


class Watched:
    """Mean grey of an image; says when it was asked, and fails on one image."""

    asked: ClassVar[list[str]] = []
    before = staticmethod(lambda: None)
    """Called before it scores."""

    def __init__(self, *, device):
        self.info = replace(rewards.reward_info("jpeg"), name="watched", variant="", files=())
        self.info = replace(self.info, low=0.0, high=255.0)

    def check(self, prompts):
        """Any."""

    def score(self, images, prompts):
        type(self).before()
        self.asked += [p.id for p in prompts]
        values = images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
        reasons = [""] * len(values)
        if len(values) == 5 and prompts[0].id == "0000":  # the first batch
            values[0], reasons[0] = np.nan, "not today"
        return Scores(values=values, reasons=tuple(reasons))


@pytest.fixture
def watched(monkeypatch):
    """The reward under a name of its own; what was drawn and scored so far, in order."""
    monkeypatch.setitem(rewards.BUILT_IN, "watched", f"{__name__}:Watched")
    monkeypatch.setattr(Watched, "asked", [])
    happened: list[str] = []

    def drawing(pipeline, batch, settings):
        found = generate(pipeline, batch, settings)
        happened.append("drawn")
        return found

    monkeypatch.setattr(images, "generate_each", drawing)
    monkeypatch.setattr(Watched, "before", staticmethod(lambda: happened.append("scored")))
    return happened


def evaluated(folder, policy, one, *, overlap=True, report=quietly):
    run = Run(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluate, "draws_elsewhere", lambda policy: overlap)
        evaluate.evaluate(run, [one], policy, NAME, report)
    return run


def test_a_batch_is_scored_before_the_last_one_is_drawn(watched, policy, tmp_path, monkeypatch):
    """The drawing of the last batch waits for the first score: one after the other, it would never come.

    By then `BEHIND` batches may still be waiting to be written, on the slowest disk, and no more.
    """
    scored, drawn, draw = threading.Event(), [], images.generate_each

    def drawing(*given):
        drawn.append(1)
        assert len(drawn) < BEHIND + 2 or scored.wait(60), (
            "nothing is scored while images are drawn"
        )
        return draw(*given)

    monkeypatch.setattr(images, "generate_each", drawing)
    monkeypatch.setattr(Watched, "before", staticmethod(scored.set))
    evaluated(tmp_path / "run", policy, work(3, judges="watched"))
    assert len(drawn) == BEHIND + 2


def test_the_bytes_are_those_of_one_stage_after_the_other(watched, policy, tmp_path):
    early = evaluated(tmp_path / "early", policy, work(judges="watched,jpeg"))
    del watched[:]
    late = evaluated(tmp_path / "late", policy, work(judges="watched,jpeg"), overlap=False)
    assert watched == ["drawn"] * 3 + ["scored"] * 3
    assert files(early.folder) == files(late.folder)
    assert table(early)["watched:reason"].tolist().count("not today") == 1


def test_what_failed_is_asked_once_a_command(watched, policy, tmp_path):
    run = evaluated(tmp_path / "run", policy, work(judges="watched"))
    assert len(Watched.asked) == 12
    score(run, [work(judges="watched")], quietly)
    assert len(Watched.asked) == 13, "the next command asks again for the one that failed"


def test_progress_of_both_stages_ends_at_the_whole_and_never_runs_back(watched, policy, tmp_path):
    """From the start, and resumed where two of three batches are drawn and one of those is scored."""
    told: dict[str, list[int]] = {}

    def report(stage, done, total):
        told.setdefault(stage, []).append(done)
        assert done <= total == 12

    run = evaluated(tmp_path / "run", policy, work(judges="watched"), report=report)
    stages = [f"{NAME}: images", f"{NAME}: watched"]
    assert told == {stage: [5, 10, 12] for stage in stages}
    told.clear()
    run.image_path(NAME, work().samples[-1]).unlink()
    run.scores_path(NAME, "watched", 1).unlink()
    evaluated(run.folder, policy, work(judges="watched"), report=report)
    assert told[stages[0]] == [5, 10, 12] and told[stages[1]][-1] == 12


def test_a_large_reward_is_loaded_when_all_is_drawn(watched, policy, tmp_path):
    one = work(judges="watched")
    turns = Turns("cpu", small=-1)
    one = replace(one, rewards={"watched": turns.load("watched")})
    evaluated(tmp_path / "run", policy, one)
    assert watched == ["drawn"] * 3 + ["scored"] * 3


def test_an_error_of_a_reward_is_the_commands_and_the_run_goes_on_from_there(
    watched, policy, tmp_path, monkeypatch
):
    def refuses():
        raise ConfigError("the judge is gone; start it again")

    before = Watched.before
    monkeypatch.setattr(Watched, "before", staticmethod(refuses))
    with pytest.raises(ConfigError, match="the judge is gone; start it again"):
        evaluated(tmp_path / "run", policy, work(judges="watched"))
    monkeypatch.setattr(Watched, "before", staticmethod(before))
    run = evaluated(tmp_path / "run", policy, work(judges="watched"))
    whole = evaluated(tmp_path / "whole", policy, work(judges="watched"), overlap=False)
    assert files(run.folder) == files(whole.folder)


@pytest.mark.parametrize("overlap", [True, False])
def test_a_score_that_cannot_be_written_ends_the_command_and_is_not_told_of(
    overlap, watched, policy, tmp_path, monkeypatch
):
    save, told = Run.save_scores, []

    def full(run, benchmark, reward, number, *rest):
        if number == 1:
            raise OSError(28, "No space left on device")
        save(run, benchmark, reward, number, *rest)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(Run, "save_scores", full)
        evaluated(
            tmp_path / "run",
            policy,
            work(judges="watched"),
            overlap=overlap,
            report=lambda stage, done, total: told.append((stage, done)),
        )
    assert [done for stage, done in told if "watched" in stage] == [5]
    run = evaluated(tmp_path / "run", policy, work(judges="watched"), overlap=overlap)
    for _ in "ab":  # what failed in the first batch is asked again by a second command
        whole = evaluated(tmp_path / "whole", policy, work(judges="watched"), overlap=False)
    assert files(run.folder) == files(whole.folder)


@pytest.mark.parametrize("moment", range(6))
def test_stopped_after_any_batch(whole, policy, tmp_path, moment):
    reports = []

    def report(*said):
        reports.append(said)
        if len(reports) == moment + 1:
            raise Stop

    before = threading.active_count()
    with pytest.raises(Stop):
        evaluated(tmp_path / "run", policy, work(), report=report)
    assert threading.active_count() == before
    assert files(evaluated(tmp_path / "run", policy, work()).folder) == files(whole.folder)


def test_the_drawing_is_never_far_ahead(watched, policy, tmp_path, monkeypatch):
    """While the first score is given only so many are drawn: a little is waited for one more, which never comes."""
    beyond, count, draw = threading.Event(), [], images.generate_each

    def drawing(*given):
        found = draw(*given)
        count.append(1)
        if len(count) > 2 * BEHIND + 1:
            beyond.set()
        return found

    def scoring(first=[]):  # noqa: B006 (kept between calls)
        if not first:
            first.append(1)
            assert not beyond.wait(1), "nothing holds the drawing back"

    monkeypatch.setattr(images, "generate_each", drawing)
    monkeypatch.setattr(Watched, "before", staticmethod(scoring))
    evaluated(tmp_path / "run", policy, work(1, judges="watched"))
    assert len(count) == 12


def test_after_an_error_of_the_drawing_what_waits_is_not_begun():
    done, begun, gate = [], threading.Event(), threading.Event()

    def first():
        begun.set()
        gate.wait(60)
        done.append("first")

    behind = Behind(whatever_happens=False)
    with pytest.raises(Stop), behind:
        behind.follow(first, lambda: done.append("told"))
        behind.follow(lambda: done.append("second"), lambda: done.append("told"))
        assert begun.wait(60)
        threading.Timer(0.1, gate.set).start()
        raise Stop
    assert done == ["first"] and behind.stopped


class Second(Processes):
    """The second of two."""

    def share(self, items):
        return items[1::2]


def test_each_process_scores_the_batches_that_it_drew(watched, policy, tmp_path):
    (one,) = evaluate.fitted([work(judges="watched")], policy)
    run = Run(tmp_path / "run")
    with EarlyScores(run, quietly) as early:
        make_images(run, one, policy, quietly, Second(), lambda *batch: early.follow(one, *batch))
    assert early.done.scored == {(NAME, "watched", 1)} and len(Watched.asked) == 5


def test_it_is_done_where_the_checkpoint_draws_elsewhere_than_the_cpu(policy):
    assert not draws_elsewhere(policy)
    assert draws_elsewhere(replace(policy, hardware={"device": "cuda:0"}))


OVERLAPPING = """
import sys
from nftbench.evaluation import evaluate
evaluate.draws_elsewhere = lambda policy: True
sys.argv = ["nftbench", *{arguments!r}]
from nftbench.cli.main import main
main()
"""
COMMAND = "eval pocket --suite geneval-pocket --limit 8 --steps 2 --batch-size 3 --rewards jpeg,jpeg@compressibility"


@pytest.mark.thorough
@pytest.mark.slow
def test_the_command_stopped_by_a_signal_and_shared_by_two(start, start_code, tmp_path):
    """SIGTERM while both go on: one line, nothing half-written; two processes resume it, to the bytes of one."""
    command = COMMAND.split()
    going = start_code(OVERLAPPING.format(arguments=[*command, "--out", "early"]))
    assert going.signal_when(
        lambda: any(tmp_path.rglob("early/*/scores/*/*.parquet")), signal.SIGTERM
    )
    code, out, err = going.finish()
    assert (code, out) == (
        130,
        "",
    ) and err == "nftbench: stopped; run the same command again to resume\n"
    assert not list(tmp_path.rglob("early/**/*.tmp"))
    both = [
        start_code(OVERLAPPING.format(arguments=[*command, "--out", "early"]), environment)
        for environment in environments(2)
    ]
    ends = [one.finish() for one in both]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert start(*command, "--out", "late").finish()[0] == 0
    assert files(tmp_path / "early") == files(tmp_path / "late")
