"""A training run from recipe to table: set up, validate, iterate with callbacks, save, compare."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator

from nftbench.generation.checkpoint import NOTHING, Allowed
from nftbench.runs.io import sweep
from nftbench.runs.launched import OthersEnded
from nftbench.runs.lock import hold
from nftbench.runs.processes import started
from nftbench.stats.paired import Change
from nftbench.training import Diverged, Interrupted, RewardFailed, TrainingFailed
from nftbench.training.callbacks.base import (
    Callback,
    Checkpoints,
    Iteration,
    IterationLines,
    LogMetrics,
    WatchGuards,
)
from nftbench.training.callbacks.guards import Guards
from nftbench.training.callbacks.held_out import Validate
from nftbench.training.callbacks.metrics_log import METRICS, MetricsLog, curve
from nftbench.training.config.names import refuse_within
from nftbench.training.config.overrides import flat
from nftbench.training.config.recipe import Recipe
from nftbench.training.config.record import (
    RunRecord,
    begun,
    made_otherwise,
    save_recipe,
    settings_changed,
    stored_recipe,
    stored_record,
)
from nftbench.training.iteration.trainer import Trainer
from nftbench.training.policy.trained import NoEffect
from nftbench.training.processes import TrainingProcesses
from nftbench.training.seeds import refuse_other_siblings
from nftbench.training.setup import (
    check_loggers,
    described_work,
    refuse_other_run,
    refuse_used_folder,
    set_up,
)
from rewards.base import ConfigError, Progress

Say = Callable[[str], None]
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What a disk may do to a write at any time."""
WEIGHED_BY = (".rewards", "evaluation.benchmarks")
"""Ends of the settings that say what the best checkpoint is the best of."""


class Stopped(Diverged):
    """A guard ended the run; all is said already."""


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool,
    progress: Progress,
    say: Say,
    allowed: Allowed = NOTHING,
) -> list[Change]:
    """Train, from the start or from a run's last checkpoint.

    Args:
        recipe: what to do.
        folder: the run's; new, unless `resume`.
        resume: whether to resume from the folder's last checkpoint.
        progress: told how far the run is.
        say: told in words what happens.
        allowed: what of a checkpoint is refused unless the user says otherwise.

    Returns:
        Held-out metrics before and after.

    Raises:
        ConfigError: anything that cannot be trained; nothing was written then.
        Interrupted: asked to stop; the state is saved.
        TrainingFailed: with the last good checkpoint named.
    """
    check_loggers(recipe)
    if not resume:
        refuse_within(folder, recipe.checkpoint)
    accelerator = started(recipe.loggers, folder)
    processes = TrainingProcesses(accelerator)
    if not processes.is_main:
        say = progress = _silent
    with ExitStack() as held:
        processes.refuse_unlike(flat(recipe.model_dump(mode="json")))
        processes.from_main(lambda: held.enter_context(_held(folder)))
        held.enter_context(processes.stopped_by_signals())
        try:
            run = TrainingRun(recipe, folder, accelerator, progress, say, allowed, processes)
        except (torch.OutOfMemoryError, MemoryError):
            raise ConfigError(
                "out of memory while loading; take fewer rewards, a smaller policy.dtype, or a larger machine"
            ) from None
        run.open(resume)
        return run.run()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The run's folder for this training alone."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; a training needs a folder")
    with hold(folder):
        sweep(folder)
        yield


def _silent(*_: object) -> None:
    """Other processes say nothing."""


