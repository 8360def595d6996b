"""What happens after each iteration, each in one class: guards, log, report, checkpoints; `held_out.py` validates."""

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nftbench.stats.estimates import Estimate
from nftbench.training.callbacks.checkpoints import (
    CheckpointState,
    checkpoints,
    disk_errors,
    load_state,
    save_state,
    warned,
)
from nftbench.training.callbacks.guards import Finding, Guards
from nftbench.training.callbacks.metrics_log import STOP, MetricsLog
from nftbench.training.config.names import files_again
from nftbench.training.iteration.trainer import Trainer
from nftbench.training.setup import Setup
from rewards.base import ConfigError, Metric

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
    held_out: dict[str, Estimate] = field(default_factory=dict)
    """Of a validation, by `BENCHMARK/METRIC`."""
    stop: str = ""
    """Why a guard ends the run here; empty where it goes on."""
    unscored: str = ""
    """Why a held-out reward scored nothing, which ends the run until the reward is back."""


class Callback(Protocol):
    """Called after each iteration, in the order that `run.py` gives."""

    def __call__(self, iteration: Iteration) -> None:
        """Read or extend what is known of it; `stop` ends the run once all were called."""
        ...


class Checkpoints:
    """Saves the whole state every so many iterations and when asked, and gives it back on resume."""

    def __init__(self, setup: Setup, trainer: Trainer, guards: Guards, say: Say) -> None:
        self._setup, self._trainer, self._guards, self._say = setup, trainer, guards, say
        self._run_folder, self._folder = setup.folder, setup.folder / "checkpoints"
        self._config = setup.recipe.checkpoints
        self._best: dict[str, Any] = {}
        self._is_best = False
        self.run = ""
        """The run's `id`."""

    def __call__(self, iteration: Iteration) -> None:
        """Save if it is time, or if this is the best so far."""
        done = iteration.done
        if done and not iteration.stop and (done % self._config.every == 0 or self._is_best):
            self.save()

    def save(self, *, good: bool = True) -> Path:
        """Save now, in all processes; the newest checkpoint from before a guard's warning is never removed.

        Args:
            good: whether the policy is worth going on with.
        """
        path = self.write(good=good)
        self._setup.processes.wait()  # who ends with a word about it ends after it is there
        return path

    def write(self, *, good: bool = True) -> Path:
        """Save now, with no other process waited for."""
        base, state = self._setup.base, self._trainer.state_dict()
        base.refuse_written_over()  # nobody could go on from there
        self._is_best = False
        if self._setup.processes.is_main:
            whole = CheckpointState(
                **state,
                guards=self._guards.state(),
                best=self._best,
                base=base.name,
                base_digest=base.digest,
                run=self.run,
            )
            last_good = None if good and not whole.guards["warned"] else self._last_good()
            save_state(
                self._folder,
                whole,
                keep=self._config.keep,
                needed=[last_good.name] if last_good else [],
                export=self.export,
            )
        return self._folder / self._trainer.state.name

    def export(self, folder: Path) -> None:
        """Leave the averaged policy in a folder, as a checkpoint that anything can load."""
        base = self._setup.base
        with disk_errors(folder):
            self._setup.policy.save(folder, base=base.name, base_digest=base.digest)

    def note_value(self, done: int, value: float) -> None:
        """Keep a checkpoint that is better on held-out prompts than any before it."""
        if not self._best or value > self._best["value"]:
            self._best = {"name": f"{done:06d}", "value": value}
            self._is_best = done > 0

    def forget_best(self) -> None:
        """Values so far were weighed otherwise."""
        self._best = {}

    def restore(self) -> None:
        """Load the last valid checkpoint into trainer and guards; damaged ones are set aside with a word.

        Raises:
            ConfigError: there is none, or it is of another run, base or network.
        """
        state = self._newest_valid()
        self._trainer.load_state_dict(
            train_state=state.train_state,
            weights=state.weights,
            optimizer=state.optimizer,
            scaler=state.scaler,
        )
        self._guards.load_state(state.guards)
        self._best = state.best

    def _newest_valid(self) -> CheckpointState:
        found = checkpoints(self._folder)
        if not found:
            raise ConfigError(
                f"{self._run_folder} holds no checkpoint; start it again without --resume"
            )
        damaged: list[Path] = []
        for path in reversed(found):
            try:
                state = load_state(path)
                self._refuse_foreign(path, state)
            except ConfigError as error:
                self._say(f"warning: {error}")
                damaged.append(path)
                reason = str(error)
                continue
            self._set_aside(damaged)
            self._say(f"resuming from {path}, iteration {state.train_state.done}")
            return state
        raise ConfigError(f"no checkpoint of {self._run_folder} can be resumed from: {reason}")

    def _refuse_foreign(self, path: Path, state: CheckpointState) -> None:
        base = self._setup.base
        if state.run != self.run:
            raise ConfigError(f"not a checkpoint of this run: {path} belongs to run {state.run!r}")
        if state.base_digest != base.digest:
            raise ConfigError(
                f"{path} was trained from {state.base} with weights {state.base_digest}, not from "
                f"{base.name} with {base.digest}; resume with the checkpoint it began with"
            )

    def _set_aside(self, damaged: Sequence[Path]) -> None:
        for path in damaged if self._setup.processes.is_main else ():
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            self._say(f"it was set aside as {aside}; falling back to the one before")

    def last_good(self) -> str:
        """The newest one from before any guard's warning, in words."""
        found = self._last_good()
        return f"the last good checkpoint is {found}" if found else "no checkpoint was saved yet"

    def _last_good(self) -> Path | None:
        found = reversed(checkpoints(self._folder))
        return next((path for path in found if not warned(path)), None)

    def way_on(self) -> str:
        """The command that resumes the run."""
        if checkpoints(self._folder):
            files = files_again(self._setup.recipe)
            return f"resume with: nftbench train --resume {self._run_folder}{files}"
        return "no checkpoint was saved yet: run the same command again"


