"""FlowGRPO's sampler: it draws its steps, so that a step has a likelihood to reinforce.

Euler's deterministic step x' = x + (sigma' - sigma) v becomes a Gaussian with the same marginals, x' = mean + std z.
The sampler is a scheduler swapped into the pipeline, which stays the black box it is for NFT.

Source: arXiv:2505.05470; yifan123/flow_grpo@ac4c86e. CPS: arXiv:2509.05952.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from nftbench.generation.settings.flow_steps import FlowSteps
from rewards.base import ConfigError

Variant = Literal["sde", "cps"]
LEVELS = ("sigma", "sigma_next", "sigma_1")
"""A step's noise levels, as `gaussian` takes them."""


@dataclass(frozen=True, slots=True)
class Transition:
    """The Gaussian that a step draws from."""

    mean: Tensor
    """(B, ...), in latent units."""
    std: Tensor
    """(B or 1, 1, ...), in latent units."""
    diffusion: Tensor
    """(B or 1, 1, ...): `std` without sqrt(|dt|) for the SDE, `std` itself for CPS; what `transition_kl` divides by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step that was drawn; everything the same transition needs for another velocity."""

    index: int
    sigma: float
    sigma_next: float
    sigma_1: float
    """The schedule's second noise level, see `sde_transition`."""
    x: Tensor
    """(B, ...) before the step, as the pipeline gave it."""
    x_next: Tensor
    """(B, ...) after the step, as the pipeline got it."""
    log_prob: Tensor
    """float32 (B,), of `x_next` as it is stored."""


def sde_transition(
    x: Tensor,
    v: Tensor,
    sigma: Tensor | float,
    sigma_next: Tensor | float,
    *,
    noise_level: float,
    sigma_1: Tensor | float,
) -> Transition:
    """A step of the SDE that has the flow's marginals.

    Args:
        x: noised latents, (B, ...).
        v: velocity eps - x_0, (B, ...).
        sigma: noise level of x, in (0, 1]; a number or (B,).
        sigma_next: noise level after the step, in [0, sigma); a number or (B,).
        noise_level: factor a >= 0 of the noise; 0 is Euler's step, the papers use 0.7.
        sigma_1: the schedule's second noise level; stands for sigma in 1 / (1 - sigma) where sigma is 1.

    Returns:
        float32, or float64 for float64 latents.

    Source: arXiv:2505.05470; yifan123/flow_grpo@ac4c86e flow_grpo/diffusers_patch/sd3_sde_with_logprob.py:42-50.
    Differs: a sigma within 1e-6 of 1 counts as 1. With shifts such as 1.18 or 1.32 diffusers' schedule begins one
    rounding beside 1, where the reference gives a std of 2000 or NaN.
    """
    x, v, sigma, sigma_next = _wide(x, v, sigma, sigma_next)
    dt, below_one = sigma_next - sigma, torch.where(sigma > 1 - 1e-6, _level(sigma_1, x), sigma)
    s = noise_level * (sigma / (1 - below_one)).sqrt()
    pull = s.square() / (2 * sigma)
    mean = x * (1 + pull * dt) + v * (1 + pull * (1 - sigma)) * dt
    return Transition(mean, s * (-dt).sqrt(), s)


def cps_transition(
    x: Tensor, v: Tensor, sigma: Tensor | float, sigma_next: Tensor | float, *, noise_level: float
) -> Transition:
    """A step that swaps part of the predicted noise for fresh noise, which keeps the share of both at sigma_next.

    Args:
        x: noised latents, (B, ...).
        v: velocity eps - x_0, (B, ...).
        sigma: as for `sde_transition`.
        sigma_next: as for `sde_transition`.
        noise_level: a in [0, 1]; 0 is Euler's step, 1 takes fresh noise only, the reference uses 0.8.

    Returns:
        float32, or float64 for float64 latents; std is 0 for the step to sigma_next = 0.

    Source: arXiv:2509.05952; yifan123/flow_grpo, main of 2025-11-04, sd3_sde_with_logprob.py.
    """
    x, v, sigma, sigma_next = _wide(x, v, sigma, sigma_next)
    angle = noise_level * math.pi / 2
    s = math.sin(angle) * sigma_next
    x_0, eps = x - sigma * v, x + (1 - sigma) * v
    mean = (1 - sigma_next) * x_0 + math.cos(angle) * sigma_next * eps
    return Transition(mean, s, s)


def gaussian(
    x: Tensor,
    v: Tensor,
    variant: Variant,
    noise_level: float,
    *,
    sigma: Tensor | float,
    sigma_next: Tensor | float,
    sigma_1: Tensor | float,
) -> Transition:
    """The transition of either variant."""
    if variant == "cps":
        return cps_transition(x, v, sigma, sigma_next, noise_level=noise_level)
    return sde_transition(x, v, sigma, sigma_next, noise_level=noise_level, sigma_1=sigma_1)


def log_prob(x_next: Tensor, transition: Transition) -> Tensor:
    """Gaussian log density of a step, (B, ...) -> (B,), as the mean over an image's elements, not their sum.

    Source: yifan123/flow_grpo@ac4c86e flow_grpo/diffusers_patch/sd3_sde_with_logprob.py:61-68.
    """
    z = (x_next - transition.mean) / transition.std
    density = -z.square() / 2 - transition.std.log() - math.log(2 * math.pi) / 2
    return density.mean(tuple(range(1, density.ndim)))


