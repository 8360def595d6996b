"""Prompts to images: the one way images are made, in evaluation and in training.

An image's noise comes from a CPU generator seeded by (seed, prompt id, image index): it depends on neither the batch it
is made in, nor the number of processes, nor what was done before a restart.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from nftbench.benchmark.samples import Sample, image_seed
from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.foreign import ForeignErrors, said_by
from nftbench.generation.settings.chance import Chance
from rewards.base import ConfigError

if TYPE_CHECKING:
    from nftbench.generation.settings.effective import Effective


OVERSHOOT = 0.5
"""How far beyond [0, 1] a decoder that is not held to it may go; pixels in [-1, 1] or in grey levels go further."""
NOT_FINITE = "pixels that are not finite numbers"
"""Why an image has no pixels."""


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
            "negative_prompt",
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
    pipeline: DiffusionPipeline,
    batch: Sequence[Sample],
    parameters: "SamplingParameters | Effective",
) -> np.ndarray:
    """Make one batch of images.

    Args:
        pipeline: any diffusers text-to-image pipeline.
        batch: the images wanted.
        parameters: how; `Effective` where a pipeline's ways were learned, else they are handed over as they are.

    Returns:
        uint8 RGB (len(batch), height, width, 3).

    Raises:
        ConfigError: pixels that are not finite numbers, or that a safety checker took away: never scored as black.
    """
    drawn = generate_each(pipeline, batch, parameters)
    refuse_not_finite(pipeline, batch, drawn)
    return np.stack(drawn)


def generate_each(
    pipeline: DiffusionPipeline,
    batch: Sequence[Sample],
    parameters: "SamplingParameters | Effective",
) -> list[np.ndarray | str]:
    """As `generate`, image by image: in place of pixels that are not finite numbers there is the reason."""
    if getattr(parameters, "one_by_one", False):
        return [_generate(pipeline, [s], parameters)[0] for s in batch]
    return _generate(pipeline, batch, parameters)


def refuse_not_finite(
    pipeline: DiffusionPipeline, batch: Sequence[Sample], drawn: Sequence[np.ndarray | str]
) -> None:
    """Refuse a batch of which an image has no pixels.

    Raises:
        ConfigError: by the first one's reason.
    """
    for sample, one in zip(batch, drawn, strict=True):
        if isinstance(one, str):
            raise ConfigError(
                f"{type(pipeline).__name__} made {one} (the first in {sample.key}); its weights do not work in this "
                "dtype: choose another --dtype"
            )


def _generate(
    pipeline: DiffusionPipeline,
    batch: Sequence[Sample],
    parameters: "SamplingParameters | Effective",
) -> list[np.ndarray | str]:
    name = type(pipeline).__name__

    def refusal(error: Exception) -> ConfigError:
        steps = parameters.num_inference_steps
        return ConfigError(
            f"{name} cannot draw {len(batch)} images in {steps} steps: {said_by(error)}"
        )

    with ForeignErrors(refusal, but=(torch.OutOfMemoryError,)):
        output = called(pipeline, batch, parameters)
    images = images_of(output, name, len(batch))
    censored = getattr(output, "nsfw_content_detected", None)
    if isinstance(censored, Sequence) and any(censored):
        raise ConfigError(
            f"{name} blacked out {sum(map(bool, censored))} images of the batch that begins with {batch[0].key}: its "
            "safety checker is on; remove the component from the checkpoint"
        )
    return [to_uint8(one) if np.isfinite(one).all() else NOT_FINITE for one in images]


def called(
    pipeline: DiffusionPipeline,
    batch: Sequence[Sample],
    parameters: "SamplingParameters | Effective",
) -> Any:
    """What a pipeline returns for a batch, asked for numpy arrays.

    Random numbers that it draws beside its generators follow from the batch's first image.
    """
    draw: Any = pipeline  # the base class has no __call__ of its own
    arguments, first = call_arguments(pipeline, batch, parameters), batch[0]
    with (
        Chance(image_seed(parameters.seed, first.prompt.id, first.index)),
        drawing_with(pipeline, getattr(parameters, "other_solver", None)),
    ):
        return draw(**arguments, output_type="np")


def refuse_other_steps(pipeline: DiffusionPipeline, settings: "Effective") -> None:
    """Refuse a pipeline that has just drawn in another number of steps than it was asked for.

    Raises:
        ConfigError: by what its solver was told.
    """
    solver = settings.other_solver or getattr(pipeline, "scheduler", None)
    asked, taken = (
        settings.arguments.get("num_inference_steps"),
        getattr(solver, "num_inference_steps", None),
    )
    if None not in (asked, taken) and asked != taken:
        raise ConfigError(
            f"{type(pipeline).__name__} was asked for {asked} steps and drew in {taken}; pass --steps {taken}"
        )


def call_arguments(
    pipeline: DiffusionPipeline,
    batch: Sequence[Sample],
    parameters: "SamplingParameters | Effective",
) -> dict[str, Any]:
    """The keyword arguments that draw a batch, but for the output type."""
    generators = [
        torch.Generator("cpu").manual_seed(image_seed(parameters.seed, s.prompt.id, s.index))
        for s in batch
    ]
    texts = [s.prompt.text for s in batch]
    if isinstance(parameters, SamplingParameters):
        given = sampling_arguments(pipeline, parameters)
        return {"prompt": texts, "generator": generators, **given}
    given = dict(parameters.arguments)
    negative = parameters.negative_prompt
    if parameters.one_by_one:
        given |= {"prompt": texts[0], "generator": generators[0]}
        return given if negative is None else {**given, "negative_prompt": negative}
    given |= {"prompt": texts, "generator": generators}
    return given if negative is None else {**given, "negative_prompt": [negative] * len(batch)}


def images_of(output: Any, name: str, count: int) -> np.ndarray:
    """The images of a pipeline's output, float (N, H, W, 3) in [0, 1].

    Args:
        output: what the pipeline returned, asked for numpy arrays.
        name: of the pipeline, for the error.
        count: how many were asked for.

    Raises:
        ConfigError: it returned something else, such as a video, or another number of images.
    """
    found = next(
        (v for k in ("images", "image") if (v := getattr(output, k, None)) is not None), None
    )
    if found is None:
        found = output[0] if isinstance(output, tuple) else output
    if isinstance(found, torch.Tensor):
        found = found.float().cpu().numpy()
        found = np.moveaxis(found, 1, -1) if found.ndim == 4 and found.shape[1] == 3 else found
    if isinstance(found, list) and found and all(isinstance(i, Image.Image) for i in found):
        found = _levels(found, name)
    array = np.asarray(found if isinstance(found, np.ndarray | list) else [])
    array = array / 255 if array.dtype.kind in "iu" else array
    if array.ndim == 5 and array.shape[1] == 1:  # one frame
        array = array[:, 0]
    if array.ndim == 4 and array.shape[-1] == 4 and array.dtype.kind == "f":  # alpha, on white
        array = array[..., :3] * array[..., 3:] + (1 - array[..., 3:])
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype.kind != "f":
        frames = getattr(output, "frames", None)
        shape = array.shape if array.size else type(found).__name__
        what = f"a video {np.shape(frames)}" if frames is not None else shape
        raise ConfigError(f"{name} returned {what}; expected RGB images (N, H, W, 3)")
    if len(array) != count:
        raise ConfigError(f"{name} drew {len(array)} images for {count} prompts")
    known = array[np.isfinite(array)]  # of the rest see `generate`
    low, high = known.min(initial=0), known.max(initial=0)
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ConfigError(
            f"{name} returned pixels from {low:.3g} to {high:.3g}; expected numbers in [0, 1]"
        )
    return array


def _levels(images: list[Image.Image], name: str) -> np.ndarray:
    """Of PIL images, RGBA in [0, 1]; opaque where they have no alpha.

    Raises:
        ConfigError: their channels have other than 8 bits, which Pillow would clip, or they are of several sizes.
    """
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise ConfigError(f"{name} returned images of several sizes at once: {sorted(sizes)}")
    deep = sorted({image.mode for image in images if image.mode[0] in "IF"})
    if deep:
        raise ConfigError(f"{name} returned images of mode {deep[0]}; expected 8 bits a channel")
    return np.stack([np.asarray(image.convert("RGBA")) for image in images]) / 255


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] to uint8, rounded to the nearest level (half to even) and clipped."""
    return (pixels.astype(np.float32) * 255).round().clip(0, 255).astype(np.uint8)


@contextmanager
def drawing_with(pipeline: DiffusionPipeline, solver: Any | None) -> Iterator[Any]:
    """Put a solver into a pipeline for the length of the block; None leaves the pipeline's own, which is yielded."""
    own = getattr(pipeline, "scheduler", None)
    if solver is None:
        yield own
        return
    pipeline.scheduler = solver
    try:
        yield own
    finally:
        pipeline.scheduler = own


@contextmanager
def texts_remembered(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Within the block a text encoder is given each distinct prompt once, and no batch of prompts twice.

    Text encoders are frozen and draw nothing at random, so this changes no number beyond rounding. (Pipelines can
    repeat prompts themselves, by `num_images_per_prompt`; of diffusers 0.42 some then order masks and embeddings
    differently.) Training's own way: groups of one prompt, few of them, answers that stay on the device beside what is
    recorded. `machine.encoders.RememberedTexts` is evaluation's: bounded, in the host's memory, encoders that leave.
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