class TrainingRun:
    """A trainer in its folder, with what is done around its iterations."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        accelerator: Accelerator,
        progress: Progress,
        say: Say,
        allowed: Allowed = NOTHING,
        processes: TrainingProcesses | None = None,
    ) -> None:
        self.folder = folder
        self._accelerator, self._progress, self._say = accelerator, progress, say
        self.processes = processes or TrainingProcesses(accelerator)
        self.setup = set_up(recipe, folder, self.processes, say, allowed)
        self.recipe = recipe = self.setup.recipe
        self.policy = self.setup.policy
        self.trainer = Trainer(
            recipe,
            self.policy,
            self.setup.layout,
            self.setup.settings,
            self.setup.stages,
            self.processes,
            say,
        )
        self._log = MetricsLog(folder, accelerator, say)
        guards = Guards(recipe.guards)
        self._saved = Checkpoints(self.setup, self.trainer, guards, say)
        watch = WatchGuards(guards, say)
        self._validation = Validate(
            self.setup, self.trainer, self._log, watch, self._saved, progress, say
        )
        self.callbacks: list[Callback] = [
            watch,
            self._validation,
            LogMetrics(self._log),
            IterationLines(self.setup, say),
            self._saved,
        ]
        self._finished = False

    def open(self, resume: bool) -> None:
        """Begin a new folder, or resume an old one.

        Raises:
            ConfigError: the folder holds something else, or the run cannot be resumed so.
        """
        refuse_other_siblings(self.folder, self.recipe.seed, self.setup.digests())
        self.processes.refuse_unlike(self.setup.digests())
        record = self._reopened() if resume else self._begun()
        if self.processes.is_main:
            save_recipe(self.folder, self.recipe, record)
        begins = self.trainer.state.done + 1 if resume else 0
        purge = {"tensorboard": {"purge_step": begins}}  # or a resumed run would have points twice
        self._accelerator.init_trackers(self.recipe.name, init_kwargs=purge)
        self._say(described_work(self.setup))
        watching = f"; watch it with: tensorboard --logdir {self.folder}"
        self._say(f"run: {self.folder}{watching * ('tensorboard' in self.recipe.loggers)}")

    def _begun(self) -> RunRecord:
        record = begun(self.recipe, self.setup.digests(), self.setup.made_with())
        self._saved.run = record.id
        refuse_used_folder(self.folder, self.recipe.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log.rewind(-1)  # of a run that ended before its first checkpoint
        return record

    def _reopened(self) -> RunRecord:
        record, before = stored_record(self.folder), stored_recipe(self.folder)
        changes = settings_changed(before, self.recipe)
        refuse_other_run(self.setup, record, changes)
        self._saved.run = record.id
        self._saved.restore()
        self._validation.reopen()
        done, made_with = self.trainer.state.done, self.setup.made_with()
        self._note(changes | made_otherwise(record.made_with, made_with), record)
        record.made_with = made_with
        record.digests |= self.setup.digests()
        self._log.rewind(done)
        self._finished = self.trainer.finished
        if self._finished:
            self._say(
                f"{self.folder} is finished ({done} iterations); to train it further, resume it with more: "
                "--iterations N"
            )
        return record

    def _note(self, changes: dict[str, list[Any]], record: RunRecord) -> None:
        """What was changed on resume is said, and stands in the run's history."""
        done, passed = self.trainer.state.done, self.trainer.state.stage
        if any(name.endswith(WEIGHED_BY) for name in changes):
            self._saved.forget_best()
        if changes:
            record.history.append({"iteration": done, "changes": changes})
        for name, (old, new) in changes.items():
            self._say(f"changed from iteration {done + 1} on: {name} {old} -> {new}")
        if passed and any(name.startswith("stages.") for name in changes):
            numbers = ", ".join(str(n + 1) for n in range(passed))
            self._say(f"done already, so its settings stay: stage {numbers}")

    def run(self) -> list[Change]:
        """Train to the end.

        Raises:
            Interrupted: stopped by the user; says the command that resumes the run.
            TrainingFailed: it cannot go on, with the reason and the last good checkpoint.
        """
        try:
            return self._run()
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {self._saved.way_on()}") from None
        except OthersEnded as error:
            raise Interrupted(f"{error}; {self._saved.way_on()}") from None
        except (torch.OutOfMemoryError, MemoryError):
            raise TrainingFailed(
                f"out of memory; set rollout.batch_size lower, then {self._saved.way_on()}"
            ) from None
        except OSError as error:
            if error.errno not in DISK:
                raise
            raise TrainingFailed(
                f"cannot write {error.filename or self.folder}: {os.strerror(error.errno)}; make room, then "
                f"{self._saved.way_on()}"
            ) from None

    def _run(self) -> list[Change]:
        with self.processes.stopping_gently():
            before = self._train()
        if not self._finished:
            self._saved.save()
        if self.processes.is_main:
            self._saved.export(self.folder)
            if (self.folder / METRICS).is_file():
                curve(self.folder)
        try:
            after = self._validation.after()
        except RewardFailed as error:
            raise RewardFailed(
                f"{error}; the trained policy is in {self.folder}; once the reward is back, {self._saved.way_on()}"
            ) from None
        self._accelerator.end_training()
        return self._validation.changes(before, after)

    def _train(self) -> pd.DataFrame:
        """All iterations; what was measured of the untouched base."""
        try:
            before = self._validation.before()
            self._iterate()
            return before
        except Interrupted:
            raise Interrupted(
                f"asked to stop; saved {self._saved.save()}; {self._saved.way_on()}"
            ) from None
        except Stopped:
            raise
        except OthersEnded:
            self._saved.write()
            raise
        except RewardFailed as error:
            raise RewardFailed(
                f"{error}; the state is in {self._saved.save()}; once the reward is back, {self._saved.way_on()}"
            ) from None
        except ConfigError as error:  # such as a mistake in the user's own reward
            raise ConfigError(
                f"{error}; the state is in {self._saved.save()}; once that is mended, {self._saved.way_on()}"
            ) from None
        except (TrainingFailed, NoEffect) as error:
            kind = Diverged if isinstance(error, Diverged) else TrainingFailed
            raise kind(f"{error}; {self._saved.last_good()}") from error

    def _iterate(self) -> None:
        trainer = self.trainer
        iterations = sum(stage.iterations for stage in self.recipe.stages)
        if not self._log.begun() and not trainer.state.done:
            self._call(Iteration(done=0, metrics={"minutes": 0.0, "images": 0}))
        while not trainer.finished:
            first = trainer.state.iteration == 0
            metrics = trainer.iterate()
            self.setup.refuse_written_over()
            done = trainer.state.done
            self._call(
                Iteration(done=done, metrics=metrics, first_of_stage=first, last=trainer.finished)
            )
            self._progress("iterations", done, iterations)
            if self.processes.stop_asked():
                raise Interrupted

    def _call(self, iteration: Iteration) -> None:
        for callback in self.callbacks:
            callback(iteration)
        if iteration.stop:
            good = self._saved.last_good()
            path = self._saved.save(good=False)
            raise Stopped(f"{iteration.stop}; the state is in {path}; {good}")
        if iteration.unscored:
            raise RewardFailed(iteration.unscored)
