"""The loop: the old policy draws, rewards score, theta moves, old follows.

One process or many, one image at once or a hundred: images and noise come from (seed, prompt, index), so an iteration
that was cut is drawn again as it was.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nftbench.generation.recorder.replay import Layout
from nftbench.generation.settings.effective import Effective
from nftbench.training import Interrupted, TrainingFailed
from nftbench.training.algorithms import load_algorithm
from nftbench.training.algorithms.nft import ADDED_SPREAD, old_decay
from nftbench.training.callbacks.checkpoints import TrainState, seed_everything
from nftbench.training.callbacks.metrics_log import Clock, Pace
from nftbench.training.config.recipe import Recipe
from nftbench.training.iteration.rollouts import Rollout
from nftbench.training.iteration.update import Update
from nftbench.training.policy.trained import TrainedPolicy
from nftbench.training.processes import TrainingProcesses
from nftbench.training.stages import StageData
from rewards.base import ConfigError

MOST_DAMPED = 0.1
"""Share of the advantages that may be lost to rewards that hardly differ, without a word."""


class Trainer:
    """One iteration after the other; `run.py` puts validation, checkpoints and guards around it."""

    def __init__(
        self,
        recipe: Recipe,
        policy: TrainedPolicy,
        layout: Layout,
        settings: Effective,
        stages: Sequence[StageData],
        processes: TrainingProcesses,
        say: Callable[[str], None],
    ) -> None:
        self._recipe, self._policy, self._stages = recipe, policy, stages
        self._processes, self._say, self._clock = processes, say, Clock(self._ended)
        self._pace, self._parts = Pace(say), Counter[str]()
        algorithm = load_algorithm(recipe.algorithm)(recipe)
        self.rollout = Rollout(recipe, policy, layout, settings, algorithm, processes, self._clock)
        for line in self.rollout.check(stages):
            say(line)
        self.update = Update(recipe, policy, algorithm, processes, self._clock)
        self.state = TrainState()
        self.batch_size = recipe.rollout.batch_size

    @property
    def data(self) -> StageData:
        """Of the stage that is being trained."""
        return self._stages[self.state.stage]

    @property
    def finished(self) -> bool:
        """Whether every stage has been done."""
        last_stage = self.state.stage + 1 == len(self._stages)
        return last_stage and self.state.iteration >= self.data.stage.iterations

    def state_dict(self) -> dict[str, Any]:
        """All that another trainer of the same recipe needs to continue: fields of `CheckpointState`."""
        weights = self._policy.weights.state()
        return {"train_state": self.state, "weights": weights} | self.update.state_dict()

    def load_state_dict(
        self, *, train_state: TrainState, weights: dict[str, Any], **optimizer: Any
    ) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ConfigError: weights of another network, or a last stage that is beyond the recipe's end.
        """
        asked, done = self._stages[-1].stage.iterations, train_state.iteration
        if train_state.stage + 1 == len(self._stages) and done > asked:  # an earlier one is over
            raise ConfigError(
                f"the last stage has done {done} iterations, and cannot end after {asked}; give {done} or more"
            )
        self._policy.weights.load_state(weights)
        self.update.load_state_dict(**optimizer)
        self.state = train_state
        self._enter_stage()  # the recipe may have been given another number of iterations since

    def iterate(self) -> dict[str, float]:
        """One iteration: rollout, advantages, update, old policy.

        Returns:
            Its metrics, the same on all processes.

        Raises:
            Interrupted: a stop was asked for; the train state says where the run stands.
            TrainingFailed: nothing could be scored, the loss is not finite, or an update had no effect.
            ConfigError: a mistake in the user's own reward; the iteration can be done again.
        """
        begun, state = time.monotonic(), self.state
        self._pace.begin()
        self._parts.clear()
        metrics = self._attempt_until_it_fits()
        metrics["lr"] = self.update.learning_rate  # before a new stage's optimiser has another
        self._old_follows()
        self._advance()
        state.images = int(metrics["images"])
        state.seconds += time.monotonic() - begun
        metrics["minutes"] = state.seconds / 60
        metrics |= {f"seconds/{k}": v for k, v in self._clock.take().items()}
        return self._processes.mean(metrics)

    def _ended(self, part: str) -> None:
        """A batch's part of the work was done."""
        self._parts[part] += 1
        self._pace(f"iteration {self.state.done + 1}: {part}, batch {self._parts[part]}")

    def _attempt_until_it_fits(self) -> dict[str, float]:
        while True:
            try:
                return self._attempt()
            except torch.OutOfMemoryError:
                self.update.discard_gradients()
                self.halve()
            except (Interrupted, TrainingFailed, ConfigError):
                self.update.discard_gradients()
                raise

    def _attempt(self) -> dict[str, float]:
        state, data = self.state, self.data
        seed_everything(state.seed(self._recipe.seed, "rollout"), self._processes.rank)
        self._set_learning_rate()
        drawn = self._processes.agreed(
            lambda: self.rollout.draw(data, state, self.batch_size),
            (ConfigError, torch.OutOfMemoryError),
        )
        groups, metrics = self.rollout.score(drawn, data, state)
        for failures in self.rollout.failures:
            self._say(f"warning: iteration {state.done + 1}: {failures}")
        if groups.damped > MOST_DAMPED and state.iteration == 0:
            self._say(
                f"warning: stage {state.stage + 1}: rewards differ by so little that the {ADDED_SPREAD} added to their "
                f"spread takes {groups.damped:.0%} of what is learnt from; give them larger weights, or the reward a "
                "smaller train_scale"
            )
        return metrics | self.update.run(drawn, groups, data.stage, state, self.batch_size)

    def _set_learning_rate(self) -> None:
        """It follows from the train state, and from a recipe that was changed on resume."""
        state, stage = self.state, self.data.stage
        last = sum(data.stage.iterations for data in self._stages) - 1
        own = stage.lr_at(_share(state.iteration, stage.iterations - 1))
        config = self._recipe.optimizer
        self.update.set_learning_rate(own or config.lr_at(_share(state.done, last)))

    def halve(self) -> None:
        """Less memory for the next attempt, which draws the same images again.

        Raises:
            TrainingFailed: it cannot be less.
        """
        if self.batch_size == 1 or self._processes.count > 1:
            raise TrainingFailed(
                f"out of memory with {self.batch_size} images at once; set rollout.batch_size lower, or "
                "policy.gradient_checkpointing=true"
            )
        self.batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._say(f"out of memory: continuing with {self.batch_size} images at once")

    def _old_follows(self) -> None:
        since = self.state.optimizer_steps - self.state.schedule_start
        self._policy.weights.blend("old", old_decay(self.data.stage.old_schedule, since))

    def _advance(self) -> None:
        """On to the next iteration, and to the next stage where this one is done."""
        state = self.state
        state.updates = 0
        state.iteration += 1
        state.done += 1
        self._enter_stage()

    def _enter_stage(self) -> None:
        state = self.state
        if state.iteration >= self.data.stage.iterations and state.stage + 1 < len(self._stages):
            state.stage, state.iteration = state.stage + 1, 0
            self._begin_stage()

    def _begin_stage(self) -> None:
        reset = self.data.stage.reset
        if "theta" in reset:
            self._policy.weights.take("ema")
        if "old" in reset:
            self._policy.weights.copy("old")
            self.state.schedule_start = self.state.optimizer_steps
        if "ema" in reset:
            self._policy.weights.copy("ema")
        if "optimizer" in reset:
            self.update.reset_optimizer()


def _share(done: int, last: int) -> float:
    """Of the way to the last iteration, in [0, 1]."""
    return min(done / last, 1.0) if last else 0.0
