"""A training run from recipe to table: set up, validate, iterate with callbacks, save, compare."""

from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from nftbench.generation.checkpoint import NOTHING, Allowed
from nftbench.stats.paired import Change
from nftbench.training import Interrupted, TrainingFailed
from nftbench.training.callbacks import (
    Callback,
    Checkpoints,
    Iteration,
    LogMetrics,
    Validate,
    WatchGuards,
)
from nftbench.training.checkpoints import save_recipe
from nftbench.training.config.recipe import Recipe
from nftbench.training.guards import Guards
from nftbench.training.metrics_log import METRICS, MetricsLog, curve
from nftbench.training.policy import NoEffect
from nftbench.training.processes import Processes
from nftbench.training.setup import check_loggers, described_work, set_up
from nftbench.training.trainer import Trainer
from rewards.base import Progress

Say = Callable[[str], None]


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
    accelerator = Accelerator(log_with=list(recipe.loggers) or None, project_dir=folder)
    if not accelerator.is_main_process:
        say = progress = _silent
    run = TrainingRun(recipe, folder, accelerator, progress, say, allowed)
    run.open(resume)
    return run.run()


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
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self._accelerator, self._progress, self._say = accelerator, progress, say
        self.processes = Processes(accelerator)
        self.setup = set_up(recipe, folder, self.processes, say, allowed)
        self.policy = self.setup.policy
        self.trainer = Trainer(
            recipe, self.policy, self.setup.layout, self.setup.stages, self.processes, say
        )
        self._log = MetricsLog(folder, accelerator)
        guards = Guards(recipe.guards)
        self._saved = Checkpoints(self.setup, self.trainer, guards)
        watch = WatchGuards(guards, self._saved, say)
        self._validation = Validate(
            self.setup, self.trainer, self._log, watch, self._saved, progress
        )
        self.callbacks: list[Callback] = [
            watch,
            self._validation,
            LogMetrics(self._log),
            self._saved,
        ]
        self._resumed = False

    def open(self, resume: bool) -> None:
        """Begin a new folder, or resume an old one."""
        self._resumed = resume
        if resume:
            path = self._saved.restore()
            self._log.rewind(self.trainer.state.done)
            self._say(f"resuming from {path}, iteration {self.trainer.state.done}")
        else:
            self._saved.refuse_an_old_run()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._log.rewind(-1)  # of a run that ended before its first checkpoint
        if self.processes.is_main:
            save_recipe(self.folder, self.recipe)
        self._accelerator.init_trackers(self.recipe.name)
        self._say(described_work(self.setup))

    def run(self) -> list[Change]:
        """Train to the end."""
        before = self._validation.whole("before", reuse=self._resumed)
        with self.processes.stopped_by_signals():
            try:
                self._iterate()
            except Interrupted:
                raise Interrupted(
                    f"asked to stop; saved {self._saved.save()}. Resume with: nftbench train --resume {self.folder}"
                ) from None
            except (TrainingFailed, NoEffect) as error:
                raise TrainingFailed(f"{error}; {self._saved.last_good()}") from error
        self._saved.save()
        self._export()
        after = self._validation.whole("after")
        self._accelerator.end_training()
        return self._validation.changes(before, after)

    def _iterate(self) -> None:
        trainer = self.trainer
        iterations = sum(stage.iterations for stage in self.recipe.stages)
        if not self._resumed:
            self._call(Iteration(done=0, metrics={"minutes": 0.0, "images": 0}))
        while not trainer.finished:
            first = trainer.state.iteration == 0
            metrics = trainer.iterate()
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

    def _export(self) -> None:
        """Leave the averaged policy as a checkpoint that anything can load."""
        if self.processes.is_main:
            base = self.setup.base
            self.policy.save(self.folder, base=base.name, base_digest=base.digest)
            if (self.folder / METRICS).is_file():
                curve(self.folder)
