"""The whole state of a training run on disk, so that a run that was cut anywhere is resumed as if it had not been.

    RUN/recipe.json                 what is being done
    RUN/checkpoints/000120/         weights.safetensors (theta, old, ema), optimizer.pt, state.json
    RUN/metrics.jsonl               one line an iteration
    RUN/policy.json, RUN/lora/      the averaged policy, as `nftbench eval RUN` and diffusers load it

A checkpoint is written beside its place and renamed into it. Every generator of random numbers is seeded by
the train state, which is therefore all that is kept of them.
"""

import hashlib
import json
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nftbench.runs.io import write_atomic
from nftbench.training.config.recipe import Recipe
from rewards.base import ConfigError

RECIPE = "recipe.json"


@dataclass(kw_only=True)
class TrainState:
    """Where a run stands."""

    stage: int = 0
    iteration: int = 0
    """Within the stage; it also says which of the stage's shuffled prompts come next."""
    done: int = 0
    """Iterations of the whole run."""
    updates: int = 0
    """Optimiser steps that this iteration has had already; its rollout is drawn again for the others."""
    optimizer_steps: int = 0
    """Optimiser steps of the whole run."""
    schedule_start: int = 0
    """Value of `optimizer_steps` at which the old policy's schedule began."""
    seconds: float = 0.0
    """Spent on training so far."""
    images: int = 0
    """Drawn for training so far."""

    def seed(self, run_seed: int, purpose: str) -> int:
        """The seed of one purpose in this iteration."""
        return seed_of(run_seed, purpose, self.stage, self.iteration)


@dataclass(kw_only=True)
class CheckpointState:
    """Everything that a run is resumed from."""

    train_state: TrainState
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    guards: dict[str, Any]
    best: dict[str, Any]
    """`name` of the checkpoint with the best held-out value so far, and `value`; empty before the first validation."""
    base: str
    base_digest: str


def save_state(folder: Path, state: CheckpointState, *, keep: int) -> Path:
    """Write a checkpoint whole or not at all, then remove all but the newest `keep` and the best."""
    path = folder / f"{state.train_state.done:06d}"
    temporary = folder / f".{path.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(state.weights, temporary / "weights.safetensors")
    torch.save({"optimizer": state.optimizer, "scaler": state.scaler}, temporary / "optimizer.pt")
    noted = {
        "train_state": asdict(state.train_state),
        "guards": state.guards,
        "best": state.best,
        "base": state.base,
        "base_digest": state.base_digest,
    }
    (temporary / "state.json").write_text(f"{json.dumps(noted, indent=2)}\n", encoding="utf-8")
    aside = folder / f".{path.name}.old"
    if path.exists():  # the same iteration, further on: never without a whole checkpoint on disk
        path.rename(aside)
    temporary.rename(path)
    shutil.rmtree(aside, ignore_errors=True)
    for old in checkpoints(folder)[:-keep]:
        if old.name != state.best.get("name"):
            shutil.rmtree(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if (p / "state.json").is_file())


def load_state(path: Path) -> CheckpointState:
    """Read a checkpoint.

    Raises:
        ConfigError: it is not one of this version.
    """
    try:
        noted = json.loads((path / "state.json").read_text(encoding="utf-8"))
        kept = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
        return CheckpointState(
            train_state=TrainState(**noted.pop("train_state")),
            weights=load_file(path / "weights.safetensors"),
            **kept,
            **noted,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"not a whole checkpoint of this version: {path} ({str(error).splitlines()[0]}); remove it to resume from "
            "the one before"
        ) from None


def save_recipe(folder: Path, recipe: Recipe) -> None:
    """Note what a run does."""
    write_atomic(folder / RECIPE, f"{recipe.model_dump_json(indent=2)}\n".encode())


def stored_recipe(folder: Path) -> Recipe:
    """What a run does.

    Raises:
        ConfigError: the folder is not a training run.
    """
    path = folder / RECIPE
    if not path.is_file():
        raise ConfigError(f"not a training run: {folder} holds no {RECIPE}")
    return Recipe.model_validate_json(path.read_text(encoding="utf-8"))


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^63) named by anything."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(*parts: object) -> None:
    """Seed every global generator (Python's, numpy's, torch's on each device).

    Ours draw from generators of their own; a reward or a dropout layer may not.
    """
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
