"""A training run from recipe to table: what is loaded, when it is looked at, saved, guarded and stopped."""

import importlib.util
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator

from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.checkpoint import load_model
from nftbench.generation.replay import distilled, learn
from nftbench.generation.sampling import Sample, generate
from nftbench.runs.io import write_table
from nftbench.stats.paired import Change, changes
from nftbench.training import Interrupted, TrainingFailed
from nftbench.training.checkpoints import (
    CheckpointState,
    checkpoints,
    load_state,
    save_recipe,
    save_state,
    stored_recipe,
)
from nftbench.training.config.recipe import Recipe
from nftbench.training.guards import Guards
from nftbench.training.metrics_log import MetricsLog, curve, write_by_task
from nftbench.training.policy import NoEffect, TrainedPolicy
from nftbench.training.stages import RewardSet, Task, task_of
from nftbench.training.trainer import Trainer
from nftbench.training.validation import COLUMNS, by_task, estimates, held_out, total, validate
from rewards.base import ConfigError, MissingExtra, Prompt

Report = Callable[[str, int, int], None]
Say = Callable[[str], None]


def train(recipe: Recipe, folder: Path, *, resume: bool, report: Report, say: Say) -> list[Change]:
    """Train, from the start or from a run's last checkpoint.

    Args:
        recipe: what to do.
        folder: the run's; new, unless `resume`.
        resume: whether to go on from the folder's last checkpoint.
        report: told (stage, done, total).
        say: told in words what happens.

    Returns:
        Held-out metrics before and after.

    Raises:
        ConfigError: anything that cannot be trained; nothing was written then.
        Interrupted: asked to stop; the state is saved.
        TrainingFailed: with the last good checkpoint named.
    """
    missing = [n for n in recipe.loggers if importlib.util.find_spec(n) is None]
    if missing:
        raise MissingExtra(
            f"logger {missing[0]!r} is not installed: pip install 'nftbench[{missing[0]}]', or --set loggers=[]"
        )
    accelerator = Accelerator(log_with=list(recipe.loggers) or None, project_dir=folder)
    say = say if accelerator.is_main_process else _silent
    report = report if accelerator.is_main_process else _silent
    run = TrainingRun(recipe, folder, accelerator, report, say)
    run.open(resume)
    return run.go()


def _silent(*_: object) -> None:
    """Other processes say nothing."""


