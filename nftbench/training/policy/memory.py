"""How much memory training takes, counted on a network without numbers; and what `auto` in a recipe comes to.

The network is built again from its configuration with tensors that have a shape and no numbers, and an update is run
through it: nothing is computed, and no memory is taken for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.foreign import ForeignErrors, said_by
from nftbench.generation.machine.hardware import dtype_of
from nftbench.generation.machine.memory import (
    GB,
    DrawingMemory,
    LiveBytes,
    bytes_of,
    drawing_memory,
)
from nftbench.generation.recorder.call_arguments import convert, flat
from nftbench.generation.recorder.trace import denoiser_of, first_output
from nftbench.generation.sampling import Sample, call_arguments
from nftbench.generation.settings.effective import PROBE, Effective, learn_settings
from nftbench.generation.settings.probe import Call, observe
from nftbench.training.config.recipe import AUTO, PolicyConfig
from nftbench.training.policy.precision import HALVES
from nftbench.training.policy.trained import add_lora, recompute
from rewards.base import ConfigError, Prompt

SETS = 7
"""Float32 numbers of a trained parameter: theta, old, reference, average, gradient, and two of AdamW."""
SHARE = 0.9
"""Of the memory that is free: more is never counted on."""
PLAIN = (SDPBackend.MATH,)
"""Attention as `policy.trained.mixed` has it on a CPU."""
FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateMemory:
    """Bytes of an update beyond the pipeline's own weights."""

    kept: int
    """The sets of the trained weights, their gradient, and what the optimiser remembers."""
    folded: int
    """One copy of the layers that a LoRA is folded into."""
    copies: int
    """Of those, how many an update holds."""
    first: int
    """What passes forward and back hold at the worst moment, for one image."""
    further: int
    """More for each image in the same pass."""

    def peak(self, images: int) -> int:
        """At the worst moment of an update, for so many images in one pass."""
        passes = self.first + (images - 1) * self.further
        return self.kept + self.copies * self.folded + passes

    def with_rollout(self, images: int, drawing: DrawingMemory) -> int:
        """At the worst moment of an iteration: of its rollout, which draws so many at once, or of its update."""
        rollout = self.kept + self.folded + drawing.first + (images - 1) * drawing.further
        return max(rollout, self.peak(images))


def update_memory(
    pipeline: DiffusionPipeline,
    settings: Effective,
    config: PolicyConfig,
    dtype: str | None = None,
) -> UpdateMemory:
    """Count what an update of a policy would hold.

    Args:
        pipeline: any that can be trained; it draws one image and two, in two steps.
        settings: learned for it, without guidance.
        config: what of it is trained; `auto` counts as off.
        dtype: of the frozen weights; None is as they are.

    Raises:
        ConfigError: its network cannot be run without numbers; in its own words.
    """
    component, denoiser = denoiser_of(pipeline)
    kind = getattr(torch, dtype or dtype_of(pipeline))
    found = []
    for images in (1, 2):
        call = network_call(pipeline, component, settings, images)
        with ForeignErrors(
            lambda error: ConfigError(
                f"{type(denoiser).__name__} cannot be counted: {said_by(error)}"
            )
        ):
            found.append(_counted(denoiser, call, config, kind))
    one, two = found
    return replace(one, further=max(0, two.first - one.first))


def network_call(
    pipeline: DiffusionPipeline, component: str, settings: Effective, images: int
) -> Call:
    """The first call of a network while so many images are drawn."""
    batch = [Sample(Prompt(id="memory", text=PROBE), i) for i in range(images)]
    arguments = call_arguments(pipeline, batch, settings.at(num_inference_steps=2))
    seen = observe(pipeline, {**arguments, "output_type": "latent"})
    return next(c for step in seen.steps for c in step.calls if c.network == component)


def _counted(denoiser: Any, call: Call, config: PolicyConfig, dtype: torch.dtype) -> UpdateMemory:
    """An update on one call: forward with gradient, forward without, and back."""
    plain = next(denoiser.parameters()).device.type == "cpu"
    network = _without_numbers(denoiser, config, dtype)
    with FakeTensorMode(allow_non_fake_inputs=True) as shapes:
        _on_cpu(network)
        arguments = convert(call.arguments, lambda t: _placed(t, shapes, dtype))
        trained = [p for p in network.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)  # as in every batch but the first
        gradients = [p.grad for p in trained if p.grad is not None]
        weights = [*network.parameters(), *network.buffers(), *gradients]
        with (
            sdpa_kernel([*(PLAIN if plain else FUSED)]),
            torch.autocast("cpu", HALVES.get(config.precision), config.precision in HALVES),
            LiveBytes(weights) as counted,
        ):
            loss = _numbers(network(**arguments)).square().mean()
            with torch.no_grad():
                _numbers(network(**arguments))
            loss.backward()
    numbers = sum(p.numel() for p in trained)
    layers = [
        m.get_base_layer().get_parameter("weight")
        for m in network.modules()
        if isinstance(m, LoraLayer)
    ]
    full = bytes_of([denoiser]) if config.method == "full" else 0  # theta takes its place
    return UpdateMemory(
        kept=numbers * 4 * SETS - full,
        folded=sum(layer.nbytes for layer in layers),
        copies=4 if config.folded else 0,  # theta, old, reference, and theta's gradient
        first=counted.most,
        further=0,
    )


