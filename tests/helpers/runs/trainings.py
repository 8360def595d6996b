"""Trainings of three iterations of a tiny model, and what they leave."""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from accelerate import Accelerator

from nftbench.benchmark.places import ENVIRONMENT
from nftbench.evaluation.scoring.loading import quiet
from nftbench.training.config.overrides import load_recipe
from nftbench.training.config.recipe import Recipe
from nftbench.training.run import TrainingRun
from tests.helpers.models import families

SMALL = (
    "policy.rank=4",
    "policy.precision=no",
    "rollout.batch_size=4",
    "evaluation.benchmarks=[]",
    "loggers=[]",
    'stages.prompts=["geneval-pocket"]',
    "stages.rewards=jpeg",
    "stages.iterations=3",
    "stages.groups=3",
    "stages.group_size=4",
    "stages.num_inference_steps=3",
    "stages.timesteps_per_image=1",
    "stages.updates=2",
)

FORMS = ("circle", "square", "star", "cup")
FEW = "few"
"""Eight prompts, two images each: the benchmark of `few_prompts`."""
FEW_TOML = """
name = "few"
version = 1
title = "Eight prompts of GenEval's kind"
licence = "Apache-2.0"
citation = "nftbench"
rewards = ["jpeg"]
aggregation = "mean"

[prompts]
file = "few.txt"
layout = "text"
count = 8
sha256 = "{sha256}"

[sampling]
images_per_prompt = 2
num_inference_steps = 2
"""


def quietly(*_: object) -> None:
    """Words and progress nobody reads."""


@cache
def tiny_checkpoint() -> Path:
    """A whole checkpoint of pocket's architecture that takes half of its time: the loop is the same for any model."""
    folder = Path(tempfile.mkdtemp(prefix="nftbench-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    families.build("sd3").save_pretrained(folder)
    return folder


@contextmanager
def few_prompts(folder: Path) -> Iterator[None]:
    """`FEW` is a benchmark within the block, of this process and of those that it starts anew."""
    (folder / "prompts").mkdir()
    prompts = "".join(f"a {colour} {what}\n" for colour in ("red", "blue") for what in FORMS)
    (folder / "prompts" / "few.txt").write_text(prompts, "utf-8")
    sha256 = hashlib.sha256(prompts.encode()).hexdigest()
    (folder / "few.toml").write_text(FEW_TOML.format(sha256=sha256), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(folder), prepend=os.pathsep)
        yield


def settings_of(*settings: str) -> list[str]:
    """What `--set` is given for a short training: the tiny model, `SMALL`, and more."""
    return [f"checkpoint={tiny_checkpoint()}", *short(*settings)]


def short(*settings: str) -> list[str]:
    """`SMALL`, and more; without a rank where every weight is trained."""
    lora = "policy.method=full" not in settings
    return [*(one for one in SMALL if lora or not one.startswith("policy.rank")), *settings]


def small(*settings: str, recipe: str = "pocket") -> Recipe:
    """Three iterations of twelve images, two optimiser steps each."""
    return load_recipe(recipe, settings_of(*settings))


def begin(recipe: Recipe, folder: Path, *, resume: bool = False, say=quietly) -> TrainingRun:
    """A run that is open and has done nothing yet."""
    quiet()
    accelerator = Accelerator(log_with=list(recipe.loggers), project_dir=folder)
    run = TrainingRun(recipe, folder, accelerator, quietly, say)
    run.open(resume)
    return run


def metrics_of(folder: Path) -> list[dict]:
    """metrics.jsonl without its times."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [
        {
            k: v
            for k, v in json.loads(line).items()
            if "minutes" not in k and "seconds" not in k and k != "check"
        }
        for line in lines
    ]