class TrainingRun:
    """A trainer with its folder."""

    def __init__(
        self, recipe: Recipe, folder: Path, accelerator: Accelerator, report: Report, say: Say
    ) -> None:
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.report, self.say = report, say
        device = str(accelerator.device)
        judges = RewardSet(recipe, device)
        tasks = [task_of(stage, judges) for stage in recipe.stages]
        _check_groups(recipe, accelerator.num_processes)
        for number, task in enumerate(tasks, start=1):
            say(_asked_of(number, task))
        self.base = load_model(recipe.checkpoint, dtype=recipe.policy.dtype, device=device)
        warning = distilled(self.base.pipeline, min(s.num_inference_steps for s in recipe.stages))
        if warning:
            say(f"warning: {warning}")
        self.policy = TrainedPolicy(self.base.pipeline, recipe.policy, seed=recipe.seed)
        layout = learn(self.base.pipeline, self._probe)
        self.trainer = Trainer(recipe, self.policy, layout, tasks, accelerator, say)
        self.journal = MetricsLog(folder, accelerator)
        self.guards = Guards(recipe.guards)
        self.trained = {j.spec.key: j for task in tasks for j in task.judges}
        watched = judges.listed(recipe.evaluation.held_out_rewards)
        self.watched = [j for j in watched if j.spec.key not in self.trained]
        everyone = [*self.trained.values(), *self.watched]
        self.asked_whole = held_out(recipe, everyone, whole=True)
        self.asked = held_out(recipe, everyone, whole=False)
        self.best: dict[str, Any] = {}
        self.resumed = False

    def _probe(self, texts: list[str]) -> None:
        """Two short drawings that show how the pipeline calls its network."""
        rollout = self.recipe.rollout
        parameters = SamplingParameters(
            num_inference_steps=3, **rollout.model_dump(exclude={"batch_size"})
        )
        batch = [Sample(Prompt(id=str(i), text=text), 0) for i, text in enumerate(texts)]
        generate(self.base.pipeline, batch, parameters)

    # --- beginning ------------------------------------------------------------------------------------------------

    def open(self, resume: bool) -> None:
        """Begin a new folder, or go on in an old one."""
        self.resumed = resume
        if resume:
            self._restore()
        else:
            if checkpoints(self.folder / "checkpoints"):
                raise ConfigError(
                    f"{self.folder} holds a training run; go on with --resume {self.folder}, or choose another --out"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            self.journal.rewind(-1)  # of a run that ended before its first checkpoint
            if self.accelerator.is_main_process:
                save_recipe(self.folder, self.recipe)
        self.accelerator.init_trackers(self.recipe.name)
        stage = self.recipe.stages[0]
        self.say(
            f"{self.recipe.algorithm}: {stage.groups} groups of {stage.group_size} images an iteration over "
            f"{self.accelerator.num_processes} process(es), {stage.updates} optimiser step(s) of "
            f"{stage.groups * stage.group_size / stage.updates:g} images each, "
            f"{self.recipe.rollout.batch_size} at once; {self._parameters():,} trained parameters"
        )

    def _parameters(self) -> int:
        return sum(p.numel() for p in self.policy.weights.parameters.values())

    def _restore(self) -> None:
        found = checkpoints(self.folder / "checkpoints")
        if not found:
            raise ConfigError(f"{self.folder} holds no checkpoint; start it again without --resume")
        state, trainer = load_state(found[-1]), self.trainer
        if state.base_digest != self.base.digest:
            raise ConfigError(
                f"{self.folder} was trained from {state.base} with weights {state.base_digest}, not from "
                f"{self.base.name} with {self.base.digest}; resume with the checkpoint it began with"
            )
        self.policy.weights.load_state(state.weights)
        trainer.optimizer.load_state_dict(state.optimizer)
        trainer.scaler.load_state_dict(state.scaler)
        trainer.position, self.best = state.position, state.best
        self.guards.load_state(state.guards)
        self.journal.rewind(state.position.done)
        if self.accelerator.is_main_process:
            save_recipe(self.folder, self.recipe)
        self.say(f"going on from {found[-1]}, iteration {state.position.done}")

    # --- the run --------------------------------------------------------------------------------------------------

    def go(self) -> list[Change]:
        """Train to the end."""
        before = self._whole_look("before")
        with self._stoppable():
            try:
                self._iterations()
            except Interrupted:
                raise Interrupted(
                    f"asked to stop; saved {self._save()}. Go on with: nftbench train --resume {self.folder}"
                ) from None
            except (TrainingFailed, NoEffect) as error:
                raise TrainingFailed(f"{error}; {self._last_good()}") from error
        self._save()
        self._export()
        after = self._whole_look("after")
        self.accelerator.end_training()
        return changes(before, after, by_task(before, self.asked_whole)) if self.asked_whole else []

    def _iterations(self) -> None:
        trainer = self.trainer
        whole = sum(s.iterations for s in self.recipe.stages)
        if not self.resumed:
            self.journal.log(0, {"minutes": 0.0, "images": 0} | self._look()[0])
        while not trainer.finished:
            stage = trainer.position.stage
            self._iteration()
            if trainer.position.stage != stage:
                self.guards.restart()  # other prompts look like drift
            self.report("iterations", trainer.position.done, whole)
            if trainer.stop_wanted():
                raise Interrupted

    def _iteration(self) -> None:
        trainer = self.trainer
        metrics = trainer.iterate()
        done = trainer.position.done
        words = self._heed(self.guards.check(metrics))
        if done % self.recipe.evaluation.every == 0 or trainer.finished:
            looked, more = self._look()
            metrics, words = metrics | looked, words + more
        self.journal.log(done, metrics | ({"guards": words} if words else {}))
        if done % self.recipe.checkpoints.every == 0:
            self._save()

    def _heed(self, findings: Iterable[Any]) -> list[str]:
        """Say what the guards found; stop where one says so."""
        words = []
        for finding in findings:
            words.append(f"{finding.level}: {finding.text}")
            self.say(words[-1])
            if finding.level == "stop":
                path = self._save()
                raise TrainingFailed(f"stopped by guard {finding.text}; the state is in {path}")
        return words

    # --- looks ----------------------------------------------------------------------------------------------------

    def _look(self) -> tuple[dict[str, float], list[str]]:
        """Held-out metrics of the averaged policy, and what the guards say of them."""
        if not self.asked:
            return {}, []
        table, images = self._draw(self.asked)
        self.journal.grid(self.trainer.position.done, images)
        found = {
            f"held_out/{b}/{metric}": e.value
            for (b, metric), e in estimates(table, self.asked).items()
        }
        self._note_best(total(table, self.asked, self._scales()))
        return found, self._heed(self._fallen(table))

    def _fallen(self, table: pd.DataFrame) -> list[Any]:
        """What the guards say of rewards that are watched and not trained, against the first look."""
        path = self.folder / "held_out" / "first.parquet"
        if self.trainer.position.done == 0 or not path.is_file():
            if self.accelerator.is_main_process:
                write_table(path, table)
            return []
        gains = changes(pd.read_parquet(path), table, by_task(table, self.asked))
        watched = {j.spec.key for j in self.watched}
        trained = [c.difference for c in gains if c.metric in self.trained]
        fallen = {f"{c.benchmark}/{c.metric}": c.difference for c in gains if c.metric in watched}
        return self.guards.held_out(trained[0], fallen) if trained and fallen else []

    def _scales(self) -> dict[str, float]:
        return {
            key: judge.spec.weight / judge.reward.info.train_scale
            for key, judge in self.trained.items()
        }

    def _note_best(self, value: float) -> None:
        done = self.trainer.position.done
        if not self.best or value > self.best["value"]:
            self.best = {"name": f"{done:06d}", "value": value}
            if done:
                self._save()

    def _draw(self, asked: Sequence[Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
        share = (self.accelerator.process_index, self.accelerator.num_processes)
        with self.policy.drawing("ema"):
            return validate(
                self.base.pipeline,
                asked,
                batch_size=self.trainer.batch_size,
                share=share,
                report=self.report,
            )

    def _whole_look(self, name: str) -> pd.DataFrame:
        path = self.folder / "held_out" / f"{name}.parquet"
        if not self.asked_whole:
            return pd.DataFrame(columns=list(COLUMNS))
        if name == "before" and self.resumed and path.is_file():
            return pd.read_parquet(path)
        table, _ = self._draw(self.asked_whole)
        if self.accelerator.is_main_process:
            write_table(path, table)
            write_by_task(self.folder, by_task(table, self.asked_whole))
        return table

    # --- saving ---------------------------------------------------------------------------------------------------

    def _save(self) -> Path:
        trainer, folder = self.trainer, self.folder / "checkpoints"
        state = CheckpointState(
            position=trainer.position,
            weights=self.policy.weights.state(),
            optimizer=trainer.optimizer.state_dict(),
            scaler=trainer.scaler.state_dict(),
            guards=self.guards.state(),
            best=self.best,
            base=self.base.name,
            base_digest=self.base.digest,
        )
        if self.accelerator.is_main_process:
            save_state(folder, state, keep=self.recipe.checkpoints.keep)
        return folder / f"{trainer.position.done:06d}"

    def _last_good(self) -> str:
        found = checkpoints(self.folder / "checkpoints")
        return (
            f"the last good checkpoint is {found[-1]}" if found else "no checkpoint was saved yet"
        )

    def _export(self) -> None:
        """Leave the averaged policy as a checkpoint that anything can load."""
        if self.accelerator.is_main_process:
            self.policy.save(self.folder, base=self.base.name, base_digest=self.base.digest)
            if (self.folder / "metrics.jsonl").is_file():
                curve(self.folder)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """SIGTERM and the first Ctrl-C ask for a stop; a second Ctrl-C is Python's own."""

        def ask(number: int, _: Any) -> None:
            self.trainer.stop_asked = True
            signal.signal(signal.SIGINT, old[signal.SIGINT])

        old = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def _check_groups(recipe: Recipe, processes: int) -> None:
    fewest = min(stage.groups for stage in recipe.stages)
    if fewest < processes:
        raise ConfigError(
            f"{fewest} groups an iteration cannot be shared by {processes} processes; "
            f"--set stages.groups={processes} or more, or start fewer processes"
        )


def _asked_of(number: int, task: Task) -> str:
    """A stage in words."""
    left = f"; {task.left_out} others are not judged by all of them" if task.left_out else ""
    keys = ", ".join(j.spec.key for j in task.judges)
    return f"stage {number}: {len(task.prompts)} prompts, judged by {keys}{left}"


def resumed_recipe(folder: Path, asked: Recipe | None, settings: Sequence[str]) -> Recipe:
    """The recipe that a run goes on with: its own, but for what the command line names.

    Args:
        folder: the run's.
        asked: a recipe that the user named as well, settings applied; None where none was.
        settings: the user's `section.key=value`.

    Raises:
        ConfigError: the named recipe differs from the run's own in more than the settings.
    """
    own = stored_recipe(folder)
    changed = own.changed(settings)
    if asked is None:
        return changed
    other = asked.difference(changed)
    if other:
        raise ConfigError(
            f"{folder} was begun with another recipe ({', '.join(other[:5])} differ); leave out --recipe, or name "
            "each change with --set"
        )
    return changed
