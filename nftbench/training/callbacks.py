"""What happens after each iteration, each in one class: guards, validation, the metrics log, checkpoints."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from nftbench.runs.io import write_table
from nftbench.stats.estimates import Estimate
from nftbench.stats.paired import Change, changes
from nftbench.training import TrainingFailed
from nftbench.training.checkpoints import CheckpointState, checkpoints, load_state, save_state
from nftbench.training.guards import Finding, Guards
from nftbench.training.metrics_log import HELD_OUT, MetricsLog, write_averaging
from nftbench.training.setup import Setup
from nftbench.training.trainer import Trainer
from nftbench.training.validation import (
    COLUMNS,
    ValidationSet,
    averaging,
    estimates,
    total,
    validate,
)
from rewards.base import ConfigError, Progress

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Iteration:
    """One iteration that was done; callbacks add what they measure. Number 0 is the policy before the training."""

    done: int
    """Iterations of the whole run."""
    metrics: dict[str, Any]
    first_of_stage: bool = False
    last: bool = False
    """Of the whole run."""
    warnings: list[str] = field(default_factory=list)
    """What the guards found, in words."""


class Callback(Protocol):
    """Called after each iteration, in the order that `run.py` gives."""

    def __call__(self, iteration: Iteration) -> None:
        """Read or extend what is known of it; TrainingFailed ends the run."""
        ...


class Checkpoints:
    """Saves the whole state every so many iterations and when asked, and gives it back on resume."""

    def __init__(self, setup: Setup, trainer: Trainer, guards: Guards) -> None:
        self._setup, self._trainer, self._guards = setup, trainer, guards
        self._run_folder, self._folder = setup.folder, setup.folder / "checkpoints"
        self._config = setup.recipe.checkpoints
        self._best: dict[str, Any] = {}

    def __call__(self, iteration: Iteration) -> None:
        """Save if it is time."""
        if iteration.done and iteration.done % self._config.every == 0:
            self.save()

    def save(self) -> Path:
        """Save now."""
        base, state = self._setup.base, self._trainer.state_dict()
        if self._setup.processes.is_main:
            whole = CheckpointState(
                **state,
                guards=self._guards.state(),
                best=self._best,
                base=base.name,
                base_digest=base.digest,
            )
            save_state(self._folder, whole, keep=self._config.keep)
        return self._folder / f"{self._trainer.state.done:06d}"

    def note_value(self, done: int, value: float) -> None:
        """Keep a checkpoint that is better on held-out prompts than any before it."""
        if not self._best or value > self._best["value"]:
            self._best = {"name": f"{done:06d}", "value": value}
            if done:
                self.save()

    def refuse_an_old_run(self) -> None:
        """Refuse to begin in a folder that holds checkpoints.

        Raises:
            ConfigError: it does.
        """
        if checkpoints(self._folder):
            raise ConfigError(
                f"{self._run_folder} holds a training run; resume it with --resume {self._run_folder}, or choose "
                "another --out"
            )

    def restore(self) -> Path:
        """Load the last checkpoint into trainer and guards.

        Raises:
            ConfigError: there is none, or it is of another base or network.
        """
        found, base = checkpoints(self._folder), self._setup.base
        if not found:
            raise ConfigError(
                f"{self._run_folder} holds no checkpoint; start it again without --resume"
            )
        state = load_state(found[-1])
        if state.base_digest != base.digest:
            raise ConfigError(
                f"{self._run_folder} was trained from {state.base} with weights {state.base_digest}, not from "
                f"{base.name} with {base.digest}; resume with the checkpoint it began with"
            )
        self._trainer.load_state_dict(
            train_state=state.train_state,
            weights=state.weights,
            optimizer=state.optimizer,
            scaler=state.scaler,
        )
        self._guards.load_state(state.guards)
        self._best = state.best
        return found[-1]

    def last_good(self) -> str:
        """The newest one, in words."""
        found = checkpoints(self._folder)
        return (
            f"the last good checkpoint is {found[-1]}" if found else "no checkpoint was saved yet"
        )


class WatchGuards:
    """Reports what the guards find in an iteration's metrics, and ends the run where one says so."""

    def __init__(self, guards: Guards, saved: Checkpoints, say: Say) -> None:
        self._guards, self._saved, self._say = guards, saved, say

    def __call__(self, iteration: Iteration) -> None:
        """Check the metrics; a new stage's are held against its own start, as other prompts look like drift."""
        if iteration.first_of_stage:
            self._guards.restart()
        self._report(iteration, self._guards.check(iteration.metrics))

    def check_held_out(
        self, iteration: Iteration, trained: Estimate, watched: Mapping[str, Estimate]
    ) -> None:
        """Check the changes of held-out rewards, as `Guards.held_out` takes them."""
        self._report(iteration, self._guards.held_out(trained, watched))

    def _report(self, iteration: Iteration, findings: Iterable[Finding]) -> None:
        """Print and note findings.

        Raises:
            TrainingFailed: one of them stops the run; the state is saved.
        """
        for finding in findings:
            iteration.warnings.append(f"{finding.level}: {finding.text}")
            self._say(iteration.warnings[-1])
            if finding.level == "stop":
                path = self._saved.save()
                raise TrainingFailed(f"stopped by guard {finding.text}; the state is in {path}")


