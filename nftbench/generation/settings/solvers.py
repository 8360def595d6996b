"""Solvers that can take the place of a pipeline's own, and what a protocol says of the one that draws.

Each is built from the pipeline's own configuration, so that noise levels, shift and prediction stay the checkpoint's.
"""

import hashlib
import inspect
import json
import math
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from nftbench.generation.sampling import drawing_with
from nftbench.generation.settings.flow_steps import FlowSteps
from nftbench.generation.settings.probe import schedulers_of
from rewards.base import ConfigError


class Dpm2Scheduler(FlowSteps):
    """The second-order solver that DiffusionNFT draws its rollouts with, on the pipeline's own noise levels.

    DPM-Solver++(2M) in x_0 for the flow x = (1 - sigma) x_0 + sigma eps, in float32 or the float64 of the latents; the
    first and the last step are of first order. diffusers' DPMSolverMultistepScheduler has other noise levels and so
    other images.

    Source: arXiv:2211.01095; NVlabs/DiffusionNFT@24af555 flow_grpo/diffusers_patch/solver.py dpm_step.
    """

    one_time = "solver dpm2 needs one time an image, got one a token; choose euler"
    _before: tuple[Tensor, float] | None = None
    """x_0 and half log signal-to-noise ratio of the step before."""

    def _begin(self) -> None:
        self._before = None

    def _moved(self, index: int, x: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
        sigma, after = self._sigma(index), self._sigma(index + 1)
        exact = torch.promote_types(x.dtype, torch.float32)
        x, v = x.to(exact), v.to(exact)
        x_0 = x - sigma * v
        weight = (1 - after) - after * (1 - sigma) / sigma
        moved = after / sigma * x + weight * x_0 + weight / 2 * self._bend(x_0, sigma, after)
        self._before = (x_0, half_log_snr(sigma))
        return moved.to(dtype)

    def _bend(self, x_0: Tensor, sigma: float, after: float) -> Tensor:
        """How x_0 changes over the coming step, by the step before; 0 in the first step, the second and the last."""
        if self._before is None or after == 0 or math.isinf(self._before[1]):
            return torch.zeros_like(x_0)
        before, then = self._before
        now = half_log_snr(sigma)
        return (half_log_snr(after) - now) / (now - then) * (x_0 - before)


def half_log_snr(sigma: float) -> float:
    """log((1 - sigma) / sigma); -inf at pure noise, sigma 1."""
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


FLOW = {
    "euler": FlowMatchEulerDiscreteScheduler,
    "dpm2": Dpm2Scheduler,
    "dpm++2": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""For networks that predict a velocity of flow matching."""
NOISE = {
    "euler": EulerDiscreteScheduler,
    "ddim": DDIMScheduler,
    "dpm++2": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""For the other predictions of diffusion."""
NAMES = tuple(dict.fromkeys([*FLOW, *NOISE]))
OPTIONS: dict[str, dict[str, Any]] = {
    "dpm++2": {"algorithm_type": "dpmsolver++", "solver_order": 2},
}
"""Of a name, what its class can do in several ways."""
LEVELS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "shift_terminal",
)
"""Of a solver's configuration: what spaces its noise levels in a way of its own, and not every class can."""


def solver_name(scheduler: Any) -> str:
    """The name that `--solver` knows a solver by, else its class."""
    for table in (FLOW, NOISE):
        for name, kind in table.items():
            options = OPTIONS.get(name, {})
            if type(scheduler) is kind and all(
                scheduler.config.get(k) == v for k, v in options.items()
            ):
                return name
    return type(scheduler).__name__


def configuration_digest(scheduler: Any) -> str:
    """First 8 hexadecimal digits of the sha256 of what a solver was built with, as canonical JSON."""
    known = inspect.signature(type(scheduler).__init__).parameters
    fields = {k: v for k, v in scheduler.config.items() if k in known and not k.startswith("_")}
    if hasattr(scheduler, "shift"):  # can be set after it was built
        fields["shift"] = scheduler.shift
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def described_solver(pipeline: DiffusionPipeline) -> str | None:
    """For a protocol: `NAME CLASS:DIGEST` of every solver of a pipeline; None where it has none."""
    found = [
        f"{solver_name(s)} {type(s).__name__}:{configuration_digest(s)}"
        for s in schedulers_of(pipeline).values()
    ]
    return " + ".join(found) or None


def build_solver(own: Any, name: str) -> Any:
    """A solver on another's noise levels and prediction.

    Args:
        own: a pipeline's solver.
        name: one of `NAMES`.

    Raises:
        ConfigError: no such solver, or none for this model.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown solver {name!r}; expected one of {', '.join(NAMES)}")
    if own.config.get("prediction_type", "flow_prediction") == "flow_prediction":
        return _flow_solver(own, name)
    kind = NOISE.get(name)
    if kind is None or kind not in [*own.compatibles, type(own)]:
        raise _misfit(own, name, [n for n, k in NOISE.items() if k in own.compatibles])
    return kind.from_config(own.config, **OPTIONS.get(name, {}))


def _flow_solver(own: Any, name: str) -> Any:
    shift = getattr(own, "shift", own.config.get("flow_shift"))
    moving = bool(own.config.get("use_dynamic_shifting"))
    euler = isinstance(own, FlowMatchEulerDiscreteScheduler)
    if shift is None or own.config.get("invert_sigmas") or name not in FLOW:
        raise _misfit(own, name, [] if shift is None else list(FLOW))
    if name in ("euler", "dpm2") and euler:
        built = FLOW[name].from_config(own.config)
        built.set_shift(shift)
        return built
    if moving or not (euler or name in ("euler", "dpm2")):
        raise _misfit(own, name, ["euler", "dpm2"])
    steps = own.config["num_train_timesteps"]
    if name in ("euler", "dpm2"):
        return FLOW[name](num_train_timesteps=steps, shift=shift)
    return FLOW[name](
        num_train_timesteps=steps,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        final_sigmas_type="zero",
        **OPTIONS.get(name, {}),
    )


def said_levels(own: Any, other: Any | None) -> list[str]:
    """What is said of noise levels that a solver does not take over from the one whose place it takes.

    Args:
        own: a pipeline's solver.
        other: what draws; None where that is `own`.
    """
    if other is None:
        return []
    taken = inspect.signature(type(other).__init__).parameters
    lost = [
        name
        for name in LEVELS
        if (value := own.config.get(name)) and not (name in taken and other.config[name] == value)
    ]
    if not lost:
        return []
    return [
        f"solver {solver_name(other)} does not take over {', '.join(lost)} of the checkpoint's {type(own).__name__}: "
        "it draws on noise levels of its own"
    ]


def _misfit(own: Any, name: str, others: list[str]) -> ConfigError:
    remedy = f"choose {' or '.join(others)}, or leave it out" if others else "leave it out"
    return ConfigError(f"solver {name} cannot take the place of {type(own).__name__}; {remedy}")


def chosen_solver(pipeline: DiffusionPipeline, wanted: str | None) -> Any | None:
    """The solver that is asked for; None where that is the pipeline's own.

    Args:
        pipeline: any.
        wanted: a name, or what `described_solver` said of a pipeline.

    Raises:
        ConfigError: it cannot be had, or not with the configuration that was described.
    """
    if wanted is None or wanted == described_solver(pipeline):
        return None
    own = getattr(pipeline, "scheduler", None)
    if own is None or not hasattr(own, "config"):
        raise ConfigError(f"{type(pipeline).__name__} has no solver to choose; leave --solver out")
    name, _, rest = wanted.partition(" ")
    if name == solver_name(own) and not rest:
        return None
    built = build_solver(own, name)
    with drawing_with(pipeline, built):
        found = described_solver(pipeline)
    if rest and found != wanted:
        raise ConfigError(f"expected solver {wanted!r}, got {found!r}: the checkpoint has changed")
    return built
