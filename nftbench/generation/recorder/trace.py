"""A running pipeline, watched: its network's calls and its solver's steps, recorded and let go.

Noise levels are given as alpha and sigma: the network saw alpha x_0 + sigma eps (alpha = 1 - sigma for flow models).
"""

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from nftbench.generation.recorder.call_arguments import convert
from rewards.base import ConfigError

Prediction = Literal["flow_prediction", "epsilon", "v_prediction"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TracedStep:
    """One step of a solver, and the network call it rests on."""

    arguments: Mapping[str, Any]
    """Of the network, by name."""
    output: Any
    """Of the network, as it came."""
    calls: int
    """Network calls since the step before; 1 without guidance."""
    model_output: Tensor
    """What the scheduler was given."""
    sample: Tensor
    prev_sample: Tensor
    """What the scheduler made of it."""
    alpha: float
    """The network saw alpha x_0 + sigma eps."""
    sigma: float


@dataclass(slots=True)
class Trace:
    """All steps of one call of a pipeline."""

    steps: list[TracedStep] = field(default_factory=list)


def denoiser_of(pipeline: DiffusionPipeline) -> tuple[str, nn.Module]:
    """Name and module of the network that a pipeline samples with.

    Raises:
        ConfigError: it has none under a name we know.
    """
    for name in ("transformer", "unet"):
        if isinstance(module := getattr(pipeline, name, None), nn.Module):
            return name, module
    raise ConfigError(
        f"{type(pipeline).__name__} has neither a transformer nor a unet, but {', '.join(pipeline.components)}; "
        "only diffusion models can be trained"
    )


@contextmanager
def watch(pipeline: DiffusionPipeline) -> Iterator[Trace]:
    """Write down the pipeline's network calls and solver steps while the block runs, and then let go of it.

    Raises:
        ConfigError: the scheduler's noise level cannot be read.
    """
    _, denoiser = denoiser_of(pipeline)
    scheduler, step, trace, calls = pipeline.scheduler, pipeline.scheduler.step, Trace(), []
    signature = inspect.signature(denoiser.forward)

    def before(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        # Containers are copied: a network may change the lists it is given.
        calls.append([convert(named_arguments(signature, args, kwargs), lambda t: t), None])

    def after(_: nn.Module, args: tuple, output: Any) -> None:
        calls[-1][1] = output

    @functools.wraps(step)  # pipelines read the signature
    def stepped(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(step).bind(*args, **kwargs).arguments
        result = step(*args, **kwargs)
        alpha, sigma = _level(scheduler, given["timestep"])
        arguments, output = calls[-1] if calls else ({}, None)
        trace.steps.append(
            TracedStep(
                arguments=arguments,
                output=output,
                calls=len(calls),
                model_output=given["model_output"],
                sample=given["sample"],
                prev_sample=result[0] if isinstance(result, tuple) else result.prev_sample,
                alpha=alpha,
                sigma=sigma,
            )
        )
        calls.clear()
        return result

    own = vars(scheduler).get("step")
    handles = [
        denoiser.register_forward_pre_hook(before, with_kwargs=True),
        denoiser.register_forward_hook(after),
    ]
    scheduler.step = stepped
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()
        if own is None:
            del scheduler.step
        else:
            scheduler.step = own


def named_arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, those of `**kwargs` among them.

    Raises:
        ConfigError: the call went through a wrapper that names nothing.
    """
    named: dict[str, Any] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind == inspect.Parameter.VAR_POSITIONAL:
            raise ConfigError(
                "the pipeline calls its network by position through a wrapper; put adapters in with add_adapter"
            )
        named.update(value if kind == inspect.Parameter.VAR_KEYWORD else {name: value})
    return named


def _level(scheduler: Any, timestep: Any) -> tuple[float, float]:
    """Alpha and sigma of the network call that the step just done rests on.

    `step` has moved the index on; Heun's two stages have an index each. Samplers that keep x_0 + sigma' eps hand the
    network alpha times that, alpha = 1 / sqrt(1 + sigma'^2).
    """
    sigmas, index = getattr(scheduler, "sigmas", None), getattr(scheduler, "step_index", None)
    if sigmas is not None and index is not None:
        sigma = float(sigmas[index - 1])
        if prediction_of(scheduler) == "flow_prediction":
            return 1 - sigma, sigma
        alpha = (1 + sigma**2) ** -0.5
        return alpha, alpha * sigma
    if (kept := getattr(scheduler, "alphas_cumprod", None)) is not None:
        share = float(kept[int(timestep)])
        return share**0.5, (1 - share) ** 0.5
    raise ConfigError(
        f"{type(scheduler).__name__} has neither sigmas with a step index nor alphas_cumprod; choose another solver"
    )


def first_output(output: Any) -> Any:
    """The prediction within a network's output: itself, or the first of a tuple or output object."""
    while isinstance(output, tuple | Mapping):
        output = output[0] if isinstance(output, tuple) else next(iter(output.values()))
    return output


def prediction_of(scheduler: Any) -> Prediction:
    """What the network predicts; schedulers made for flow models alone do not name it."""
    named = scheduler.config.get("prediction_type", "flow_prediction")
    flow = scheduler.config.get("use_flow_sigmas", "prediction_type" not in scheduler.config)
    if named not in ("flow_prediction", "epsilon", "v_prediction") or flow != (
        named == "flow_prediction"
    ):
        raise ConfigError(
            f"{type(scheduler).__name__} has prediction_type {named!r} with{'' if flow else 'out'} flow sigmas; "
            "expected epsilon or v_prediction without them, or flow_prediction with them"
        )
    return named