class WatchGuards:
    """Reports what the guards find in an iteration's metrics, and ends the run where one says so."""

    def __init__(self, guards: Guards, say: Say) -> None:
        self._guards, self._say = guards, say

    def __call__(self, iteration: Iteration) -> None:
        """Check the metrics; a new stage's are held against its own start, as other prompts look like drift."""
        if iteration.first_of_stage:
            self._guards.restart()
        self._report(iteration, self._guards.check(iteration.metrics))

    def check_held_out(
        self,
        iteration: Iteration,
        trained: Mapping[str, Estimate],
        watched: Mapping[str, Estimate],
    ) -> None:
        """Check the changes of held-out rewards, as `Guards.held_out` takes them."""
        self._report(iteration, self._guards.held_out(trained, watched))

    def _report(self, iteration: Iteration, findings: Iterable[Finding]) -> None:
        for finding in findings:
            words = STOP if finding.level == "stop" else "warn: "
            iteration.warnings.append(f"{words}{finding.text}")
            self._say(iteration.warnings[-1])
            if finding.level == "stop" and not iteration.stop:
                iteration.stop = f"stopped by guard {finding.text}"


class LogMetrics:
    """Writes the iteration's line."""

    def __init__(self, log: MetricsLog) -> None:
        self._log = log

    def __call__(self, iteration: Iteration) -> None:
        """Metrics, and the guards' words where there are any."""
        words = {"guards": iteration.warnings} if iteration.warnings else {}
        self._log.log(iteration.done, iteration.metrics | words)


class IterationLines:
    """Says how the run stands: one line an iteration, the same on a terminal, in a pipe and in a log."""

    def __init__(self, setup: Setup, say: Say) -> None:
        self._say = say
        self._keys = [r.key for r in (*setup.trained, *setup.watched)]
        self._iterations = sum(stage.iterations for stage in setup.recipe.stages)
        self._begun = self._last = time.monotonic()
        self._first: int | None = None
        """The first iteration said since the start or the resume: the time before it is not counted."""

    def __call__(self, iteration: Iteration) -> None:
        """Say it."""
        now, metrics = time.monotonic(), iteration.metrics
        words = [f"iteration {iteration.done}/{self._iterations}"]
        words += [*self._rewards(metrics), *_divergence(metrics), *_held_out(iteration.held_out)]
        if "reward/total" in metrics:
            words.append(f"{metrics['images']:g} images")
        words.append(f"{now - self._last:.0f} s")
        if self._first and not iteration.last:
            each = (now - self._begun) / (iteration.done - self._first)
            words.append(f"{duration((self._iterations - iteration.done) * each)} left")
        else:
            self._begun, self._first = now, iteration.done
        self._last = now
        self._say("  ".join(words))

    def _rewards(self, metrics: Mapping[str, float]) -> Iterator[str]:
        for name in ("total", *self._keys):
            value = metrics.get(f"reward/{name}", math.nan)
            if not math.isnan(value):  # of one that scored nothing, which is said
                yield f"{name} {value:.4g}"


def _divergence(metrics: Mapping[str, float]) -> Iterator[str]:
    tail = [
        f"p99 {metrics['kl_p99']:.2g}" if "kl_p99" in metrics else "",
        f"exploded {metrics['kl_exploded']:.1%}" if "kl_exploded" in metrics else "",
    ]
    inside = ", ".join(filter(None, tail))
    if "kl" in metrics:
        yield f"kl {metrics['kl']:.2g}" + (f" ({inside})" if inside else "")


def _held_out(found: Mapping[str, Estimate]) -> Iterator[str]:
    for name, one in found.items():
        if not (Metric.parse(name.partition("/")[2]).part or math.isnan(one.value)):
            yield f"held-out {name} {one.value:.4g} [{one.low:.4g}, {one.high:.4g}]"


def duration(seconds: float) -> str:
    """Seconds in words of two units at most."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
