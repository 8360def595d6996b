"""Prompts to images: the one way pictures are made, in evaluation and in training.

An image's noise comes from a CPU generator seeded by (seed, prompt id, image index): it depends on neither the batch it
is made in, nor the number of processes, nor what was done before a restart.
"""

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from nftbench.benchmark import Protocol
from rewards.base import ConfigError, Prompt


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to be made: the index-th of its prompt."""

    prompt: Prompt
    index: int

    @property
    def key(self) -> str:
        """Name of the image's file, without its ending."""
        return f"{self.prompt.id}-{self.index:02d}"


def samples(prompts: Sequence[Prompt], images_per_prompt: int) -> list[Sample]:
    """All images of a benchmark, prompt by prompt."""
    return [Sample(p, i) for p in prompts for i in range(images_per_prompt)]


def image_seed(seed: int, prompt_id: str, index: int) -> int:
    """Seed of one image's noise, in [0, 2^63)."""
    digest = hashlib.sha256(f"{seed}/{prompt_id}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sampling_arguments(pipeline: DiffusionPipeline, protocol: Protocol) -> dict[str, Any]:
    """The protocol as this pipeline's keyword arguments.

    Raises:
        ConfigError: the protocol fixes something that the pipeline cannot be told.
    """
    accepted = inspect.signature(pipeline.__call__).parameters
    wanted = {
        name: getattr(protocol, name)
        for name in (
            "height",
            "width",
            "num_inference_steps",
            "guidance_scale",
            "max_sequence_length",
        )
        if getattr(protocol, name) is not None
    }
    refused = [name for name in wanted if name not in accepted]
    if refused:
        raise ConfigError(
            f"{type(pipeline).__name__} takes no {', '.join(refused)}, which protocol {protocol.hash} of "
            f"{protocol.benchmark} fixes; choose a benchmark without it"
        )
    return wanted


def generate(
    pipeline: DiffusionPipeline, batch: Sequence[Sample], protocol: Protocol
) -> np.ndarray:
    """Make one batch of images.

    Args:
        pipeline: any diffusers text-to-image pipeline.
        batch: the images wanted.
        protocol: how.

    Returns:
        uint8 RGB (len(batch), height, width, 3).

    Raises:
        ConfigError: pixels that are no finite numbers: never scored as black.
    """
    generators = [
        torch.Generator("cpu").manual_seed(image_seed(protocol.seed, s.prompt.id, s.index))
        for s in batch
    ]
    output = pipeline(
        prompt=[s.prompt.text for s in batch],
        generator=generators,
        output_type="np",
        **sampling_arguments(pipeline, protocol),
    )
    if not np.isfinite(output.images).all():
        raise ConfigError(
            f"{type(pipeline).__name__} made pixels that are no finite numbers (first prompt of the batch: "
            f"{batch[0].prompt.id}); its weights do not work in {protocol.dtype}"
        )
    return to_uint8(output.images)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] to uint8, rounded to the nearest level (half to even) and clipped."""
    return (pixels.astype(np.float32) * 255).round().clip(0, 255).astype(np.uint8)