def cps_log_prob(x_next: Tensor, transition: Transition) -> Tensor:
    """Negative squared distance of a step to its mean, (B, ...) -> (B,), averaged over an image's elements.

    CPS takes it for the log density: constants are dropped, and so is 1 / (2 std^2), which would weigh a step.

    Source: arXiv:2509.05952; yifan123/flow_grpo, main of 2025-11-04, sd3_sde_with_logprob.py.
    """
    return -(x_next - transition.mean).square().mean(tuple(range(1, x_next.ndim)))


LOG_PROB = {"sde": log_prob, "cps": cps_log_prob}
"""Each variant's log density of a step."""


class SdeScheduler(FlowSteps):
    """The pipeline's own schedule, with steps that are drawn and remembered; made by `swap`."""

    noise_level: float = 0.7
    variant: Variant = "sde"
    window: tuple[int, int] | None = None
    """First step that is drawn and the one behind the last, the others are Euler's; None draws all."""
    generators: Sequence[torch.Generator] = ()
    """One on the CPU for each image of the coming call: the noise of image i comes from generators[i] alone."""
    one_time = "FlowGRPO needs one time an image, got one a token; train with NFT"
    transitions: Sequence[Step] = ()
    """The steps drawn since the call began. The reference trains on all but the schedule's last step."""

    @classmethod
    @contextmanager
    def swap(
        cls,
        pipeline: DiffusionPipeline,
        *,
        noise_level: float = 0.7,
        variant: Variant = "sde",
        window: tuple[int, int] | None = None,
    ) -> Iterator[Self]:
        """Put this sampler into a pipeline; at the end the pipeline gets its own back.

        Raises:
            ConfigError: a pipeline without Euler's steps of flow matching, or a setting out of range.
        """
        own = pipeline.scheduler
        _check(own, noise_level, variant, window)
        drawing = cls.from_config(own.config)
        assert isinstance(drawing, cls)
        drawing.set_shift(own.shift)
        drawing.noise_level, drawing.variant, drawing.window = noise_level, variant, window
        pipeline.scheduler = drawing
        try:
            yield drawing
        finally:
            pipeline.scheduler = own

    def _begin(self) -> None:
        """No steps drawn yet; refused where the window reaches beyond the schedule."""
        self.transitions = []
        if self.window and self.window[1] > len(self.timesteps):  # pyright: ignore[reportArgumentType]
            raise ConfigError(
                f"window {self.window} reaches beyond the {len(self.timesteps)} steps; take more, or an earlier window"  # pyright: ignore[reportArgumentType]
            )

    def _moved(self, index: int, x: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The step drawn in float32 and remembered; outside the window, and without noise, Euler's.

        The recorded log density is of the sample rounded to `dtype`, so a replay gives the same and the ratio of an
        unchanged policy is exactly 1.
        """
        return self._draw(index, x.detach(), v.detach(), dtype) if self._is_drawn(index) else None

    def noise(self, x: Tensor) -> Tensor:
        """Standard normal draws for x, float32 (B, ...), each image's from its own generator."""
        if len(self.generators) != len(x):
            raise ConfigError(
                f"expected {len(x)} generators, one an image, got {len(self.generators)}; "
                "set `generators` before the call"
            )
        draws = [torch.randn(x.shape[1:], generator=g) for g in self.generators]
        return torch.stack(draws).to(x.device)

    def _is_drawn(self, index: int) -> bool:
        start, stop = self.window or (0, len(self.timesteps))  # pyright: ignore[reportArgumentType]
        # CPS ends without noise: its std is 0 where sigma_next is.
        noisy = self.noise_level > 0 and (self.variant == "sde" or self._sigma(index + 1) > 0)
        return bool(noisy) and start <= index < stop

    def _draw(self, index: int, x: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
        names = {"sigma": index, "sigma_next": index + 1, "sigma_1": 1}
        levels = {name: self._sigma(i) for name, i in names.items()}
        drawn = gaussian(x, v, self.variant, self.noise_level, **levels)
        x_next = (drawn.mean + drawn.std * self.noise(x)).to(dtype)
        density = LOG_PROB[self.variant](x_next, drawn)
        step = Step(index=index, **levels, x=x, x_next=x_next, log_prob=density)
        self.transitions = [*self.transitions, step]
        return x_next


def _check(own: Any, noise_level: float, variant: str, window: tuple[int, int] | None) -> None:
    """Refuse what cannot be drawn."""
    name = type(own).__name__
    if type(own) is not FlowMatchEulerDiscreteScheduler:
        raise ConfigError(
            f"FlowGRPO draws the steps of a FlowMatchEulerDiscreteScheduler, this pipeline has a {name}; train with NFT"
        )
    for flag in ("invert_sigmas", "stochastic_sampling"):
        if own.config.get(flag):
            raise ConfigError(
                f"FlowGRPO needs a {name} without {flag}, this pipeline's has it on; train with NFT"
            )
    if variant not in get_args(Variant):
        raise ConfigError(f"unknown variant {variant!r}; expected sde or cps")
    if not 0 <= noise_level <= (1 if variant == "cps" else math.inf):
        raise ConfigError(
            f"noise_level {noise_level} with {variant}; expected at least 0, and at most 1 with cps"
        )
    if window and not 0 <= window[0] < window[1]:
        raise ConfigError(f"window {window} is empty; expected (start, stop), 0 <= start < stop")


def _level(sigma: Tensor | float, x: Tensor) -> Tensor:
    """A number or (B,) as a tensor that broadcasts against x."""
    return torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1))


def _wide(x: Tensor, v: Tensor, *sigmas: Tensor | float) -> list[Tensor]:
    """Everything in float32, or in float64 where x is: half precision overflows in the mean."""
    x = x if x.dtype == torch.float64 else x.float()
    return [x, v.to(x.dtype), *[_level(sigma, x) for sigma in sigmas]]