def _placed(tensor: torch.Tensor, shapes: FakeTensorMode, dtype: torch.dtype) -> torch.Tensor:
    """An argument of the network's call, without its numbers, in the precision that is counted."""
    made = shapes.from_tensor(tensor.detach().cpu())
    return made.to(dtype) if made.is_floating_point() else made


def _numbers(output: Any) -> Tensor:
    """What a network predicts, float32 (N, n), be it a tensor or a list with one an image."""
    rows = flat(first_output(output))
    if rows is None:
        raise ValueError("it does not return one row of equal length an image")
    return rows.float()


def _without_numbers(denoiser: Any, config: PolicyConfig, dtype: torch.dtype) -> Any:
    """The network on the device `meta`, with what the policy trains made trainable, in float32."""
    with torch.device("meta"):
        network = type(denoiser).from_config(denoiser.config).to(dtype).requires_grad_(False)
        if config.method == "full":
            network.float().requires_grad_(True)
        else:
            add_lora(network, config)
    if config.gradient_checkpointing is True:
        recompute(network)
    return network


def _on_cpu(network: nn.Module) -> None:
    """Give a network of the device `meta` tensors that have the shapes of real ones on a CPU, and no numbers."""
    for module in network.modules():
        for name, old in module._parameters.items():
            if old is not None:
                shape = torch.empty(old.shape, dtype=old.dtype, device="cpu")
                module._parameters[name] = nn.Parameter(shape, requires_grad=old.requires_grad)
        for name, old in module._buffers.items():
            if old is not None:
                module._buffers[name] = torch.zeros(old.shape, dtype=old.dtype, device="cpu")


# --- for `inspect` ----------------------------------------------------------------------------------------------------


def training_memory(
    pipeline: DiffusionPipeline, parameters: SamplingParameters, images: int
) -> dict[str, float]:
    """GB that training a LoRA takes with the recipe's own settings, without and with gradient checkpointing.

    Args:
        pipeline: any.
        parameters: size and text length.
        images: drawn at once, and in one pass of an update.

    Raises:
        ConfigError: it cannot be trained, or its network cannot be counted.
    """
    unguided = {"guidance": None, "guidance_scale": 1.0}
    settings = learn_settings(pipeline, parameters.model_copy(update=unguided))
    drawing, found = drawing_memory(pipeline, settings), {}
    for checkpointing, name in ((False, "train"), (True, "train, gradient checkpointing")):
        config = PolicyConfig(gradient_checkpointing=checkpointing)
        update = update_memory(pipeline, settings, config)
        whole = drawing.weights + update.with_rollout(images, drawing)
        found[name] = round(whole / GB, 4)
    return found


# --- for a recipe that says `auto` -----------------------------------------------------------------------------------


def chosen_by_memory(
    pipeline: DiffusionPipeline,
    settings: Effective,
    config: PolicyConfig,
    images: int,
    free: int,
    say: Callable[[str], None],
) -> PolicyConfig:
    """The policy with `auto` decided: the first of `_choices` whose update fits into the memory that is free.

    Args:
        pipeline: loaded in the precision to begin with, and on its device.
        settings: learned for it, without guidance.
        config: the recipe's.
        images: in one pass of an update.
        free: bytes.
        say: told what was chosen, and why.
    """
    parts = [p for p in pipeline.components.values() if isinstance(p, nn.Module)]
    weights, own = bytes_of(parts), getattr(torch, dtype_of(pipeline)).itemsize
    for one in _choices(config, dtype_of(pipeline)):
        try:
            update = update_memory(pipeline, settings, one, one.dtype).peak(images)
        except ConfigError as error:
            one = config.model_copy(update=_settled(config, dtype_of(pipeline), True))
            say(f"{_words(config, one)}: {error}")
            return one
        needed = update - weights + weights * getattr(torch, one.dtype).itemsize // own
        if needed <= SHARE * free:
            break
    short = (
        "" if needed <= SHARE * free else ", which may not do: take a smaller rollout.batch_size"
    )
    say(
        f"{_words(config, one)}: an update of {images} images takes about {needed / GB:.2f} GB more than the "
        f"checkpoint, of {free / GB:.2f} GB that are free on {pipeline.device}{short}"
    )
    return one


def _choices(config: PolicyConfig, own: str) -> Iterator[PolicyConfig]:
    """What `auto` may come to, the fastest and most exact first."""
    halved = ["bfloat16"] if config.dtype == AUTO and own == "float32" else []
    for dtype in (own, *halved):
        checkpointing = config.gradient_checkpointing
        for on in (False, True) if checkpointing == AUTO else (checkpointing,):
            yield config.model_copy(update=_settled(config, dtype, on))


def _settled(config: PolicyConfig, dtype: str, checkpointing: Any) -> dict[str, Any]:
    given = config.gradient_checkpointing
    return {
        "dtype": dtype if config.dtype == AUTO else config.dtype,
        "gradient_checkpointing": checkpointing if given == AUTO else given,
    }


def _words(config: PolicyConfig, chosen: PolicyConfig) -> str:
    """What was left to the memory, and what it came to."""
    names = [n for n in ("dtype", "gradient_checkpointing") if getattr(config, n) == AUTO]
    return ", ".join(f"policy.{name} = {getattr(chosen, name)}".lower() for name in names)