class Validate:
    """Measures the averaged policy on held-out prompts every so many iterations, and before and after the training."""

    def __init__(
        self,
        setup: Setup,
        trainer: Trainer,
        log: MetricsLog,
        watch: WatchGuards,
        saved: Checkpoints,
        progress: Progress,
    ) -> None:
        self._setup, self._trainer, self._log = setup, trainer, log
        self._watch, self._saved, self._progress = watch, saved, progress
        self._sets = setup.validation_sets(whole=False)
        self._whole_sets = setup.validation_sets(whole=True)

    def __call__(self, iteration: Iteration) -> None:
        """Validate if it is time."""
        every = self._setup.recipe.evaluation.every
        if not self._sets or not (iteration.done % every == 0 or iteration.last):
            return
        table, images = self._draw(self._sets)
        self._log.grid(iteration.done, images)
        for (benchmark, metric), estimate in estimates(table, self._sets).items():
            iteration.metrics[f"held_out/{benchmark}/{metric}"] = estimate.value
        self._saved.note_value(iteration.done, total(table, self._sets, self._scales()))
        self._compare_with_first(iteration, table)

    def whole(self, name: str, *, reuse: bool = False) -> pd.DataFrame:
        """Every held-out prompt, scored; kept as `held_out/NAME.parquet`.

        Args:
            name: `before` or `after`.
            reuse: whether to read the table where a resumed run has it.
        """
        path = self._setup.folder / HELD_OUT / f"{name}.parquet"
        if not self._whole_sets:
            return pd.DataFrame(columns=list(COLUMNS))
        if reuse and path.is_file():
            return pd.read_parquet(path)
        table, _ = self._draw(self._whole_sets)
        if self._setup.processes.is_main:
            write_table(path, table)
            write_averaging(self._setup.folder, averaging(table, self._whole_sets))
        return table

    def changes(self, before: pd.DataFrame, after: pd.DataFrame) -> list[Change]:
        """What became of every metric between two `whole` tables."""
        return changes(before, after, averaging(before, self._whole_sets))

    def _draw(self, sets: list[ValidationSet]) -> tuple[pd.DataFrame, Mapping[str, np.ndarray]]:
        with self._setup.policy.drawing("ema"):
            return validate(
                self._setup.base.pipeline,
                sets,
                batch_size=self._trainer.batch_size,
                processes=self._setup.processes,
                progress=self._progress,
            )

    def _compare_with_first(self, iteration: Iteration, table: pd.DataFrame) -> None:
        """Have the guards check rewards that are watched and not trained, against the first validation."""
        path = self._setup.folder / HELD_OUT / "first.parquet"
        if iteration.done == 0 or not path.is_file():
            if self._setup.processes.is_main:
                write_table(path, table)
            return
        found = changes(pd.read_parquet(path), table, averaging(table, self._sets))
        trained_keys = {r.key for r in self._setup.trained}
        watched_keys = {r.key for r in self._setup.watched}
        trained = [c.difference for c in found if c.metric in trained_keys]
        watched = {
            f"{c.benchmark}/{c.metric}": c.difference for c in found if c.metric in watched_keys
        }
        if trained and watched:
            self._watch.check_held_out(iteration, trained[0], watched)

    def _scales(self) -> dict[str, float]:
        return {r.key: r.spec.weight / r.scale for r in self._setup.trained}


class LogMetrics:
    """Writes the iteration's line."""

    def __init__(self, log: MetricsLog) -> None:
        self._log = log

    def __call__(self, iteration: Iteration) -> None:
        """Metrics, and the guards' words where there are any."""
        words = {"guards": iteration.warnings} if iteration.warnings else {}
        self._log.log(iteration.done, iteration.metrics | words)
