"""The loop: the old policy draws, judges score, theta moves, old follows.

One process or many, one image at once or a hundred: images and noise come from (seed, prompt, index), each image
weighs the same in an update however the batches fall, and gradients are summed once an optimiser step.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.replay import Layout, record, watch
from nftbench.generation.sampling import Sample, generate, texts_remembered
from nftbench.training import Interrupted, TrainingFailed
from nftbench.training.algorithms import losses as objective
from nftbench.training.algorithms.advantages import GroupAdvantages, combine_advantages
from nftbench.training.algorithms.nft import ema_decay, old_decay
from nftbench.training.checkpoints import TrainState, seed_everything
from nftbench.training.config.recipe import Recipe
from nftbench.training.guards import picture_statistics
from nftbench.training.metrics_log import Clock
from nftbench.training.policy import TrainedPolicy
from nftbench.training.precision import mixed
from nftbench.training.rollouts import (
    RolloutBatch,
    batches,
    grouped,
    noisy,
    prompts_of,
    reward_values,
    score_all,
    seed_of,
    training_noise,
    why,
)
from nftbench.training.stages import Task
from rewards.base import Prompt


class Trainer:
    """One iteration after the other; `run.py` puts looks, checkpoints and words around it."""

    def __init__(
        self,
        recipe: Recipe,
        policy: TrainedPolicy,
        layout: Layout,
        tasks: Sequence[Task],
        accelerator: Accelerator,
        say: Callable[[str], None],
    ) -> None:
        self.recipe, self.policy, self.layout, self.tasks = recipe, policy, layout, tasks
        self.accelerator, self.say = accelerator, say
        self.position = TrainState()
        self.batch_size = recipe.rollout.batch_size
        self.stop_asked = False
        self.clock = Clock()
        self._pool = ThreadPoolExecutor(max_workers=1)
        device = accelerator.device
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.policy.precision == "fp16")
        self.optimizer = self._new_optimizer()

    @property
    def task(self) -> Task:
        """The stage that is being trained."""
        return self.tasks[self.position.stage]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        config = self.recipe.optimizer
        return torch.optim.AdamW(
            self.policy.weights.parameters.values(),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )

    # --- an iteration ---------------------------------------------------------------------------------------------

    def iterate(self) -> dict[str, float]:
        """One iteration: rollout, advantages, update, old policy.

        Returns:
            Its metrics.

        Raises:
            Interrupted: a stop was asked for; the position says where the run stands.
            TrainingFailed: nothing could be scored, the loss is not finite, or an update had no effect.
        """
        begun = time.monotonic()
        while True:
            try:
                metrics = self._attempt()
                break
            except torch.OutOfMemoryError:
                self._halve()
        self._follow()
        self.position.images = int(metrics["images"])
        self.position.seconds += time.monotonic() - begun
        metrics["minutes"] = self.position.seconds / 60
        metrics |= {f"seconds/{k}": v for k, v in self.clock.take().items()}
        return self._agreed(metrics)

    def _agreed(self, metrics: dict[str, float]) -> dict[str, float]:
        """Means over the processes, so that a guard stops all of them or none."""
        if self.accelerator.num_processes == 1:
            return metrics
        everyone = gather_object([metrics])
        names = {k for told in everyone for k in told}
        return {k: float(np.mean([t[k] for t in everyone if k in t])) for k in sorted(names)}

    def stop_wanted(self) -> bool:
        """Whether any process was asked to stop."""
        if self.accelerator.num_processes == 1:
            return self.stop_asked
        return any(gather_object([self.stop_asked]))

    def _attempt(self) -> dict[str, float]:
        seed_everything(self._seed("rollout"), self.accelerator.process_index)
        self._set_lr()
        draws = self._rollout()
        judged, metrics = self._judge(draws)
        metrics |= self._update(draws, judged)
        return metrics

    def _set_lr(self) -> None:
        """The learning rate follows from the position, and from a recipe that was changed on resume."""
        last = sum(task.stage.iterations for task in self.tasks) - 1
        share = min(self.position.done / last, 1.0) if last else 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.optimizer.lr_at(share)

    def _seed(self, what: str) -> int:
        position = self.position
        return seed_of(self.recipe.seed, what, position.stage, position.iteration)

    def _halve(self) -> None:
        """Less memory for the next attempt, which draws the same images again."""
        if self.batch_size == 1 or self.accelerator.num_processes > 1:
            raise TrainingFailed(
                f"out of memory with {self.batch_size} images at once; set rollout.batch_size lower, or "
                "policy.gradient_checkpointing=true"
            )
        self.optimizer.zero_grad()
        self.batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.say(f"out of memory: going on with {self.batch_size} images at once")

    def _pause_if_asked(self) -> None:
        # Processes stop together, between iterations: one that left alone would leave the others waiting.
        if self.stop_asked and self.accelerator.num_processes == 1:
            self.optimizer.zero_grad()
            raise Interrupted

    # --- rollout --------------------------------------------------------------------------------------------------

    def _rollout(self) -> list[RolloutBatch]:
        stage, rollout = self.task.stage, self.recipe.rollout
        chosen = prompts_of(
            self.task.prompts,
            stage.groups,
            self.position.iteration,
            seed_of(self.recipe.seed, "prompts", self.position.stage),
        )
        groups = grouped(chosen, stage.group_size)
        accelerator = self.accelerator
        mine = groups[accelerator.process_index :: accelerator.num_processes]
        parameters = SamplingParameters(
            height=rollout.height,
            width=rollout.width,
            num_inference_steps=stage.num_inference_steps,
            guidance_scale=rollout.guidance_scale,
            max_sequence_length=rollout.max_sequence_length,
            seed=self._seed("images"),
        )
        draws = []
        with self.policy.drawing("old"), texts_remembered(self.policy.pipeline):
            for batch in batches(mine, self.batch_size):
                self._pause_if_asked()
                with self.clock.part("rollout"):
                    draws.append(self._draw(batch, parameters))
        return draws

    def _draw(self, batch: list[Sample], parameters: SamplingParameters) -> RolloutBatch:
        pipeline = self.policy.pipeline
        precision = mixed(self.accelerator.device, self.recipe.policy.precision)
        with self._sampler(batch) as scheduler, watch(pipeline) as trace, precision:
            images = generate(pipeline, batch, parameters)
            steps = list(getattr(scheduler, "transitions", ()))
        ids = [s.prompt.id for s in batch]
        return RolloutBatch(
            samples=batch,
            images=images,
            record=record(trace, self.layout, [ids.index(i) for i in ids]),
            steps=[s for s in steps if s.sigma_next > 0],
            scores=self._pool.submit(self._scores, images, [s.prompt for s in batch]),
        )

    def _sampler(self, batch: list[Sample]):
        """The pipeline's own solver for NFT; for FlowGRPO one that draws its steps."""
        if self.recipe.algorithm == "nft":
            return nullcontext()
        return noisy(self.policy.pipeline, self.recipe.flow_grpo, batch, self._seed("steps"))

    def _scores(self, images: np.ndarray, prompts: list[Prompt]):
        with self.clock.part("rewards"):  # in its own thread, while the next batch is drawn
            return score_all(self.task.judges, images, prompts)

    # --- advantages -----------------------------------------------------------------------------------------------

    def _judge(self, draws: list[RolloutBatch]) -> tuple[GroupAdvantages, dict[str, float]]:
        """Advantages of all processes' images; each draw is given its own."""
        with self.clock.part("waiting for rewards"):
            scores = [d.scores.result() for d in draws]
        mine = [
            (s, {k: float(v.values[i]) for k, v in score.items()}, why(score, i))
            for d, score in zip(draws, scores, strict=True)
            for i, s in enumerate(d.samples)
        ]
        everything = gather_object(mine) if self.accelerator.num_processes > 1 else mine
        everything.sort(key=lambda one: (one[0].prompt.id, one[0].index))  # however it was shared
        prompts = [s.prompt for s, _, _ in everything]
        keys = [j.spec.key for j in self.task.judges]
        values = {k: np.array([v[k] for _, v, _ in everything]) for k in keys}
        rewards = reward_values(self.task.judges, values, prompts)
        stage = self.task.stage
        judged = combine_advantages(
            rewards, [p.id for p in prompts], combine=stage.combine, std=stage.advantage_std
        )
        if not judged.usable.any():
            reason = next((r for _, _, r in everything if r), "no reason given")
            raise TrainingFailed(
                f"none of the {len(everything)} images of iteration {self.position.done} could be scored: {reason}"
            )
        self._place = {(s.prompt.id, s.index): n for n, (s, _, _) in enumerate(everything)}
        for draw in draws:
            places = [self._place[s.prompt.id, s.index] for s in draw.samples]
            draw.advantages = torch.from_numpy(judged.advantages[places])
        return judged, self._told(draws, rewards, judged, len(everything))

    def _told(self, draws, rewards, judged: GroupAdvantages, count: int) -> dict[str, float]:
        told = {
            "images": self.position.images + count,
            "reward/total": float(np.nanmean(judged.total)),
            "reward/spread": float(np.nanstd(judged.total)),
            "unscored": int(np.isnan(judged.total).sum()),
            "groups_lost": judged.lost_groups,
            "zero_spread": 1 - float(judged.spread.sum() / judged.usable.sum()),
            "x_0_norm": float(
                torch.cat(
                    [d.record.x_0.float().square().flatten(1).mean(1).sqrt() for d in draws]
                ).mean()
            ),
        }
        for key, weighed_reward in rewards.items():
            scored = weighed_reward.values[~np.isnan(weighed_reward.values)]
            told[f"reward/{key}"] = float(scored.mean()) if len(scored) else math.nan
        return told | picture_statistics(np.concatenate([d.images for d in draws]))

    # --- update ---------------------------------------------------------------------------------------------------

    def _update(self, draws: list[RolloutBatch], judged: GroupAdvantages) -> dict[str, float]:
        stage, chosen = self.task.stage, judged.usable
        if stage.zero_spread == "skip":
            chosen = judged.spread
        order = np.random.default_rng(self._seed("updates")).permutation(len(chosen))
        part_of = np.empty(len(chosen), dtype=int)
        part_of[order] = np.arange(len(chosen)) * stage.updates // len(chosen)
        sums: dict[str, float] = {}
        for part in range(self.position.updates, stage.updates):
            seed_everything(self._seed("update"), self.accelerator.process_index, part)
            in_part = chosen & (part_of == part)
            if in_part.any():
                sums = self._optimizer_step(draws, in_part)
            self.position.updates = part + 1
        return sums

    def _optimizer_step(self, draws: list[RolloutBatch], chosen: np.ndarray) -> dict[str, float]:
        """One step of the optimiser on the chosen images of all processes."""
        stage = self.task.stage
        available = len(draws[0].steps) or len(draws[0].record.t)
        times = stage.times(available)
        total = int(chosen.sum()) * times
        sums: dict[str, Tensor] = {}
        for pick in self._picks(draws, chosen, times, available):
            self._pause_if_asked()
            with self.clock.part("update"):
                terms = self._terms(pick)
                loss = terms.pop("loss").sum() / total
                self.scaler.scale(loss).backward()
                for name, value in ({"loss": loss.detach() * total} | terms).items():
                    sums[name] = sums.get(name, 0.0) + value.sum().double()
        means = self._reduced(sums, total)
        if not math.isfinite(means.get("loss", 0.0)):
            self.optimizer.zero_grad()
            raise TrainingFailed(f"the loss of iteration {self.position.done} is {means['loss']}")
        self.policy.check_seen(means.get("old_deviation"))
        means["grad_norm"] = self._step()
        return means

    def _picks(
        self, draws: list[RolloutBatch], chosen: np.ndarray, times: int, available: int
    ) -> Iterator[objective.TrainingBatch]:
        """The chosen images of this process, each at its own times, in batches that never cross a draw."""
        seed = self._seed("training")
        for draw in draws:
            shape, pairs = draw.record.x_0.shape[1:], []
            for i, sample in enumerate(draw.samples):
                if chosen[self._place[sample.prompt.id, sample.index]]:
                    places, eps = training_noise(
                        sample, seed, shape, times=times, available=available
                    )
                    pairs += [(i, place, e) for place, e in zip(places.tolist(), eps, strict=True)]
            for start in range(0, len(pairs), self.batch_size):
                images, places, eps = zip(*pairs[start : start + self.batch_size], strict=True)
                yield objective.TrainingBatch(
                    draw=draw,
                    images=torch.tensor(images),
                    times=torch.tensor(places),
                    eps=torch.stack(eps).to(draw.record.x_0.device),
                )

    def _terms(self, pick: objective.TrainingBatch) -> objective.Terms:
        def velocity(which: str, x_t: Tensor, places: Tensor) -> Tensor:
            weights = self.policy.weights.using(which) if which != "theta" else nullcontext()
            places = places.to(x_t.device)
            with self.clock.part(which), mixed(x_t.device, self.recipe.policy.precision), weights:
                images = pick.images.to(x_t.device)
                return pick.draw.record.velocity(self.policy.denoiser, x_t, images, places).float()

        if self.recipe.algorithm == "nft":
            return objective.nft_terms(pick, velocity, self.task.stage)
        return objective.flow_grpo_terms(pick, velocity, self.task.stage, self.recipe.flow_grpo)

    def _reduced(self, sums: dict[str, Tensor], total: int) -> dict[str, float]:
        """Means over the pairs of all processes; their gradients are summed on the way."""
        if self.accelerator.num_processes > 1:
            for parameter in self.policy.weights.parameters.values():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad = self.accelerator.reduce(parameter.grad, "sum")
            gathered = gather_object([{k: float(v) for k, v in sums.items()}])
            names = {k for g in gathered for k in g}
            return {k: sum(g.get(k, 0.0) for g in gathered) / total for k in sorted(names)}
        return {k: float(v) / total for k, v in sums.items()}

    def _step(self) -> float:
        parameters = list(self.policy.weights.parameters.values())
        self.scaler.unscale_(self.optimizer)
        norm = float(
            torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.max_grad_norm)
        )
        before = self.policy.fingerprint() if self.position.steps == 0 else None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if before is not None and math.isfinite(norm) and norm > 0:
            self.policy.check_moved(before)
        self.position.steps += 1
        decay = ema_decay(self.position.steps, maximum=self.recipe.optimizer.ema)
        self.policy.weights.blend("ema", decay)
        return norm

    def _follow(self) -> None:
        """The old policy follows theta, and the position moves on."""
        position, stage = self.position, self.task.stage
        decay = old_decay(stage.old_schedule, position.steps - position.schedule_start)
        self.policy.weights.blend("old", decay)
        position.updates = 0
        position.iteration += 1
        position.done += 1
        if position.iteration == stage.iterations and position.stage + 1 < len(self.tasks):
            position.stage, position.iteration = position.stage + 1, 0
            self._begin_stage()

    def _begin_stage(self) -> None:
        reset = self.task.stage.reset
        if "old" in reset:
            self.policy.weights.copy("old")
            self.position.schedule_start = self.position.steps
        if "ema" in reset:
            self.policy.weights.copy("ema")
        if "optimizer" in reset:
            self.optimizer = self._new_optimizer()

    @property
    def finished(self) -> bool:
        """Whether every stage has been done."""
        position = self.position
        return position.stage + 1 == len(self.tasks) and (
            position.iteration >= self.task.stage.iterations
        )
