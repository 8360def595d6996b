"""The rollout of an iteration: which prompts, in which batches, with which noise, judged while the next are drawn.

Everything here follows from (seed, stage, iteration) and the old policy's weights: an iteration that was cut can be
drawn again, image by image the same, whatever the batches and however many processes share it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from nftbench.generation.replay import Record
from nftbench.generation.sampling import Sample, image_seed
from nftbench.training.algorithms.advantages import RewardValues
from nftbench.training.algorithms.flow_grpo import SdeScheduler, Step
from nftbench.training.config.recipe import FlowGrpoConfig
from rewards import RewardSpec
from rewards.base import ConfigError, Prompt, Reward, Scores

NOT_ASKED = "does not apply"
"""Reason of a value that a reward was not asked for."""


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^63) named by anything."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def prompts_of(prompts: Sequence[Prompt], count: int, iteration: int, seed: int) -> list[Prompt]:
    """The prompts of one iteration: the next `count` of an endless sequence of shuffled passes over all of them."""
    chosen = []
    for place in range(iteration * count, (iteration + 1) * count):
        turn, index = divmod(place, len(prompts))
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


@dataclass(kw_only=True)
class RolloutBatch:
    """One call of the pipeline: its images and what is needed to train on them."""

    samples: list[Sample]
    images: np.ndarray
    """uint8 (B, H, W, 3)."""
    record: Record
    steps: Sequence[Step]
    """Stochastic steps, for FlowGRPO; empty for an ODE."""
    scores: Future
    """Of `dict[str, Scores]`: by reward, NaN where it does not apply."""
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    """(B,), set when all images of the iteration are judged."""


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """A reward with its weight in the recipe."""

    spec: RewardSpec
    reward: Reward

    def applies(self, prompt: Prompt) -> bool:
        """Whether it judges a prompt: the prompt names it or names none, and it can."""
        named = self.spec.key in prompt.rewards or self.spec.key.partition("@")[0] in prompt.rewards
        if prompt.rewards and not named:
            return False
        try:
            self.reward.check([prompt])
        except ConfigError:
            return False
        return True


def score_all(
    judges: Sequence[WeightedReward], images: np.ndarray, prompts: Sequence[Prompt]
) -> dict[str, Scores]:
    """Every reward's scores of one batch; an image whose prompt it does not judge is NaN with that reason."""
    return {j.spec.key: _score(j, images, prompts) for j in judges}


def _score(judge: WeightedReward, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
    mine = [i for i, p in enumerate(prompts) if judge.applies(p)]
    values = np.full(len(prompts), np.nan, dtype=np.float32)
    reasons = [NOT_ASKED] * len(prompts)
    parts: dict[str, np.ndarray] = {}
    if mine:
        scores = judge.reward.score(images[mine], [prompts[i] for i in mine])
        values[mine] = scores.values
        for name, part in scores.parts.items():
            parts[name] = np.full(len(prompts), np.nan, dtype=np.float32)
            parts[name][mine] = part
        for place, i in enumerate(mine):
            reasons[i] = scores.reasons[place]
    return Scores(values=values, reasons=tuple(reasons), parts=parts)


def why(scores: Mapping[str, Scores], place: int) -> str:
    """Why an image is not scored; empty where it is, or where a reward does not apply."""
    return next(
        (s.reasons[place] for s in scores.values() if s.reasons[place] not in ("", NOT_ASKED)), ""
    )


def reward_values(
    judges: Sequence[WeightedReward], values: Mapping[str, np.ndarray], prompts: Sequence[Prompt]
) -> dict[str, RewardValues]:
    """Values by reward as the advantages need them."""
    known = {j.spec.key: {p.id: j.applies(p) for p in prompts} for j in judges}
    return {
        j.spec.key: RewardValues(
            values=values[j.spec.key].astype(np.float64),
            applies=np.array([known[j.spec.key][p.id] for p in prompts], dtype=bool),
            weight=j.spec.weight,
            scale=j.reward.info.train_scale * (1 if j.reward.info.higher_is_better else -1),
        )
        for j in judges
    }


def training_noise(
    sample: Sample, seed: int, shape: Sequence[int], *, times: int, available: int
) -> tuple[Tensor, Tensor]:
    """At which times an image is trained, and the noise it gets there.

    Args:
        sample: the image.
        seed: of the iteration.
        shape: of its latents.
        times: how many, at most `available`.
        available: the sampler's times.

    Returns:
        int64 (times,) distinct places among the sampler's times, and float32 (times, *shape).
    """
    generator = torch.Generator("cpu").manual_seed(image_seed(seed, sample.prompt.id, sample.index))
    chosen = torch.randperm(available, generator=generator)[:times]
    return chosen, torch.randn(times, *shape, generator=generator)


@contextmanager
def noisy(
    pipeline: DiffusionPipeline, config: FlowGrpoConfig, batch: Sequence[Sample], seed: int
) -> Iterator[SdeScheduler]:
    """FlowGRPO's sampler in the pipeline's place; each image's noise is its own."""
    with SdeScheduler.swap(
        pipeline,
        noise_level=config.noise_level,
        variant=config.variant,
        window=config.window,
    ) as scheduler:
        scheduler.generators = [
            torch.Generator("cpu").manual_seed(image_seed(seed, s.prompt.id, s.index))
            for s in batch
        ]
        yield scheduler
