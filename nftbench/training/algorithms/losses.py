"""What is minimised: one function an algorithm, from some images at some times to a loss for each.

Both see the network through `velocity(which, x_t, places)` alone: which policy (`theta`, `old`, `ref`), where, and at
which of the sampler's times.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nftbench.training.algorithms import flow_grpo
from nftbench.training.algorithms.nft import nft_loss, optimality, velocity_kl
from nftbench.training.config.recipe import FlowGrpoConfig, Stage
from nftbench.training.rollouts import RolloutBatch

Velocity = Callable[[str, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingBatch:
    """Images of one draw, each at one time: the content of a forward pass."""

    draw: RolloutBatch
    images: Tensor
    """int64 (B,) into the draw."""
    times: Tensor
    """int64 (B,) into the times that can be trained."""
    eps: Tensor
    """float32 (B, ...)."""


Terms = dict[str, Tensor]
"""`loss` with its gradient and, without, what is reported beside it: (B,) each."""


def nft_terms(pick: TrainingBatch, velocity: Velocity, stage: Stage) -> Terms:
    """DiffusionNFT: see `nft.py`."""
    record = pick.draw.record
    x_0 = record.x_0[pick.images].float()
    t = record.t.to(x_0)[pick.times].reshape(-1, *[1] * (x_0.ndim - 1))
    x_t = record.noised(x_0, pick.eps, t)
    v_old = velocity("old", x_t, pick.times)
    v_ref = velocity("ref", x_t, pick.times) if stage.kl_weight else None
    v_theta = velocity("theta", x_t, pick.times)
    advantages = pick.draw.advantages[pick.images].numpy()
    r = torch.from_numpy(optimality(advantages, clip=stage.adv_clip)).to(x_0)
    policy = stage.adv_clip * nft_loss(v_theta, v_old, x_0, x_t, t, r, beta=stage.beta)
    moved = v_theta.detach()
    terms = {
        "policy_loss": policy.detach(),
        "old_deviation": (moved - v_old).abs().mean(tuple(range(1, moved.ndim))),
        "velocity_ratio": _norm(moved) / _norm(v_old if v_ref is None else v_ref),
    }
    if v_ref is None:
        return {"loss": policy} | terms
    kl = velocity_kl(v_theta, v_ref)
    return {"loss": policy + stage.kl_weight * kl, "kl": kl.detach()} | terms


def flow_grpo_terms(
    pick: TrainingBatch, velocity: Velocity, stage: Stage, config: FlowGrpoConfig
) -> Terms:
    """FlowGRPO: see `flow_grpo.py`."""
    steps = [pick.draw.steps[place] for place in pick.times.tolist()]
    x, x_next, old = (
        torch.stack([getattr(s, name)[i] for s, i in zip(steps, pick.images.tolist(), strict=True)])
        for name in ("x", "x_next", "log_prob")
    )
    places = torch.tensor([s.index for s in steps])
    levels = {  # float32 whatever the latents are: a rounded level would move the ratio off 1
        n: torch.tensor([getattr(s, n) for s in steps], dtype=torch.float32, device=x.device)
        for n in flow_grpo.LEVELS
    }

    def gaussian(v: Tensor) -> flow_grpo.Transition:
        return flow_grpo.gaussian(x, v, config.variant, config.noise_level, **levels)

    v_theta = velocity("theta", x, places)
    new = gaussian(v_theta)
    log_prob = flow_grpo.LOG_PROB[config.variant](x_next, new)
    advantages = pick.draw.advantages[pick.images].clamp(-stage.adv_clip, stage.adv_clip)
    policy = flow_grpo.grpo_loss(
        log_prob, old, advantages.to(log_prob), clip_range=config.clip_range
    )
    moved = ((log_prob - old).exp() - 1).abs().detach()
    terms = {
        "policy_loss": policy.detach(),
        "ratio_deviation": moved,
        "clipped": (moved > config.clip_range).float(),
    }
    if not stage.kl_weight:
        return {"loss": policy} | terms
    v_ref = velocity("ref", x, places)
    kl = flow_grpo.transition_kl(new.mean, gaussian(v_ref).mean, new.diffusion)
    terms |= {"kl": kl.detach(), "velocity_ratio": _norm(v_theta.detach()) / _norm(v_ref)}
    return {"loss": policy + stage.kl_weight * kl} | terms


def _norm(v: Tensor) -> Tensor:
    """Root mean square of each image's velocity, (B, ...) -> (B,)."""
    return v.square().mean(tuple(range(1, v.ndim))).sqrt().clamp_min(1e-12)
