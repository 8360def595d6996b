"""FlowGRPO, the baseline: a policy gradient on the steps that `sde_sampler.py` draws.

It weighs each step's likelihood by the image's advantage and clips how far one update may move it.

Source: arXiv:2505.05470; yifan123/flow_grpo@ac4c86e. CPS: arXiv:2509.05952.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from nftbench.benchmark.samples import Sample, image_seed
from nftbench.training.algorithms.base import (
    RolloutBatch,
    Terms,
    TrainingBatch,
    Velocity,
    root_mean_square,
)
from nftbench.training.algorithms.sde_sampler import (
    LEVELS,
    LOG_PROB,
    SdeScheduler,
    Step,
    Transition,
    gaussian,
)
from nftbench.training.config.recipe import Recipe, Stage
from rewards.base import ConfigError

UNUSED = {
    "stages.guided": "needs the likelihood of the steps that drew, which guidance has none of",
    "stages.trust_region": "holds a step by flow_grpo.clip_range and stages.kl_weight alone",
    "stages.noise_range": "trains the steps that were drawn with noise, which flow_grpo.window chooses",
    "stages.beta": "weighs steps by their likelihood, and has no v+ and v- to set apart",
    "rollout.solver": "draws by a solver of its own, whose steps have noise",
}
"""Setting of NFT alone -> why it would change nothing here."""


class FlowGRPO:
    """Needs the solver's own steps, drawn with noise; what can be trained is these steps but the last."""

    def __init__(self, recipe: Recipe) -> None:
        """Settings are the recipe's section `flow_grpo`.

        Raises:
            ConfigError: the recipe asks for what only NFT does.
        """
        for key, reason in UNUSED.items():
            section, _, name = key.partition(".")
            for one in recipe.stages if section == "stages" else (recipe.rollout,):
                if getattr(one, name) != type(one).model_fields[name].default:
                    raise ConfigError(f"FlowGRPO {reason}; leave out {key}, or train with nft")
        self._settings = recipe.flow_grpo

    @contextmanager
    def sampler(
        self, pipeline: DiffusionPipeline, samples: Sequence[Sample], seed: int
    ) -> Iterator[list[Step]]:
        """Steps drawn with noise, each image's its own; those that end without noise are left out."""
        settings, steps = self._settings, []
        with SdeScheduler.swap(
            pipeline,
            noise_level=settings.noise_level,
            variant=settings.variant,
            window=settings.window,
        ) as scheduler:
            scheduler.generators = [
                torch.Generator("cpu").manual_seed(image_seed(seed, s.prompt.id, s.index))
                for s in samples
            ]
            yield steps
            steps += [step for step in scheduler.transitions if step.sigma_next > 0]

    def trainable_times(self, rollout: RolloutBatch, stage: Stage) -> int:
        """The steps that were drawn.

        Raises:
            ConfigError: there are none.
        """
        if not rollout.steps:
            raise ConfigError(
                f"no step can be trained: expected one of flow_grpo.window {self._settings.window} before the last of "
                f"{stage.num_inference_steps} steps; take more steps, or an earlier window"
            )
        return len(rollout.steps)

    def terms(self, batch: TrainingBatch, velocity: Velocity, stage: Stage) -> Terms:
        """The clipped policy gradient of each image's step."""
        settings = self._settings
        steps = [batch.rollout.steps[i] for i in batch.time_indices.tolist()]
        x, x_next, old = _of_images(batch, steps)
        record_indices = torch.tensor([s.index for s in steps])
        v_theta = velocity("theta", x, record_indices)
        new = self._transition(x, v_theta, steps)
        log_prob = LOG_PROB[settings.variant](x_next, new)
        advantages = batch.rollout.advantages[batch.images].clamp(-stage.adv_clip, stage.adv_clip)
        policy = grpo_loss(log_prob, old, advantages.to(log_prob), clip_range=settings.clip_range)
        moved = ((log_prob - old).exp() - 1).abs().detach()
        terms = {
            "policy_loss": policy.detach(),
            "ratio_deviation": moved,
            "clipped": (moved > settings.clip_range).float(),
        }
        if not stage.kl_weight:
            return {"loss": policy} | terms
        v_ref = velocity("ref", x, record_indices)
        kl = transition_kl(new.mean, self._transition(x, v_ref, steps).mean, new.diffusion)
        ratio = root_mean_square(v_theta.detach()) / root_mean_square(v_ref)
        terms |= {"kl": kl.detach(), "velocity_ratio": ratio}
        return {"loss": policy + stage.kl_weight * kl} | terms

    def _transition(self, x: Tensor, v: Tensor, steps: Sequence[Step]) -> Transition:
        levels = {  # float32 whatever the latents are: a rounded level would move the ratio off 1
            n: torch.tensor([getattr(s, n) for s in steps], dtype=torch.float32, device=x.device)
            for n in LEVELS
        }
        return gaussian(x, v, self._settings.variant, self._settings.noise_level, **levels)


def _of_images(batch: TrainingBatch, steps: Sequence[Step]) -> tuple[Tensor, ...]:
    """x, x_next and log_prob of each image's step."""
    rows = batch.images.tolist()
    return tuple(
        torch.stack([getattr(s, name)[i] for s, i in zip(steps, rows, strict=True)])
        for name in ("x", "x_next", "log_prob")
    )


def grpo_loss(
    log_prob: Tensor, log_prob_old: Tensor, advantages: Tensor, *, clip_range: float
) -> Tensor:
    """Policy gradient of one step, without a gain beyond a ratio of 1 +- clip_range.

    Args:
        log_prob: of the recorded steps under the trained policy, (B,).
        log_prob_old: the same under the policy that drew them, (B,).
        advantages: (B,), clipped by the caller (the reference: to +-5).
        clip_range: > 0; the reference uses 1e-4, and 1e-5 with CPS, as the log densities are means.

    Returns:
        (B,), -advantages where the ratio is 1.

    Source: yifan123/flow_grpo@ac4c86e scripts/train_sd3.py:886-893.
    """
    ratio = (log_prob - log_prob_old).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


def transition_kl(mean: Tensor, mean_ref: Tensor, diffusion: Tensor) -> Tensor:
    """Distance of two transitions with equal `diffusion`, (B, ...) twice -> (B,), averaged over an image's elements.

    Source: yifan123/flow_grpo@ac4c86e scripts/train_sd3.py:895.
    Differs: from the Gaussian KL, not from the reference. It divides by 2 s^2 where the SDE's variance is s^2 |dt|, so
    it is |dt| times the KL; kept, as the published KL weights go with it.
    """
    distance = (mean - mean_ref).square() / (2 * diffusion.square())
    return distance.mean(tuple(range(1, distance.ndim)))
