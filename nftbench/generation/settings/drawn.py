"""Whether images were drawn with the guidance that a few steps showed: some pipelines guide a part of their steps."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers import DiffusionPipeline

from nftbench.generation.sampling import drawing_with
from nftbench.generation.settings.effective import Effective
from nftbench.generation.settings.probe import Observation, counted
from rewards.base import ConfigError


@contextmanager
def counting(
    pipeline: DiffusionPipeline, settings: Effective | None, at_once: int
) -> Iterator[None]:
    """Count network calls while images are drawn within the block; at its end, refuse what was not learned.

    Args:
        pipeline: what draws.
        settings: learned for it; None is nothing to compare with.
        at_once: images of a call.

    Raises:
        ConfigError: images were drawn with guidance where none was seen, or without where some was.
    """
    if settings is None:
        yield
        return
    with drawing_with(pipeline, settings.other_solver), counted(pipeline) as seen:
        yield
    _compare(type(pipeline).__name__, settings, seen, 1 if settings.one_by_one else at_once)


def _compare(name: str, settings: Effective, seen: Observation, at_once: int) -> None:
    stages = [rows for rows in seen.stages.values() if any(rows)]
    guided = any(max(rows) > at_once for rows in stages)
    learned = settings.network_calls > max(len(stages), 1)
    if not stages or guided == learned:
        return
    if not guided and at_once > 1:  # a network may be called for a batch as for one image
        return
    how = ("without guidance", "with guidance")
    raise ConfigError(
        f"{name} draws {how[learned]} in a few steps and {how[guided]} in {settings.num_inference_steps}: what "
        "guides its images cannot be said; choose another --steps or --guidance"
    )
