"""A user's own training, by the command: mistakes in mid-run, rewards of which less is better, what has no effect."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from nftbench.runs.seeds import write_parent
from rewards import own
from tests.helpers.commands import run_here
from tests.helpers.runs.trainings import (
    FEW,
    FORMS,
    few_prompts,
    metrics_of,
    settings_of,
    tiny_checkpoint,
)

pytestmark = pytest.mark.slow

OWN = """
from pathlib import Path

import numpy as np

from rewards.base import RewardInfo, Scores


class Dark:
    info = RewardInfo(
        name="dark", variant="", summary="brightness", low=0, high=1, higher_is_better=False
    )

    def __init__(self, device):
        self.calls = 0

    def check(self, prompts):
        pass

    def score(self, images, prompts):
        values = images.mean((1, 2, 3)).astype(np.float32) / 255
        never = np.full(len(values), np.nan, np.float32)
        return Scores(values=values, reasons=("",) * len(values), parts={"never": never})


class Light(Dark):
    info = RewardInfo(name="light", variant="", summary="darkness", low=0, high=1)

    def score(self, images, prompts):
        values = 1 - images.mean((1, 2, 3)).astype(np.float32) / 255
        return Scores(values=values, reasons=("",) * len(values))


class Odd(Dark):
    info = RewardInfo(name="odd", variant="", summary="brightness", low=0, high=1)

    def score(self, images, prompts):
        self.calls += 1
        assert self.calls < 4, "my own mistake"
        return super().score(images, prompts)


class Asleep(Dark):
    info = RewardInfo(name="asleep", variant="", summary="brightness", low=0, high=1)

    def score(self, images, prompts):
        self.calls += 1
        if self.calls < 4:
            return super().score(images, prompts)
        nothing = np.full(len(images), np.nan, np.float32)
        return Scores(values=nothing, reasons=("asleep",) * len(images))


class Never(Dark):
    info = RewardInfo(name="never", variant="", summary="brightness", low=0, high=1)

    def score(self, images, prompts):
        nothing = np.full(len(images), np.nan, np.float32)
        return Scores(values=nothing, reasons=("away",) * len(images))


class Over(Dark):
    info = RewardInfo(name="over", variant="", summary="brightness", low=0, high=1)

    def score(self, images, prompts):
        # somebody saves other weights to the base's file meanwhile
        self.calls += 1
        if self.calls == 2:
            (path,) = Path("ckpt/transformer").glob("*.safetensors")
            data = path.read_bytes()
            with path.open("r+b") as file:
                file.write(data)
        return super().score(images, prompts)


