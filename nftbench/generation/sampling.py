"""Prompts to images: the one way images are made, in evaluation and in training.

An image's noise comes from a CPU generator seeded by (seed, prompt id, image index): it depends on neither the batch it
is made in, nor the number of processes, nor what was done before a restart.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import nn

from nftbench.benchmark.schema import SamplingParameters
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


def sampling_arguments(
    pipeline: DiffusionPipeline, parameters: SamplingParameters
) -> dict[str, Any]:
    """How images are drawn, as this pipeline's keyword arguments.

    Raises:
        ConfigError: a setting is fixed that the pipeline has no argument for.
    """
    accepted = inspect.signature(pipeline.__call__).parameters
    wanted = {
        name: getattr(parameters, name)
        for name in (
            "height",
            "width",
            "num_inference_steps",
            "guidance_scale",
            "max_sequence_length",
        )
        if getattr(parameters, name) is not None
    }
    refused = [name for name in wanted if name not in accepted]
    if refused:
        raise ConfigError(
            f"{type(pipeline).__name__} has no argument {', '.join(refused)}, which {parameters.about} sets; choose "
            "one without it"
        )
    return wanted


def generate(
    pipeline: DiffusionPipeline, batch: Sequence[Sample], parameters: SamplingParameters
) -> np.ndarray:
    """Make one batch of images.

    Args:
        pipeline: any diffusers text-to-image pipeline.
        batch: the images wanted.
        parameters: how.

    Returns:
        uint8 RGB (len(batch), height, width, 3).

    Raises:
        ConfigError: pixels that are not finite numbers: never scored as black.
    """
    generators = [
        torch.Generator("cpu").manual_seed(image_seed(parameters.seed, s.prompt.id, s.index))
        for s in batch
    ]
    draw: Any = pipeline  # the base class has no __call__ of its own
    output = draw(
        prompt=[s.prompt.text for s in batch],
        generator=generators,
        output_type="np",
        **sampling_arguments(pipeline, parameters),
    )
    if not np.isfinite(output.images).all():
        raise ConfigError(
            f"{type(pipeline).__name__} made pixels that are not finite numbers (first prompt of the batch: "
            f"{batch[0].prompt.id}); its weights do not work in this dtype"
        )
    return to_uint8(output.images)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] to uint8, rounded to the nearest level (half to even) and clipped."""
    return (pixels.astype(np.float32) * 255).round().clip(0, 255).astype(np.uint8)


@contextmanager
def texts_remembered(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Within the block a text encoder is given each distinct prompt once, and no batch of prompts twice.

    Text encoders are frozen and draw nothing at random, so this changes no number beyond rounding. (Pipelines can
    repeat prompts themselves, by `num_images_per_prompt`; of diffusers 0.42 some then order masks and embeddings
    differently.)
    """
    encoders = [
        module
        for name, module in pipeline.components.items()
        if name.startswith("text_encoder") and isinstance(module, nn.Module)
    ]
    for encoder in encoders:
        encoder.forward = _remembering(encoder.forward)
    try:
        yield
    finally:
        for encoder in encoders:
            del encoder.forward  # the class's own comes back


def _remembering(forward: Callable[..., Any]) -> Callable[..., Any]:
    answers: dict[str, Any] = {}

    @wraps(forward)
    def remembered(*args: Any, **kwargs: Any) -> Any:
        distinct = _distinct([a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)])
        if distinct is None:
            return forward(*args, **kwargs)
        firsts, place_of, key = distinct
        key += repr({k: v for k, v in kwargs.items() if not isinstance(v, torch.Tensor)})
        if key not in answers:
            answers[key] = forward(*_rows(args, firsts), **_rows(kwargs, firsts))
        return _rows(answers[key], place_of)

    return remembered


def _distinct(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, str] | None:
    """First places of distinct rows, each row's place among them, and their content; None where rows do not align."""
    if not tensors or any(t.ndim == 0 or len(t) != len(tensors[0]) for t in tensors):
        return None
    rows = [
        b"".join(t[i].detach().cpu().contiguous().numpy().tobytes() for t in tensors)
        for i in range(len(tensors[0]))
    ]
    order = list(dict.fromkeys(rows))
    firsts = torch.tensor([rows.index(row) for row in order])
    key = hashlib.sha256(b"".join(order)).hexdigest()
    return firsts, torch.tensor([order.index(row) for row in rows]), key


def _rows(value: Any, places: torch.Tensor) -> Any:
    """Rows of every tensor in nested arguments or outputs."""
    if isinstance(value, torch.Tensor):
        return value[places.to(value.device)]
    if isinstance(value, Mapping):
        inner = {k: _rows(v, places) for k, v in value.items()}
        return inner if type(value) is dict else type(value)(**inner)
    if isinstance(value, tuple | list):
        return type(value)(_rows(v, places) for v in value)
    return value
