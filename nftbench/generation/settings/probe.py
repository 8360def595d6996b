"""One short call of a pipeline, watched from outside: what its networks, its schedulers and its tokenizers do.

Nothing is asked of a class's name. A denoising network is one that is called before more than one solver step; the
rows it returns for one image are its calls an image and step, however the pipeline batches them.
"""

import contextlib
import functools
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers import PreTrainedModel

from nftbench.generation.foreign import ForeignErrors, said_by
from nftbench.generation.recorder.call_arguments import convert, count
from nftbench.generation.recorder.trace import first_output, named_arguments
from nftbench.generation.sampling import images_of
from nftbench.generation.settings.chance import Chance
from nftbench.generation.sources.files import said_differences
from rewards.base import ConfigError

STEPS = 2
"""Of a probe: two show what changes from step to step."""
MORE_STEPS = 4
"""Of a probe where two cannot be drawn in: solvers that begin with four network calls of another kind (PNDM)."""
_NEEDS_MORE: "WeakSet[DiffusionPipeline]" = WeakSet()

IMAGES = {"image", "video", "control_image"}
"""Arguments of pipelines that change an image; some of them draw without one, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of a network."""

    network: str
    arguments: Mapping[str, Any]
    output: Any
    """The prediction within what it returned."""

    @property
    def rows(self) -> int:
        """Images it was called for, guided ones several times."""
        return count(self.output) or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SolverStep:
    """One step of a solver, and the network calls since the step before."""

    scheduler: str
    calls: Sequence[Call]
    model_output: Any


@dataclass(slots=True)
class Observation:
    """What one call of a pipeline showed."""

    steps: list[SolverStep] = field(default_factory=list)
    sampled: list[str] = field(default_factory=list)
    """Components whose `generate` ran: language models that write while an image is drawn."""
    warnings: list[str] = field(default_factory=list)
    """Of the pipeline and its parts, each once."""
    output: Any = None
    unseeded: bool = False
    """Whether it drew random numbers beside those of the generators it was given."""

    @property
    def denoisers(self) -> set[str]:
        """Names of the networks that are called from step to step."""
        seen = [{call.network for call in step.calls} for step in self.steps]
        return {n for names in seen for n in names if sum(n in s for s in seen) > 1}

    @property
    def stages(self) -> dict[str, list[int]]:
        """Network rows of each step, by scheduler: a prior and a decoder are two stages."""
        found: dict[str, list[int]] = {}
        known = self.denoisers
        for step in self.steps:
            # One network for much noise and another for little may each be called at a single step of a probe.
            called = {call.network for call in step.calls}
            its = known & called or {call.network for call in step.calls[-1:]}
            rows = sum(call.rows for call in step.calls if call.network in its)
            found.setdefault(step.scheduler, []).append(rows)
        return found

    @property
    def calls_per_step(self) -> dict[str, float]:
        """Mean rows a step for one image, by scheduler; empty where no solver step was seen."""
        return {name: sum(rows) / len(rows) for name, rows in self.stages.items()}

    @property
    def calls(self) -> float:
        """Rows a step for one image, of all stages; 1 where no solver step was seen."""
        return sum(self.calls_per_step.values()) if self.stages else 1.0

    @property
    def guided(self) -> bool:
        """Whether a network saw more than the image itself at some step."""
        return any(max(rows) > 1 for rows in self.stages.values())

    @property
    def last(self) -> SolverStep | None:
        """The last step, of the stage that makes the image."""
        return self.steps[-1] if self.steps else None


def brief_steps(pipeline: DiffusionPipeline) -> int:
    """How few steps show what a pipeline does."""
    return MORE_STEPS if pipeline in _NEEDS_MORE else STEPS


def needs_more_steps(pipeline: DiffusionPipeline, *, really: bool) -> None:
    """Have probes of a pipeline take `MORE_STEPS`, or `STEPS` again."""
    (_NEEDS_MORE.add if really else _NEEDS_MORE.discard)(pipeline)


