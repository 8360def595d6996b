"""Trainings of three iterations, and what they leave."""

import json
from pathlib import Path

from accelerate import Accelerator

from nftbench.evaluation.loading import quiet
from nftbench.training.config.overrides import load_recipe
from nftbench.training.config.recipe import Recipe
from nftbench.training.run import TrainingRun

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


def quietly(*_: object) -> None:
    """Words and progress nobody reads."""


def small(*settings: str, recipe: str = "pocket") -> Recipe:
    """Three iterations of twelve images, two optimiser steps each."""
    return load_recipe(recipe, [*SMALL, *settings])


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
