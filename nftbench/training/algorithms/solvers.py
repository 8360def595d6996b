"""Solvers that can take the place of a pipeline's own for a rollout."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers import (
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from rewards.base import ConfigError


@contextmanager
def second_order(pipeline: DiffusionPipeline) -> Iterator[tuple[()]]:
    """DPM-Solver++(2M) on the pipeline's own noise levels in its solver's place, for flow models.

    Raises:
        ConfigError: the pipeline's solver is not Euler's of flow matching with a fixed shift.

    Source: arXiv:2211.01095; NVlabs/DiffusionNFT@24af555 draws with it.
    """
    own = pipeline.scheduler
    if not isinstance(own, FlowMatchEulerDiscreteScheduler) or own.config.use_dynamic_shifting:
        raise ConfigError(
            f"rollout.solver=dpm++ expects a pipeline with FlowMatchEulerDiscreteScheduler and a fixed shift, got "
            f"{type(own).__name__}; leave the solver out"
        )
    pipeline.scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=own.shift,
        final_sigmas_type="zero",
    )
    try:
        yield ()
    finally:
        pipeline.scheduler = own
