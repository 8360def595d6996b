"""The update of an iteration: theta moves by the images of a rollout.

Each image weighs the same however the batches fall, and gradients are summed once an optimiser step, over all batches
and processes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nftbench.benchmark.samples import Sample, image_seed
from nftbench.generation.recorder.replay import Record
from nftbench.training import Diverged
from nftbench.training.algorithms.advantages import GroupAdvantages
from nftbench.training.algorithms.base import (
    Algorithm,
    RolloutBatch,
    Terms,
    TrainingBatch,
    Velocity,
    WeightSet,
)
from nftbench.training.algorithms.nft import ema_decay
from nftbench.training.callbacks.checkpoints import TrainState, seed_everything
from nftbench.training.callbacks.metrics_log import Clock
from nftbench.training.config.recipe import Recipe, Stage
from nftbench.training.policy.precision import attention_of, mixed
from nftbench.training.policy.trained import TrainedPolicy
from nftbench.training.policy.weights import Using
from nftbench.training.processes import TrainingProcesses


def training_noise(
    sample: Sample, seed: int, shape: Sequence[int], *, count: int, trainable_times: int
) -> tuple[Tensor, Tensor]:
    """At which times an image is trained, and the noise it gets there.

    Args:
        sample: the image.
        seed: of the iteration.
        shape: of its latents.
        count: how many times, at most `trainable_times`.
        trainable_times: among how many.

    Returns:
        int64 (count,) distinct time indices, and float32 (count, *shape).
    """
    generator = torch.Generator("cpu").manual_seed(image_seed(seed, sample.prompt.id, sample.index))
    time_indices = torch.randperm(trainable_times, generator=generator)[:count]
    return time_indices, torch.randn(count, *shape, generator=generator)


class Update:
    """Owns the optimiser; moves theta and, behind it, the evaluation average."""

    def __init__(
        self,
        recipe: Recipe,
        policy: TrainedPolicy,
        algorithm: Algorithm,
        processes: TrainingProcesses,
        clock: Clock,
    ) -> None:
        self._recipe, self._policy, self._algorithm = recipe, policy, algorithm
        self._processes, self._clock = processes, clock
        fp16 = recipe.policy.precision == "fp16"
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=fp16)
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Begin with an optimiser that remembers nothing."""
        parameters = self._policy.weights.parameters.values()
        self._optimizer = torch.optim.AdamW(
            parameters, lr=self._recipe.optimizer.lr, **self._settings()
        )

    def _settings(self) -> dict[str, Any]:
        """Of AdamW, but for the learning rate."""
        config = self._recipe.optimizer
        return {"betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}

    def set_learning_rate(self, lr: float) -> None:
        """Of the coming steps."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    @property
    def learning_rate(self) -> float:
        """Of the last optimiser step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def discard_gradients(self) -> None:
        """Forget what an update that was broken off has summed up."""
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Of `optimizer` and `scaler`."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, optimizer: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._optimizer.load_state_dict(optimizer)
        for group in self._optimizer.param_groups:  # the recipe may have been changed since
            group.update(self._settings())
        self._scaler.load_state_dict(scaler)

    def run(
        self,
        rollout: Sequence[RolloutBatch],
        groups: GroupAdvantages,
        stage: Stage,
        state: TrainState,
        batch_size: int,
    ) -> dict[str, float]:
        """The iteration's optimiser steps, each on its own part of the images.

        Args:
            rollout: this process's batches, scored.
            groups: of all processes' images.
            stage: with the number of steps.
            state: says which steps were done before a cut, and is moved on.
            batch_size: images at once.

        Returns:
            Metrics of the last step, means over its images and times.

        Raises:
            Interrupted: a stop was asked for.
            Diverged: the loss is not finite.
            NoEffect: theta cannot be moved, or the network does not see it.
        """
        chosen = groups.spread if stage.zero_spread == "skip" else groups.usable
        shuffle = np.random.default_rng(state.seed(self._recipe.seed, "updates"))
        order = shuffle.permutation(len(chosen))
        part_of = np.empty(len(chosen), dtype=int)
        part_of[order] = np.arange(len(chosen)) * stage.updates // len(chosen)
        metrics: dict[str, float] = {}
        for part in range(state.updates, stage.updates):
            seed = state.seed(self._recipe.seed, "update")
            seed_everything(seed, self._processes.rank, part)
            in_part = chosen & (part_of == part)
            if in_part.any():
                metrics = self._optimizer_step(rollout, in_part, stage, state, batch_size)
            state.updates = part + 1
        return metrics

    def _optimizer_step(
        self,
        rollout: Sequence[RolloutBatch],
        chosen: np.ndarray,
        stage: Stage,
        state: TrainState,
        batch_size: int,
    ) -> dict[str, float]:
        """One step of the optimiser on the chosen images of all processes."""
        trainable_times = self._algorithm.trainable_times(rollout[0], stage)
        count = stage.timestep_count(trainable_times)
        total = int(chosen.sum()) * count
        sums: dict[str, Tensor | float] = {}
        kls: list[Tensor] = []
        seed = state.seed(self._recipe.seed, "training")
        on_policy = self._policy.weights.distance("theta", "old") == 0
        batches = _training_batches(rollout, chosen, seed, count, trainable_times, batch_size)
        with self._policy.updating("old", "ref") as using:
            for batch in batches:
                self._processes.stop_here_if_asked()
                velocity = self._velocity(batch, using, on_policy=on_policy)
                with self._clock.part("update"):
                    terms = self._backward(batch, velocity, stage, total)
                _add(terms, sums)
                kls += [terms["kl"].float().cpu()] if "kl" in terms else []
        means = self._means(sums, total) | self._tail(kls)
        if not math.isfinite(means.get("loss", 0.0)):
            raise Diverged(f"the loss of iteration {state.done} is {means['loss']}")
        self._policy.check_seen(means.get("old_deviation"))
        means["grad_norm"] = self._step(state)
        return means

    def _backward(
        self, batch: TrainingBatch, velocity: Velocity, stage: Stage, total: int
    ) -> Terms:
        """Add a batch's gradients, as its part of the mean over `total` pairs of image and time."""
        terms = self._algorithm.terms(batch, velocity, stage)
        loss = terms.pop("loss").sum() / total
        with attention_of(self._processes.device):  # checkpointed passes are computed again
            self._scaler.scale(loss).backward()
        return {"loss": loss.detach() * total} | terms

    def _velocity(self, batch: TrainingBatch, using: Using, *, on_policy: bool) -> Velocity:
        """The network on a batch. While theta is the old policy still, what it said serves for both."""
        record, guided, said = batch.rollout.record, batch.rollout.guided, {}

        def velocity(weights: WeightSet, x_t: Tensor, record_indices: Tensor) -> Tensor:
            if weights == "old" and on_policy and not guided and said.get("x_t") is x_t:
                return said["v"].detach()
            device = x_t.device
            placed = nullcontext() if weights == "theta" else using(weights)
            precision = mixed(device, self._recipe.policy.precision)
            images, times = batch.images.to(device), record_indices.to(device)

            def network(of: Record) -> Tensor:
                return of.velocity(self._policy.denoiser, x_t, images, times).float()

            with self._clock.part(weights), precision, placed:
                v = (
                    guided.velocity(network, record)
                    if guided and weights == "old"
                    else network(record)
                )
            if weights == "theta":
                said.update(x_t=x_t, v=v)
            return v

        return velocity

    def _means(self, sums: dict[str, Any], total: int) -> dict[str, float]:
        """Means over the pairs of all processes, whose gradients are summed on the way."""
        self._processes.sum_gradients(self._policy.weights.parameters.values())
        numbers = self._processes.sum({k: float(v) for k, v in sums.items()})
        return {k: v / total for k, v in numbers.items()}

    def _tail(self, kls: list[Tensor]) -> dict[str, float]:
        """99th percentile, over the pairs of all processes, of the KL to the reference policy."""
        everything = self._processes.gather(kls)
        return {"kl_p99": float(torch.cat(everything).quantile(0.99))} if everything else {}

    def _step(self, state: TrainState) -> float:
        """Move theta by the summed gradients; their norm."""
        weights = self._policy.weights
        parameters, config = list(weights.parameters.values()), self._recipe.optimizer
        self._scaler.unscale_(self._optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
        before = self._policy.fingerprint() if state.optimizer_steps == 0 else None
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        if before is not None and math.isfinite(norm) and norm > 0:
            self._policy.check_moved(before)
        state.optimizer_steps += 1
        weights.blend("ema", ema_decay(state.optimizer_steps, maximum=config.ema))
        return norm


def _add(terms: Terms, sums: dict[str, Tensor | float]) -> None:
    for name, value in terms.items():
        sums[name] = sums.get(name, 0.0) + value.sum().double()


def _training_batches(
    rollout: Sequence[RolloutBatch],
    chosen: np.ndarray,
    seed: int,
    count: int,
    trainable_times: int,
    batch_size: int,
) -> Iterator[TrainingBatch]:
    """The chosen images of this process, each at its own times, in batches that never cross a rollout batch."""
    for one in rollout:
        x_0, pairs = one.record.x_0, []
        for i, sample in enumerate(one.samples):
            if chosen[one.rows[i]]:
                time_indices, eps = training_noise(
                    sample, seed, x_0.shape[1:], count=count, trainable_times=trainable_times
                )
                pairs += [(i, t, e) for t, e in zip(time_indices.tolist(), eps, strict=True)]
        for start in range(0, len(pairs), batch_size):
            images, times, noise = zip(*pairs[start : start + batch_size], strict=True)
            yield TrainingBatch(
                rollout=one,
                images=torch.tensor(images),
                time_indices=torch.tensor(times),
                eps=torch.stack(noise).to(x_0.device),
            )
