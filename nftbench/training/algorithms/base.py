"""What the trainer asks of an algorithm, and what it hands to one. Read `diffusion_nft.py` for the shortest example."""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from nftbench.benchmark.samples import Sample
from nftbench.generation.recorder.guided import Guided
from nftbench.generation.recorder.replay import Record
from nftbench.training.config.recipe import Recipe, Stage

WeightSet = Literal["theta", "old", "ref"]
"""The trained policy, the one that draws, the one where the run began."""

Terms = dict[str, Tensor]
"""`loss` with its gradient and, without, what is reported beside it: (B,) each."""


@dataclass(kw_only=True)
class RolloutBatch:
    """One call of the pipeline: its images and what is needed to train on them."""

    samples: list[Sample]
    images: np.ndarray
    """uint8 (B, H, W, 3)."""
    record: Record
    guided: Guided | None = None
    """How the old policy was guided; None where it was not."""
    steps: Sequence[Any]
    """What the algorithm's sampler noted, such as stochastic steps; empty where the record is enough."""
    scores: Future = field(default_factory=Future)
    """Of `dict[str, Scores]`: by reward, NaN where it does not apply; set when they are asked for."""
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    """(B,) where the images stand among all images of the iteration; set when all are scored."""
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    """(B,), set at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingBatch:
    """Images of one rollout batch, each at one time: the content of a forward pass."""

    rollout: RolloutBatch
    images: Tensor
    """int64 (B,) into the rollout batch."""
    time_indices: Tensor
    """int64 (B,) in [0, `Algorithm.trainable_times`)."""
    eps: Tensor
    """float32 (B, ...), standard normal noise of the image at this time."""


class Velocity(Protocol):
    """The network: velocity eps - x_0, float32 (B, ...), of a set of weights; only theta's carries a gradient."""

    def __call__(self, weights: WeightSet, x_t: Tensor, record_indices: Tensor) -> Tensor:
        """Call it once.

        Args:
            weights: whose velocity.
            x_t: noised latents of the batch's images, (B, ...).
            record_indices: int64 (B,) into the record's times `t`.
        """
        ...


class Algorithm(Protocol):
    """How images are drawn for training, at which times they are trained, and what is minimised there."""

    def __init__(self, recipe: Recipe) -> None:
        """Take what is its own from the recipe; ConfigError where that cannot be."""
        ...

    def sampler(
        self, pipeline: DiffusionPipeline, samples: Sequence[Sample], seed: int
    ) -> AbstractContextManager[Sequence[Any]]:
        """The solver that a rollout is drawn with, in the pipeline for the length of the block.

        Args:
            pipeline: with the old policy's weights.
            samples: the images of the coming call.
            seed: of the iteration; with prompt id and index it gives an image's own noise.

        Returns:
            Yields what becomes `RolloutBatch.steps`, complete when the block is left.
        """
        ...

    def trainable_times(self, rollout: RolloutBatch, stage: Stage) -> int:
        """How many times an image of the rollout can be trained at in this stage; ConfigError where there are none."""
        ...

    def terms(self, batch: TrainingBatch, velocity: Velocity, stage: Stage) -> Terms:
        """The loss of each image, and what is reported beside it."""
        ...


def root_mean_square(v: Tensor) -> Tensor:
    """Of each image's velocity, (B, ...) -> (B,)."""
    return v.square().mean(tuple(range(1, v.ndim))).sqrt().clamp_min(1e-12)
