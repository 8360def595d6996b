"""The rollout of an iteration: which prompts, in which batches, with which noise, scored while the next are drawn.

Everything here follows from (seed, stage, iteration) and the old policy's weights: an iteration that was cut can be
drawn again, image by image the same, whatever the batches and however many processes share it.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nftbench.benchmark.samples import Sample
from nftbench.generation.recorder.guided import Guided, guided_records, refuse_other_guidance
from nftbench.generation.recorder.replay import Layout, Record, record, watch
from nftbench.generation.recorder.trace import Trace
from nftbench.generation.sampling import generate, texts_remembered
from nftbench.generation.settings.effective import Effective
from nftbench.training import RewardFailed
from nftbench.training.algorithms.advantages import (
    GroupAdvantages,
    RewardValues,
    combine_advantages,
)
from nftbench.training.algorithms.base import Algorithm, RolloutBatch
from nftbench.training.callbacks.checkpoints import TrainState, seed_of
from nftbench.training.callbacks.guards import picture_statistics
from nftbench.training.callbacks.metrics_log import Clock
from nftbench.training.config.recipe import Recipe
from nftbench.training.policy.precision import mixed
from nftbench.training.policy.trained import TrainedPolicy
from nftbench.training.processes import TrainingProcesses
from nftbench.training.stages import Failures, StageData, failure_reasons, reward_values, score_all
from rewards.base import ConfigError, Prompt, Scores


def prompts_of(prompts: Sequence[Prompt], count: int, iteration: int, seed: int) -> list[Prompt]:
    """The prompts of one iteration: the next `count` of an endless sequence of shuffled passes over all of them."""
    chosen = []
    for number in range(iteration * count, (iteration + 1) * count):
        turn, index = divmod(number, len(prompts))
        order = np.random.default_rng(seed_of(seed, "order", turn)).permutation(len(prompts))
        chosen.append(prompts[order[index]])
    return chosen


def grouped(prompts: Sequence[Prompt], group_size: int) -> list[list[Sample]]:
    """A group of images for each prompt; a prompt that stands twice gets one group of twice the size."""
    counts: dict[str, int] = {}
    by_id = {p.id: p for p in prompts}
    for prompt in prompts:
        counts[prompt.id] = counts.get(prompt.id, 0) + group_size
    return [[Sample(by_id[key], i) for i in range(count)] for key, count in counts.items()]


def batches(groups: Sequence[Sequence[Sample]], batch_size: int) -> list[list[Sample]]:
    """Groups as batches of at most `batch_size` images: several whole groups, or equal parts of one."""
    found: list[list[Sample]] = []
    for group in groups:
        if found and len(found[-1]) + len(group) <= batch_size and len(found[-1]) >= len(group):
            found[-1] += group
            continue
        parts = -(-len(group) // batch_size)
        found += [list(part) for part in np.array_split(np.array(group, dtype=object), parts)]
    return found


class Rollout:
    """Draws an iteration's images with the old policy, and has them scored meanwhile."""

    def __init__(
        self,
        recipe: Recipe,
        policy: TrainedPolicy,
        layout: Layout,
        settings: Effective,
        algorithm: Algorithm,
        processes: TrainingProcesses,
        clock: Clock,
    ) -> None:
        self._recipe, self._policy, self._layout = recipe, policy, layout
        self._settings = settings
        self._algorithm, self._processes, self._clock = algorithm, processes, clock
        self._scorer = ThreadPoolExecutor(max_workers=1)
        self.failures: list[Failures] = []
        """Of the iteration that was scored last."""

    @torch.no_grad()
    def check(self, stages: Sequence[StageData]) -> list[str]:
        """Draw one image as each stage does: what cannot be trained is refused before the run begins.

        Which noise levels a stage meets is for the pipeline to say: its solver, the steps and the image's size decide.
        The weights do not, so nothing is folded or compiled for it.

        Returns:
            What of a stage's settings has no effect, in words.

        Raises:
            ConfigError: names the stage; the pipeline guides in another way than `Guided` does, or a stage has no
                time to train at.
        """
        drawn: dict[tuple[int, float | None], RolloutBatch] = {}
        said = []
        for number, data in enumerate(stages, start=1):
            stage = data.stage
            way = (stage.num_inference_steps, stage.guided)
            settings = self._settings.at(num_inference_steps=stage.num_inference_steps, seed=0)
            try:
                if way not in drawn:
                    drawn[way] = self._drawn(data, [Sample(data.prompts[0], 0)], settings, 0)
                times = self._algorithm.trainable_times(drawn[way], stage)
            except ConfigError as error:
                raise ConfigError(f"stage {number}: {error}") from None
            wanted = stage.timesteps_per_image
            if isinstance(wanted, int) and wanted > times:
                more = f"timesteps_per_image {wanted} is more than the {times} times of an image"
                said.append(f"warning: stage {number}: {more}; each is trained at all of them")
        return said

    def draw(self, data: StageData, state: TrainState, batch_size: int) -> list[RolloutBatch]:
        """This process's part of the iteration's images; their scores may still be on their way.

        Raises:
            Interrupted: a stop was asked for.
        """
        chosen = prompts_of(
            data.one_pass,
            data.stage.groups,
            state.iteration,
            seed_of(self._recipe.seed, "prompts", state.stage),
        )
        mine = self._processes.share(grouped(chosen, data.stage.group_size))
        settings = self._settings.at(
            num_inference_steps=data.stage.num_inference_steps,
            seed=state.seed(self._recipe.seed, "images"),
        )
        steps_seed = state.seed(self._recipe.seed, "steps")
        drawn = []
        with self._policy.drawing("old"), texts_remembered(self._policy.pipeline):
            for samples in batches(mine, 1 if settings.one_by_one else batch_size):
                self._processes.stop_here_if_asked()
                with self._clock.part("rollout"):
                    drawn.append(self._batch(data, samples, settings, steps_seed))
        return drawn

    def _batch(
        self, data: StageData, samples: list[Sample], settings: Effective, seed: int
    ) -> RolloutBatch:
        batch = self._drawn(data, samples, settings, seed)
        prompts = [s.prompt for s in samples]
        batch.scores = self._scorer.submit(self._score, data, batch.images, prompts)
        return batch

    def _drawn(
        self, data: StageData, samples: list[Sample], settings: Effective, seed: int
    ) -> RolloutBatch:
        ids = [s.prompt.id for s in samples]
        rows = [ids.index(i) for i in ids]
        if data.guided is None:
            images, trace, steps = self._draw(samples, settings, seed)
            kept, guided = record(trace, self._layout, rows), None
        else:
            count, noise = settings.num_inference_steps, settings.seed
            other = data.guided.at(num_inference_steps=count, seed=noise)
            images, trace, steps = self._draw(samples, other, seed)
            kept, guided = self._guided(samples, rows, trace, settings, other)
        return RolloutBatch(samples=samples, images=images, record=kept, guided=guided, steps=steps)

    def _draw(
        self, samples: Sequence[Sample], settings: Effective, seed: int
    ) -> tuple[np.ndarray, Trace, Sequence[Any]]:
        pipeline = self._policy.pipeline
        with (
            self._algorithm.sampler(pipeline, samples, seed) as steps,
            watch(pipeline) as trace,
            self._precision(),
        ):
            return generate(pipeline, samples, settings), trace, steps

    def _precision(self) -> AbstractContextManager[Any]:
        return mixed(self._processes.device, self._recipe.policy.precision)

    def _guided(
        self,
        samples: Sequence[Sample],
        rows: list[int],
        trace: Trace,
        settings: Effective,
        other: Effective,
    ) -> tuple[Record, Guided]:
        """The records of a guided call; those of its prompts and of the empty one come from short unguided calls."""
        firsts = sorted(set(rows))
        empty = Sample(replace(samples[0].prompt, text=""), 0)
        plain, nothing = (
            record(self._draw(some, settings, 0)[1], self._layout, range(len(some)))
            for some in ([samples[row] for row in firsts], [empty])
        )
        images = [firsts.index(row) for row in rows]
        kept, guided = guided_records(
            plain, nothing, trace, images, float(other.guidance_scale or 1)
        )
        with self._precision():
            refuse_other_guidance(trace, kept, guided, self._velocity)
        return kept, guided

    def _velocity(self, of: Record, x_t: Tensor, images: Tensor, steps: Tensor) -> Tensor:
        return of.velocity(self._policy.denoiser, x_t, images, steps).float()

    def _score(
        self, data: StageData, images: np.ndarray, prompts: Sequence[Prompt]
    ) -> dict[str, Scores]:
        with self._clock.part("rewards"):  # in its own thread, while the next batch is drawn
            return score_all(data.rewards, images, prompts)

    # --- advantages -----------------------------------------------------------------------------------------------

    def score(
        self, rollout: Sequence[RolloutBatch], data: StageData, state: TrainState
    ) -> tuple[GroupAdvantages, dict[str, float]]:
        """Advantages of all processes' images, of which each batch is given its own; and the rollout's metrics.

        Raises:
            RewardFailed: a reward scored none of its images, or no image has all its rewards.
        """
        everyone = self._scored_images(rollout)
        prompts = [one.sample.prompt for one in everyone]
        values = {r.key: np.array([one.values[r.key] for one in everyone]) for r in data.rewards}
        rewards = reward_values(data.rewards, values, prompts)
        stage = data.stage
        groups = combine_advantages(
            rewards, [p.id for p in prompts], combine=stage.combine, std=stage.advantage_std
        )
        self.failures = list(_failures(everyone, rewards))
        self._refuse_dead_rewards(groups, state, {r.key for r in data.rewards if r.spec.weight})
        rows = {(s.prompt.id, s.index): row for row, s in enumerate(e.sample for e in everyone)}
        for batch in rollout:
            batch.rows = np.array([rows[s.prompt.id, s.index] for s in batch.samples])
            batch.advantages = torch.from_numpy(groups.advantages[batch.rows])
        metrics: dict[str, float] = {"images": state.images + len(everyone)}
        metrics |= {f"failed/{f.key}": f.count for f in self.failures}
        return groups, metrics | _metrics(rollout, rewards, groups)

    def _refuse_dead_rewards(
        self, groups: GroupAdvantages, state: TrainState, weighing: Collection[str]
    ) -> None:
        """One that weighs nothing may score nothing: it is said, and nothing is trained otherwise for it."""
        failures = [f for f in self.failures if f.key in weighing]
        dead = next((f for f in failures if f.all), None)
        if dead or not groups.usable.any():
            first = dead or next(iter(failures), "no group has two scored images")
            raise RewardFailed(
                f"iteration {state.done}: none of its {len(groups.usable)} images can be trained on: {first}"
                if not groups.usable.any()
                else f"iteration {state.done}: {first}"
            )

    def _scored_images(self, rollout: Sequence[RolloutBatch]) -> list["_ScoredImage"]:
        """Of all processes, by prompt and index, however they were shared."""
        with self._clock.part("waiting for rewards"):
            scores = self._processes.agreed(lambda: [batch.scores.result() for batch in rollout])
        mine = [
            _ScoredImage(
                sample,
                {k: float(s.values[i]) for k, s in of_batch.items()},
                failure_reasons(of_batch, i),
            )
            for batch, of_batch in zip(rollout, scores, strict=True)
            for i, sample in enumerate(batch.samples)
        ]
        everyone = self._processes.gather(mine)
        return sorted(everyone, key=lambda one: (one.sample.prompt.id, one.sample.index))