def networks_of(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The networks of a pipeline, by name, but for text models and autoencoders."""
    return {
        name: module
        for name, module in pipeline.components.items()
        if isinstance(module, nn.Module)
        and not isinstance(module, PreTrainedModel)
        and not hasattr(module, "decode")
    }


def schedulers_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """The solvers of a pipeline, by name; one that stands under two names counts once."""
    found: dict[int, tuple[str, Any]] = {}
    for name, part in pipeline.components.items():
        if hasattr(part, "step") and hasattr(part, "set_timesteps"):
            found.setdefault(id(part), (name, part))
    return dict(found.values())


def described_encoders(pipeline: DiffusionPipeline) -> str | None:
    """Which text encoders a pipeline has and which it was left without: `text_encoder; without text_encoder_2`."""
    found = {k: v for k, v in pipeline.components.items() if k.startswith("text_encoder")}
    present = ", ".join(sorted(k for k, v in found.items() if v is not None))
    absent = ", ".join(sorted(k for k, v in found.items() if v is None))
    parts = [present or "none", f"without {absent}"] if absent else [present]
    return "; ".join(parts) or None


def described_precision(pipeline: DiffusionPipeline) -> str | None:
    """In which numbers the weights are: `float32`, or part by part where they differ."""
    parts = {}
    for name, part in sorted(pipeline.components.items()):
        if isinstance(part, nn.Module) and any(True for _ in part.parameters()):
            kinds = sorted({str(p.dtype).removeprefix("torch.") for p in part.parameters()})
            parts[name] = "+".join(kinds)
    if len(set(parts.values())) == 1:
        return next(iter(parts.values()))
    return " ".join(f"{name}={kind}" for name, kind in parts.items()) or None


def begins_with_an_image(pipeline: DiffusionPipeline) -> str:
    """For messages: that a pipeline takes an image or a video; empty where it takes none."""
    if not IMAGES & inspect.signature(pipeline.__call__).parameters.keys():
        return ""
    return "; it begins with an image or a video: expected a text-to-image pipeline"


def observe(pipeline: DiffusionPipeline, arguments: Mapping[str, Any]) -> Observation:
    """Call a pipeline once, and watch.

    Args:
        pipeline: any.
        arguments: of the call.

    Raises:
        ConfigError: the pipeline cannot be called so; in its own words.
    """
    seen = Observation()
    own = inspect.signature(pipeline.__call__).parameters

    def refusal(error: Exception) -> ConfigError:
        return ConfigError(
            f"{type(pipeline).__name__} cannot draw with {shown_arguments(arguments)}: {said_by(error)}"
            f"{said_differences(pipeline)}{_said_absent(pipeline)}"
        )

    with (
        ForeignErrors(refusal),
        Chance(0) as chance,
        _watched(pipeline, seen),
        _heard(seen.warnings),
        torch.no_grad(),
    ):
        draw: Any = pipeline
        seen.output = draw(**{k: v for k, v in arguments.items() if k in own})
    seen.unseeded = chance.used
    return seen


def _said_absent(pipeline: DiffusionPipeline) -> str:
    """For messages: the parts that a checkpoint was saved without, though its class does not call them optional."""
    optional = pipeline._optional_components
    absent = [k for k, v in pipeline.components.items() if v is None and k not in optional]
    return f"; the checkpoint was saved without {', '.join(absent)}" if absent else ""


def image_of(seen: Observation, pipeline: DiffusionPipeline) -> Any:
    """The image of an observed call with one prompt, float (1, H, W, 3)."""
    return images_of(seen.output, type(pipeline).__name__, 1)


def shown_arguments(arguments: Mapping[str, Any]) -> str:
    """The settings of a call in words, without prompts and generators."""
    hidden = ("prompt", "generator", "output_type")
    return (
        ", ".join(f"{k}={v!r}" for k, v in arguments.items() if k not in hidden) or "its defaults"
    )


@contextmanager
def watched(pipeline: DiffusionPipeline) -> Iterator[Observation]:
    """See all that `observe` sees, of what is drawn within the block."""
    seen = Observation()
    with _watched(pipeline, seen):
        yield seen


@contextmanager
def counted(pipeline: DiffusionPipeline) -> Iterator[Observation]:
    """Count the network calls of every solver step within the block; of what they were given nothing is kept."""
    seen = Observation()
    with _watched(pipeline, seen, rows_alone=True):
        yield seen


@contextmanager
def _watched(
    pipeline: DiffusionPipeline, seen: Observation, *, rows_alone: bool = False
) -> Iterator[None]:
    calls: list[Call] = []
    watched = _counted_network if rows_alone else _watched_network
    with contextlib.ExitStack() as undo:
        for name, network in networks_of(pipeline).items():
            undo.enter_context(_attention_put_back(network))
            undo.enter_context(watched(name, network, calls))
        for name, scheduler in schedulers_of(pipeline).items():
            stepping = _stepping(name, scheduler, calls, seen, kept=not rows_alone)
            undo.enter_context(_replaced(scheduler, "step", stepping))
        for name, part in pipeline.components.items():
            if isinstance(part, PreTrainedModel) and callable(getattr(part, "generate", None)):
                undo.enter_context(_replaced(part, "generate", _noting(name, part.generate, seen)))
        yield


@contextmanager
def _attention_put_back(network: Any) -> Iterator[None]:
    """Pipelines that put in other attention for a call (perturbed attention) leave it there when the call fails."""
    own = dict(getattr(network, "attn_processors", {}))
    try:
        yield
    except BaseException:
        if own != getattr(network, "attn_processors", {}):
            network.set_attn_processor(own)
        raise


@contextmanager
def _watched_network(name: str, network: nn.Module, calls: list[Call]) -> Iterator[None]:
    signature = inspect.signature(network.forward)

    def after(_: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        try:
            arguments = named_arguments(signature, args, kwargs)
        except (
            ConfigError,
            TypeError,
        ):  # called by position through a wrapper: rows are seen all the same
            arguments = {}
        kept = convert(arguments, lambda t: t)  # a network may change the lists it is given
        calls.append(Call(network=name, arguments=kept, output=first_output(output)))

    handle = network.register_forward_hook(after, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _counted_network(name: str, network: nn.Module, calls: list[Call]) -> Iterator[None]:
    def after(_: nn.Module, args: tuple, output: Any) -> None:
        rows = [None] * (count(first_output(output)) or 1)
        calls.append(Call(network=name, arguments={}, output=rows))

    handle = network.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _replaced(owner: Any, name: str, function: Any) -> Iterator[None]:
    own = vars(owner).get(name)
    object.__setattr__(owner, name, function)
    try:
        yield
    finally:
        if own is None:
            object.__delattr__(owner, name)
        else:
            object.__setattr__(owner, name, own)


def _stepping(
    name: str, scheduler: Any, calls: list[Call], seen: Observation, *, kept: bool
) -> Any:
    step = scheduler.step
    signature = inspect.signature(step) if kept else None  # it takes longer than all counting

    def output_of(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
        if signature is None:
            return None
        given = signature.bind(*args, **kwargs).arguments
        first = next((v for v in given.values() if isinstance(v, Tensor)), None)
        return given.get("model_output", first)

    @functools.wraps(step)  # pipelines read the signature
    def stepped(*args: Any, **kwargs: Any) -> Any:
        output = output_of(args, kwargs)
        seen.steps.append(SolverStep(scheduler=name, calls=tuple(calls), model_output=output))
        calls.clear()
        return step(*args, **kwargs)

    return stepped


def _noting(name: str, generate: Any, seen: Observation) -> Any:
    @functools.wraps(generate)
    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.sampled.append(name)
        return generate(*args, **kwargs)

    return noted


@contextmanager
def _heard(warnings: list[str]) -> Iterator[None]:
    """Collect what diffusers' own code warns of while it draws, instead of printing or hiding it."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = " ".join(record.getMessage().split())
            if text not in warnings:
                warnings.append(text)

    logger = logging.getLogger("diffusers")
    level, handlers, listener = logger.level, list(logger.handlers), Listener(logging.WARNING)
    logger.handlers = [listener]
    diffusers_logging.set_verbosity_warning()
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
