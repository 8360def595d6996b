"""DiffusionNFT as the trainer runs it; its mathematics are the page `nft.py`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from nftbench.benchmark.samples import Sample
from nftbench.training.algorithms.base import (
    RolloutBatch,
    Terms,
    TrainingBatch,
    Velocity,
    root_mean_square,
)
from nftbench.training.algorithms.nft import (
    nft_loss,
    optimality,
    trust_region,
    velocity_kl,
)
from nftbench.training.algorithms.solvers import second_order
from nftbench.training.config.recipe import Recipe, Stage
from rewards.base import ConfigError

EXPLODED = 1.0
"""KL to the reference beyond which a pair counts as exploded: guidance of 4.5 moves the pocket policy this far."""


class DiffusionNFT:
    """Needs clean latents alone: any solver may draw them, and any of its times can be trained."""

    def __init__(self, recipe: Recipe) -> None:
        """Only the solver is the recipe's; all other settings are a stage's."""
        self._solver = recipe.rollout.solver

    def sampler(
        self, pipeline: DiffusionPipeline, samples: Sequence[Sample], seed: int
    ) -> AbstractContextManager[Sequence[object]]:
        """The pipeline's own solver, or the recipe's; nothing is noted."""
        if self._solver == "own":
            return nullcontext(())
        return second_order(pipeline, self._solver)

    def trainable_times(self, rollout: RolloutBatch, stage: Stage) -> int:
        """Those of the record within the stage's range of noise."""
        return len(_times(rollout, stage))

    def terms(self, batch: TrainingBatch, velocity: Velocity, stage: Stage) -> Terms:
        """NFT's loss on images noised again."""
        record = batch.rollout.record
        x_0 = record.x_0[batch.images].float()
        times = _times(batch.rollout, stage)[batch.time_indices]
        t = record.t.to(x_0)[times].reshape(-1, *[1] * (x_0.ndim - 1))
        x_t = record.noised(x_0, batch.eps, t)
        region = stage.trust_region
        v_ref = velocity("ref", x_t, times) if stage.kl_weight or region else None
        v_theta = velocity("theta", x_t, times)
        v_old = velocity("old", x_t, times)
        advantages = batch.rollout.advantages[batch.images].numpy()
        r = torch.from_numpy(optimality(advantages, clip=stage.adv_clip)).to(x_0)
        policy = stage.adv_clip * nft_loss(v_theta, v_old, x_0, x_t, t, r, beta=stage.beta)
        moved = v_theta.detach()
        terms = {
            "policy_loss": policy.detach(),
            "old_deviation": (moved - v_old).abs().mean(tuple(range(1, moved.ndim))),
        }
        if v_ref is None:
            return {"loss": policy} | terms
        kl = velocity_kl(v_theta, v_ref)
        loss = trust_region(policy, kl, limit=region.kl, weight=region.weight) if region else policy
        if stage.kl_weight:
            loss = loss + stage.kl_weight * kl
        terms |= {
            "kl": kl.detach(),
            "kl_exploded": (kl.detach() > EXPLODED).to(kl),
            "velocity_ratio": root_mean_square(moved) / root_mean_square(v_ref),
        }
        return {"loss": loss} | terms


def _times(rollout: RolloutBatch, stage: Stage) -> Tensor:
    """int64, the record's times within the stage's range of noise.

    Raises:
        ConfigError: there are none.
    """
    (low, high), t = stage.noise_range, rollout.record.t.cpu()
    places = ((t >= low) & (t <= high)).nonzero().flatten()
    if not len(places):
        raise ConfigError(
            f"none of the sampler's noise levels {[round(x, 3) for x in t.tolist()]} is within noise_range "
            f"[{low:g}, {high:g}]; widen it"
        )
    return places
