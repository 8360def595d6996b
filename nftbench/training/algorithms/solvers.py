"""Solvers that can take the place of a pipeline's own for a rollout."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from nftbench.generation.sampling import drawing_with
from nftbench.generation.settings.solvers import build_solver
from rewards.base import ConfigError


@contextmanager
def second_order(pipeline: DiffusionPipeline, name: str) -> Iterator[tuple[()]]:
    """A solver of second order on the pipeline's own noise levels in its solver's place, for flow models.

    Args:
        pipeline: whose solver is replaced for the length of the block.
        name: as `nftbench eval --solver` has it; `dpm++2` is DPM-Solver++(2M) as diffusers has it, `dpm2` as
            NVlabs/DiffusionNFT@24af555 draws with it.

    Raises:
        ConfigError: the pipeline's solver is not Euler's of flow matching with a fixed shift.

    Source: arXiv:2211.01095.
    """
    own = pipeline.scheduler
    if not isinstance(own, FlowMatchEulerDiscreteScheduler) or own.config["use_dynamic_shifting"]:
        raise ConfigError(
            f"rollout.solver={name} expects a pipeline with FlowMatchEulerDiscreteScheduler and a fixed shift, got "
            f"{type(own).__name__}; leave the solver out"
        )
    with drawing_with(pipeline, build_solver(own, name)):
        yield ()