class Half(Dark):
    info = RewardInfo(name="half", variant="", summary="brightness", low=0, high=1)

    def score(self, images, prompts):
        values = images.mean((1, 2, 3)).astype(np.float32) / 255
        values[::2] = np.nan
        reasons = ["does not apply", ""] * len(values)
        return Scores(values=values, reasons=tuple(reasons[: len(values)]))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with `mine.py`, which is forgotten afterwards."""
    monkeypatch.setattr(own, "ADDED", {})
    (tmp_path / "mine.py").write_text(OWN, "utf-8")
    return tmp_path


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def train(folder: Path, *settings: str, more: tuple[str, ...] = ()) -> tuple[int, str]:
    short = settings_of("stages.groups=2", "stages.group_size=2", "stages.updates=1", *settings)
    return run_here(folder, "train", "--recipe", "pocket", *words(*short), "--out", "run", *more)


def test_a_mistake_in_mid_run_loses_nothing(folder):
    """Two iterations were done and gone; a mended file is another reward, which goes by another name."""
    wrong = train(folder, "stages.rewards=mine.py:Odd", "rollout.batch_size=2")
    assert wrong[0] == 2 and "my own mistake; the state is in run/checkpoints/000001" in wrong[1]
    way_on = "once that is mended, resume with: nftbench train --resume run --rewards mine.py:Odd"
    assert f"{way_on} (see" in wrong[1]  # without it: unknown reward 'odd'
    mended = OWN.replace("assert", "#")
    resume = ("train", "--resume", "run", "--rewards", "mine.py:Odd")
    (folder / "mine.py").write_text(mended, "utf-8")
    code, said = run_here(folder, *resume)
    assert code == 2 and "restore it, give the new one another name, or start" in said
    (folder / "mine.py").write_text(mended.replace('"odd"', '"odder"'), "utf-8")
    code, said = run_here(folder, *resume)
    assert code == 0 and "iteration 3/3" in said, said


def test_what_weighs_nothing_takes_no_image_from_the_training(folder):
    """A reward that is told of alone lost half of the images; by the words that it gave, it had not even failed."""
    asked = "stages.rewards=mine.py:Dark,mine.py:Half:0"
    code, said = train(folder, asked, "stages.iterations=1", "stages.kl_weight=0")
    assert code == 0 and "iteration 1: half could not score 2 of 4 images: does not apply" in said
    (line,) = metrics_of(folder / "run")[1:]
    assert (line["failed/half"], line["unscored"], line["groups_lost"]) == (2, 0, 0)
    assert line["reward/total"] == pytest.approx(-line["reward/dark"])
    assert "guards velocity_ratio, kl, kl_exploded, kl_p99 watch nothing in stage 1" in said
    assert (
        "velocity_ratio" not in line
    )  # of the old policy, where its guard speaks of the reference
    nothing = ("--rewards", "mine.py:Dark:0", "--iterations", "2")
    code, said = run_here(folder, "train", "--resume", "run", *nothing)
    assert code == 2 and "all have weight 0: nothing would be trained" in said


def test_what_weighs_nothing_may_score_nothing(folder, few):
    """It ended the run at its first iteration, though nothing is trained on it; and NaN is no JSON."""
    asked = "stages.rewards=mine.py:Dark,mine.py:Never:0,mine.py:Light:0"
    code, said = train(folder, *few, asked, "guards.held_out.warn=0")
    assert code == 0 and "iteration 1: never could not score 4 of 4 images: away" in said, said
    assert "never nan" not in said
    text = (folder / "run" / "metrics.jsonl").read_text("utf-8")
    assert "NaN" not in text and metrics_of(folder / "run")[1]["failed/never"] == 4
    warned = [line for line in said.splitlines() if line.startswith("warn: held_out")]
    assert all("few/dark got worse" not in line for line in warned)  # as nothing else is trained


@pytest.mark.parametrize("combine", ["sum", "advantages"])
def test_rewards_that_hardly_differ_are_told(folder, combine):
    """Weights are ratios, but for what is added to the spread: of a small one next to nothing was learnt, unsaid."""
    asked = (f"stages.combine={combine}", "stages.iterations=1")
    told = "rewards differ by so little that the 0.0001 added to their spread takes"
    code, said = train(folder, "stages.rewards=mine.py:Dark:1e-6", *asked)
    assert code == 0 and (told in said) == (combine == "sum"), said  # else each is taken by itself


@pytest.fixture
def few(tmp_path_factory):
    """The benchmark `few`, validated before and after an iteration."""
    with few_prompts(tmp_path_factory.mktemp("few")):
        yield ("stages.iterations=1", "evaluation.every=1", f"evaluation.benchmarks={FEW}")


def test_what_is_asked_for_and_has_no_effect_is_said(folder, few):
    """Reward of which less is better; a sub-score that no image has once ended the training."""
    prompts = "".join(f"A red  {what}\n" for what in FORMS)
    (folder / "mine.txt").write_text(f"{prompts}a dog\n", "utf-8")
    rates = ("stages.lr=1e-5", "stages.final_lr=1e-3")
    targets = ("policy.targets=to_q,nosuch",)
    asked = ("stages.prompts=mine.txt", "stages.rewards=mine.py:Dark", *rates, *targets)
    watched = ("evaluation.held_out_rewards=mine.py:Light,geneval@pocket", "guards.held_out.warn=0")
    code, said = train(folder, *few, *asked, *watched)
    assert code == 0 and "held-out few/dark" in said, said
    noted = json.loads((folder / "run" / "held_out" / "averaging.json").read_text("utf-8"))["few"]
    ways = {metric: how["higher_is_better"] for metric, how in noted.items()}
    assert ways == {"dark": False, "dark:never": None, "light": True}
    assert "image mean, less is better" in said
    assert re.search("few/light (got worse|fell) by 0, 0.0 standard errors", said)  # as dark did
    assert "not measured: geneval@pocket; no benchmark of evaluation.benchmarks has" in said
    assert "trained on, too: 4 of the 8 held-out prompts of few" in said
    assert "the learning rate rises from 1e-05 to 0.001" in said
    assert "the one iteration of stage 1 has its first rate; final_lr 0.001 is not reached" in said
    assert "policy.targets nosuch: no layer of SD3Transformer2DModel has such a name" in said


def test_a_held_out_reward_that_falls_silent_can_be_waited_for(folder, few):
    """It was told like a policy gone wrong, without the command that goes on."""
    batch, one = "rollout.batch_size=16", "evaluation.limit=4"
    code, said = train(folder, *few, batch, one, "evaluation.held_out_rewards=mine.py:Asleep")
    assert code == 3 and "asleep could not score 4 of 4 images: asleep; the state is in" in said
    assert "once the reward is back, resume with: nftbench train --resume run" in said


def test_a_base_that_is_written_over_or_written_into_is_refused(folder):
    """A policy was trained on two bases under the digest of one; a run within its base could not be resumed."""
    shutil.copytree(tiny_checkpoint(), folder / "ckpt")
    base = ("checkpoint=ckpt", "checkpoints.every=1", "stages.rewards=mine.py:Over")
    for out in ("ckpt/run", "ckpt"):
        code, said = train(folder, *base, more=("--out", out))
        assert code == 2 and f"{out} lies within the checkpoint ckpt, which it would make" in said
    code, said = run_here(folder, "eval", "ckpt", "--suite", "geneval-pocket", "--out", "ckpt/eval")
    assert code == 2 and "ckpt/eval lies within the checkpoint ckpt, which it would" in said
    code, said = train(folder, *base)
    assert code == 2 and ".safetensors was written over while ckpt was in use, which" in said, said
    assert [p.name for p in (folder / "run" / "checkpoints").iterdir()] == ["000001"]
    assert metrics_of(folder / "run")[-1]["iteration"] == 1


def test_what_an_optimiser_is_told_on_resume_holds(folder, few):
    """The checkpoint's own numbers came back with its memory, whatever was asked for and said."""
    code, said = train(folder, *few, "stages.rewards=geneval@pocket")
    assert code == 0 and "not validated: few; no reward of this run can score all of its" in said
    told = ("optimizer.weight_decay=0.5", "optimizer.betas=[0.5, 0.6]", "stages.iterations=2")
    code, said = run_here(folder, "train", "--resume", "run", *words(*told))
    assert code == 0 and "optimizer.weight_decay 0.0001 -> 0.5" in said, said
    kept = torch.load(folder / "run" / "checkpoints" / "000002" / "optimizer.pt")
    (group,) = kept["optimizer"]["param_groups"]
    assert group["weight_decay"] == 0.5 and list(group["betas"]) == [0.5, 0.6]


def test_a_parent_cannot_be_resumed_and_no_folder_is_called_tilde(folder):
    write_parent(folder / "parent", [3, 4])
    code, said = run_here(folder, "train", "--resume", "parent")
    assert code == 2 and "or name one of its runs: parent/seed-3" in said
    for seeds in ((), ("--seeds", "0,1")):
        code, said = run_here(folder, "train", "--out", "~/run", *seeds)
        assert code == 2 and "--out names no place of its own: '~/run'" in said
    assert not (folder / "~").exists()


def test_what_a_recipe_asks_too_much_of_is_said(folder):
    """A pass of milliards of prompts took the machine's memory; 50 times became 3 without a word."""
    code, said = train(folder, "stages.prompt_weights.counting=20000")
    assert code == 2 and "expected at most 1,000,000; take lower ones" in said.splitlines()[-1]
    code, said = train(folder, "policy.rank=100000000000")
    assert code == 2 and "out of memory: tried to allocate 6400000000000 bytes" in said
    assert "a lower policy.rank" in said and "--offload" not in said
    code, said = train(folder, "stages.timesteps_per_image=50", "stages.iterations=1")
    assert code == 0 and "stage 1: timesteps_per_image 50 is more than the 3 times of an" in said
