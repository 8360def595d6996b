"""The whole state of a training run on disk, so that a run that was cut anywhere is resumed as if it had not been.

    RUN/recipe.json                 what is being done
    RUN/checkpoints/000120/         weights.safetensors (theta, old, ema), optimizer.pt, state.json, and the averaged
                                    policy as below; sha256sums, which `sha256sum -c` reads
    RUN/metrics.jsonl               one line an iteration
    RUN/policy.json, RUN/lora/      the averaged policy, as `nftbench eval RUN` and diffusers load it

A checkpoint is written beside its place and renamed into it; its digests are checked when it is loaded. Every
generator of random numbers is seeded by the train state, which is therefore all that is kept of them.
"""

import hashlib
import json
import os
import pickle
import random
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nftbench.parsing import parse_json
from nftbench.runs.io import OLD, whole_folder
from rewards.base import ConfigError

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.pt", "state.json"
SUMS = "sha256sums"
NAME = re.compile(rf"\d{{6,}}(-\d{{6}})?({re.escape(OLD)})?")
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)
"""What reading a damaged or foreign file ends in."""


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

    @property
    def name(self) -> str:
        """Of its checkpoint; within an iteration another than at its beginning, whose held-out value it has not."""
        return f"{self.done:06d}" + (f"-{self.updates:06d}" if self.updates else "")

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
    run: str = ""
    """The run's `id`, see `config/record.py`."""


def save_state(
    folder: Path,
    state: CheckpointState,
    *,
    keep: int,
    needed: Collection[str] = (),
    export: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write a checkpoint whole or not at all, then remove the older ones but for those that are kept.

    Args:
        folder: of all checkpoints.
        state: what is saved.
        keep: how many of the newest stay, besides the best.
        needed: names of others that stay.
        export: adds the averaged policy as a checkpoint that `nftbench eval` takes.
    """
    path = folder / state.train_state.name
    noted = asdict(replace(state, weights={}, optimizer={}, scaler={}))
    noted = {k: v for k, v in noted.items() if k not in ("weights", "optimizer", "scaler")}
    kept = {"optimizer": state.optimizer, "scaler": state.scaler}
    with whole_folder(path) as made, disk_errors(path):
        export(made)
        save_file(state.weights, made / WEIGHTS)
        torch.save(kept, made / OPTIMIZER)
        (made / STATE).write_text(f"{json.dumps(noted, indent=2)}\n", encoding="utf-8")
        files = sorted(p for p in made.rglob("*") if p.is_file())
        sums = [f"{_sha256(p)}  {p.relative_to(made).as_posix()}\n" for p in files]
        (made / SUMS).write_text("".join(sums), encoding="utf-8")
    for old in checkpoints(folder)[:-keep]:
        if old.name not in {state.best.get("name"), *needed}:
            shutil.rmtree(old)
    return path


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What safetensors and torch make of a full disk is the system's own error again."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        code = re.search(r"(?:code:|os error) (\d+)", str(error))
        cause = error.__context__
        if isinstance(cause, OSError):
            raise cause from None
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, oldest first; one that stood aside when its successor's writing was cut counts before it."""
    found = [p for p in folder.glob("[0-9]*") if NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=lambda p: (p.name.removesuffix(OLD), not p.name.endswith(OLD)))


def warned(path: Path) -> bool:
    """Whether a guard's warning stood when a checkpoint was saved, or nobody can tell."""
    try:
        return bool(parse_json((path / STATE).read_text(encoding="utf-8"))["guards"]["warned"])
    except (OSError, ValueError, KeyError, TypeError):
        return True


def stage_of(path: Path) -> int:
    """Index of the stage in which a checkpoint was saved; 0 where nobody can tell."""
    try:
        return int(parse_json((path / STATE).read_text(encoding="utf-8"))["train_state"]["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def load_state(path: Path) -> CheckpointState:
    """Read a checkpoint.

    Raises:
        ConfigError: a file of it is missing, is not what was saved, or is of another version.
    """
    try:
        _check_sums(path)
        noted = parse_json((path / STATE).read_text(encoding="utf-8"))
        kept = torch.load(path / OPTIMIZER, weights_only=True, map_location="cpu")
        return CheckpointState(
            train_state=TrainState(**noted.pop("train_state")),
            weights=load_file(path / WEIGHTS),
            **kept,
            **noted,
        )
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"not a valid checkpoint: {path}: {reason}") from None


def _check_sums(path: Path) -> None:
    """Refuse a checkpoint whose files are not those that were saved."""
    lines = (path / SUMS).read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    lacking = {STATE, OPTIMIZER, WEIGHTS} - sums.keys()
    if lacking:
        raise ValueError(f"{SUMS} does not name {min(lacking)}")
    for name, digest in sums.items():
        if not (path / name).is_file():
            raise ValueError(f"{name} is missing")
        if _sha256(path / name) != digest:
            raise ValueError(f"{name} is damaged: its sha256 is not the one in {SUMS}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
