"""DiffusionNFT on one page. Pure: arrays and tensors in, the same out.

An iteration draws groups of images of a prompt with the `old` policy, turns their rewards into advantages and those
into r, the probability that an image is an optimal one. Each image is then noised again, x_t = (1 - t) x_0 + t eps,
and the network is taught to move towards it where r is high and away from it where r is low:

    v+ = v_old + beta (v_theta - v_old)        v- = v_old - beta (v_theta - v_old)
    loss = r E(v+) + (1 - r) E(v-)             E(v) = |x_t - t v - x_0|^2, weighted by its own size

At last `old` follows `theta`. Neither a likelihood nor the steps of the sampler are needed.

Source: arXiv:2509.16117; NVlabs/DiffusionNFT@24af555.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

OldSchedule = Literal["copy", "linear_to_0.5", "delayed_to_0.999", "keep"]
ADDED_SPREAD = 1e-4
"""Added to every standard deviation before rewards are divided by it, as upstream has it."""


def group_advantages(
    rewards: np.ndarray, groups: Sequence[str], *, std: Literal["batch", "group"] = "batch"
) -> np.ndarray:
    """How much better an image is than the others of its prompt, in standard deviations.

    Args:
        rewards: (N,) finite.
        groups: (N,) the prompt of each image.
        std: population standard deviation of all rewards, as upstream has it, or of the image's own group.

    Returns:
        float64 (N,), of mean 0 in every group; 0 in a group whose rewards are all equal.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/stat_tracking.py.
    Differs: exactly 0 where a group has no spread (upstream divides rounding noise by 1e-4).
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    advantages = np.zeros_like(rewards)
    for group in range(index.max(initial=-1) + 1):
        mine = rewards[index == group]
        if np.ptp(mine) > 0:
            spread = (rewards if std == "batch" else mine).std()
            advantages[index == group] = (mine - mine.mean()) / (spread + ADDED_SPREAD)
    return advantages


def optimality(advantages: np.ndarray, *, clip: float = 5.0) -> np.ndarray:
    """Probability r in [0, 1] that an image is optimal: 1/2 for an average one, linear in the advantage up to `clip`.

    Source: arXiv:2509.16117 Sec. 3.3; NVlabs/DiffusionNFT@24af555 scripts/train_nft_sd3.py:908-925.
    """
    return np.clip(advantages / clip, -1, 1) / 2 + 0.5


def nft_loss(
    v_theta: Tensor, v_old: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, r: Tensor, *, beta: float
) -> Tensor:
    """Pull images with r = 1 towards v_theta and push images with r = 0 away from it.

    Args:
        v_theta: velocity eps - x_0 of the trained policy, (B, ...).
        v_old: the same of the old policy; carries no gradient.
        x_0: clean latents, (B, ...).
        x_t: noised latents (1 - t) x_0 + t eps, (B, ...).
        t: noise level, (B, 1, ...) in (0, 1]; 1 is noise.
        r: optimality probability, (B,) in [0, 1].
        beta: mix of v_theta and v_old, > 0; the paper uses 1 and 0.1.

    Returns:
        (B,) >= 0, in latent units / beta, in the inputs' dtype.

    Source: arXiv:2509.16117 Sec. 3; NVlabs/DiffusionNFT@24af555 scripts/train_nft_sd3.py:934-959.
    Differs: keeps the inputs' dtype (upstream promotes to float64).
    """
    dims, step = tuple(range(1, x_0.ndim)), beta * (v_theta - v_old)

    def x_0_error(v: Tensor) -> Tensor:
        error = x_t - t * v - x_0
        scale = error.detach().abs().mean(dims, keepdim=True).clamp_min(1e-5)
        return (error.square() / scale).mean(dims)

    return (r * x_0_error(v_old + step) + (1 - r) * x_0_error(v_old - step)) / beta


def velocity_kl(v_theta: Tensor, v_ref: Tensor) -> Tensor:
    """Squared distance to the reference policy in velocity space, (B, ...) twice -> (B,), unweighted in t.

    Source: NVlabs/DiffusionNFT@24af555 scripts/train_nft_sd3.py:963-966; not in the paper.
    """
    return (v_theta - v_ref).square().mean(tuple(range(1, v_theta.ndim)))


def trust_region(policy: Tensor, kl: Tensor, *, limit: float, weight: float) -> Tensor:
    """Train a pair while it is near the reference policy; once it is beyond `limit`, only pull it back.

    The policy term pushes a velocity with a force that does not depend on how far it has gone; a weighted KL pulls in
    proportion to the distance. The two balance far out, so that a tail of inputs runs away while the mean looks sound.

    Args:
        policy: loss of each pair of image and time, (B,).
        kl: its `velocity_kl` to the reference, (B,) >= 0.
        limit: KL up to which a pair is trained, > 0.
        weight: of the KL in excess, > 0.

    Returns:
        (B,): `policy` within, weight (kl - limit) beyond.

    Source: measured here, nftbench/training/README.md; kin to NormGuard's hinge on velocity norms, arXiv:2606.27771.
    """
    beyond = kl.detach() > limit
    return torch.where(beyond, torch.zeros_like(policy), policy) + weight * (kl - limit).clamp_min(
        0
    )


def old_decay(schedule: OldSchedule, step: int) -> float:
    """Share eta of itself that `old` keeps: old <- eta old + (1 - eta) theta.

    Args:
        schedule: `copy` keeps nothing; `linear_to_0.5` grows by 0.001 a step up to 0.5; `delayed_to_0.999` keeps
            nothing for 75 steps, then grows by 0.0075 a step up to 0.999; `keep` keeps all.
        step: optimiser steps taken, >= 0.

    Source: NVlabs/DiffusionNFT@24af555 scripts/train_nft_sd3.py `return_decay`, types 0, 1, 2; `keep` is our own.
    """
    if schedule == "copy":
        return 0.0
    if schedule == "keep":
        return 1.0
    if schedule == "linear_to_0.5":
        return min(0.001 * step, 0.5)
    if schedule == "delayed_to_0.999":
        return min(0.0075 * max(step - 75, 0), 0.999)
    raise ValueError(
        f"unknown schedule {schedule!r}; expected copy, linear_to_0.5, delayed_to_0.999 or keep"
    )


def ema_decay(step: int, *, maximum: float = 0.9) -> float:
    """Share of itself that the evaluation average keeps after optimiser step `step` >= 0.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/ema.py.
    """
    return min((1 + step) / (10 + step), maximum)
