"""A pipeline's own schedule of flow matching with steps that are not Euler's: what all such solvers do alike."""

import functools
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor

from rewards.base import ConfigError


class FlowSteps(FlowMatchEulerDiscreteScheduler):
    """Euler's noise levels; a solver says in `_begin` and `_moved` what it does with them."""

    one_time: str
    """What is said where a pipeline has a time for each token."""

    # Pipelines look into the signature for what they may pass.
    @functools.wraps(FlowMatchEulerDiscreteScheduler.set_timesteps, assigned=())
    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Begin a call: the parent's schedule, no step behind it."""
        super().set_timesteps(*args, **kwargs)
        self._begin()

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        *,
        return_dict: bool = True,
        **options: Any,
    ) -> BaseOutput | tuple[Tensor]:
        """One step.

        Args:
            model_output: velocity eps - x_0, (B, ...).
            timestep: one of `timesteps`.
            sample: noised latents, (B, ...).
            return_dict: an output object, or a tuple, as the parent.
            options: the parent's others.

        Returns:
            `prev_sample`, (B, ...), in the parent's dtype.

        Raises:
            ConfigError: a time for each token.
        """
        if options.get("per_token_timesteps") is not None:
            raise ConfigError(self.one_time)
        given: Any = (model_output, timestep, sample)
        output: Any = super().step(*given, **options)  # counts the step
        index = self.step_index
        assert index is not None  # the parent has just made a step
        moved = self._moved(index - 1, sample, model_output, output.prev_sample.dtype)
        if moved is not None:
            output.prev_sample = moved
        return output if return_dict else (output.prev_sample,)

    def _begin(self) -> None:
        """A call begins; its schedule is set."""
        raise NotImplementedError

    def _moved(self, index: int, x: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The sample after step `index`, in `dtype`; None leaves Euler's."""
        raise NotImplementedError

    def _sigma(self, index: int) -> float:
        sigmas = self.sigmas
        assert sigmas is not None  # the schedule is set before a step
        return float(sigmas[index])