@dataclass(frozen=True, slots=True)
class _ScoredImage:
    sample: Sample
    values: Mapping[str, float]
    """By reward."""
    reasons: Mapping[str, str]
    """Why it could not be scored, by the rewards that failed."""


def _failures(
    everyone: Sequence[_ScoredImage], rewards: Mapping[str, RewardValues]
) -> Iterator[Failures]:
    for key, reward in rewards.items():
        reasons = [one.reasons[key] for one in everyone if key in one.reasons]
        if reasons:
            of = int(reward.applies.sum())
            yield Failures(key=key, count=len(reasons), of=of, reason=reasons[0])


def _metrics(
    rollout: Sequence[RolloutBatch], rewards: Mapping[str, RewardValues], groups: GroupAdvantages
) -> dict[str, float]:
    """Rewards of all processes' images; size and looks of this process's."""
    sizes = [b.record.x_0.float().square().flatten(1).mean(1).sqrt() for b in rollout]
    metrics = {
        "reward/total": float(np.nanmean(groups.total)),
        "reward/spread": float(np.nanstd(groups.total)),
        "unscored": int(np.isnan(groups.total).sum()),
        "groups_lost": groups.lost_groups,
        "zero_spread": 1 - float(groups.spread.sum() / groups.usable.sum()),
        "x_0_norm": float(torch.cat(sizes).mean()),
    }
    for key, reward in rewards.items():
        scored = reward.values[~np.isnan(reward.values)]
        metrics[f"reward/{key}"] = float(scored.mean()) if len(scored) else math.nan
    return metrics | picture_statistics(np.concatenate([b.images for b in rollout]))
