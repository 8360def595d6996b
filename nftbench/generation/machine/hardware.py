"""On what a model runs and how: device, precision, and what is traded for memory or speed.

What moves a number beyond rounding is said in the protocol, by `numerics`; all of it is said in the manifest.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal, get_args

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.constants import DIFFUSERS_ATTN_BACKEND
from torch import nn

from nftbench.generation.settings.probe import networks_of
from rewards.base import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "sequential"]
INEXACT = ("sage", "int8", "fp8")
"""In the name of an attention backend: it rounds queries and keys to eight bits; all others differ by rounding."""
USUAL_ATTENTION = "native"
"""Of diffusers, where nothing is chosen."""
REFUSALS = (AttributeError, ImportError, RuntimeError, ValueError, NotImplementedError, OSError)
"""What diffusers raises where a pipeline or machine cannot do what is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What is asked; the defaults change nothing."""

    dtype: str | None = None
    """None: as the checkpoint is stored on a GPU, float32 on a CPU."""
    device: str | None = None
    """A torch device; None is the GPU where there is one."""
    offload: str = "none"
    """`model` and `sequential` are diffusers' own: parts, or layers, are on the GPU only while they compute."""
    vae_tiling: bool = False
    """Large images are decoded in overlapping tiles, which moves pixels."""
    vae_slicing: bool = False
    """Images are decoded one by one."""
    attention: str | None = None
    """A backend of diffusers' `set_attention_backend`."""
    compiled: bool = False
    """The denoiser is compiled for the machine."""
    tf32: bool = False
    """Float32 products may be computed in TF32 on a GPU; convolutions too, which torch would do unasked."""

    def __post_init__(self) -> None:
        if self.dtype not in (None, *get_args(Dtype)):
            raise ConfigError(
                f"--dtype {self.dtype}: expected {', '.join(get_args(Dtype))}; leave it out for the checkpoint's own"
            )
        if self.offload not in get_args(Offload):
            raise ConfigError(f"--offload {self.offload}: expected {', '.join(get_args(Offload))}")

    def where(self) -> torch.device:
        """The device.

        Raises:
            ConfigError: there is no such device on this machine.
        """
        return usable_device(self.device, "--device")

    def precision(self) -> str | None:
        """The precision to load in; None is that of the checkpoint's files."""
        return self.dtype or ("float32" if self.where().type == "cpu" else None)

    @property
    def changed(self) -> list[str]:
        """The command line's flags of what is not as it is by itself."""
        names = {"compiled": "compile"}
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return [f"--{names.get(name, name).replace('_', '-')}" for name in given]

    @property
    def attention_used(self) -> str | None:
        """The attention backend that is chosen, here or by diffusers' environment variable; None is its usual."""
        chosen = self.attention or DIFFUSERS_ATTN_BACKEND
        return None if chosen == USUAL_ATTENTION and not self.attention else chosen


def usable_device(name: str | None, flag: str) -> torch.device:
    """A torch device by name; None is the GPU where there is one.

    Args:
        name: such as `cpu`, `cuda`, `cuda:1`, `mps`.
        flag: what named it, for the error.

    Raises:
        ConfigError: it is none, or is not on this machine.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"{flag} {name}: no such device here ({str(error).splitlines()[0][:100]}); expected cpu, or cuda, cuda:1, "
            "mps where there is one"
        ) from None
    if device.type == "meta":
        raise ConfigError(
            f"{flag} meta: nothing is computed there; expected cpu, cuda, cuda:1 or mps"
        )
    return device


def settle(pipeline: DiffusionPipeline, hardware: Hardware) -> None:
    """Bring a loaded pipeline to where it runs, the way it is asked.

    Raises:
        ConfigError: the pipeline or the machine cannot do it; says what.
    """
    device = hardware.where()
    _set_tf32(hardware.tf32)
    if hardware.offload != "none":
        _offload(pipeline, hardware.offload, device)
    else:
        pipeline.to(device)
    for flag, wanted in (("tiling", hardware.vae_tiling), ("slicing", hardware.vae_slicing)):
        if wanted:
            _decode_in_parts(pipeline, flag)
    if hardware.attention:
        _exchange_attention(pipeline, hardware.attention)
    if hardware.compiled:
        for network in denoisers(pipeline):
            network.forward = torch.compile(network.forward)


def numerics(pipeline: DiffusionPipeline, hardware: Hardware) -> str | None:
    """What moves numbers beyond rounding, for the protocol: `tf32`, `vae tiling`, `attention sage`; None: nothing."""
    said = []
    floats = any(p.dtype == torch.float32 for p in _parameters(pipeline))
    if hardware.tf32 and floats and hardware.where().type == "cuda":
        said.append("tf32")
    if hardware.vae_tiling:
        said.append("vae tiling")
    attention = hardware.attention_used
    if attention and any(mark in attention for mark in INEXACT):
        said.append(f"attention {attention}")
    return ", ".join(said) or None


def described(hardware: Hardware) -> dict[str, Any]:
    """For the manifest: all of it, with the device as it was found."""
    device = hardware.where()
    found = {"device": str(device), "device_name": device_name(device)}
    return asdict(hardware) | found | {"attention": hardware.attention_used}


def device_name(device: torch.device) -> str:
    """A GPU's own name, or what kind of device it is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def dtype_of(pipeline: DiffusionPipeline) -> str:
    """The precision that a pipeline's denoisers compute in: that of most of their floating-point tensors."""
    kinds = [
        str(p.dtype).removeprefix("torch.") for n in denoisers(pipeline) for p in n.parameters()
    ]
    counted = {kind: kinds.count(kind) for kind in get_args(Dtype)}
    return max(counted, key=lambda kind: counted[kind])


def denoisers(pipeline: DiffusionPipeline) -> list[nn.Module]:
    """The networks that denoise: all but text models and autoencoders."""
    return list(networks_of(pipeline).values())


def _parameters(pipeline: DiffusionPipeline) -> Iterator[nn.Parameter]:
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            yield from part.parameters()


def _set_tf32(wanted: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = wanted
    torch.backends.cudnn.allow_tf32 = wanted


def _offload(pipeline: DiffusionPipeline, how: str, device: torch.device) -> None:
    if device.type == "cpu":
        raise ConfigError(
            f"--offload {how} keeps a model out of a GPU's memory; there is no GPU here"
        )
    if device.type == "cuda" and device.index is None:
        # Of "cuda" diffusers makes the first GPU; of several processes each has its own.
        device = torch.device("cuda", torch.cuda.current_device())
    enable = {
        "model": pipeline.enable_model_cpu_offload,
        "sequential": pipeline.enable_sequential_cpu_offload,
    }[how]
    _attempt(f"--offload {how}", pipeline, lambda: enable(device=device))


def _decode_in_parts(pipeline: DiffusionPipeline, what: str) -> None:
    decoders = [
        getattr(part, f"enable_{what}")
        for part in pipeline.components.values()
        if isinstance(part, nn.Module) and hasattr(part, f"enable_{what}")
    ]
    if not decoders:
        raise ConfigError(
            f"--vae-{what}: no part of {type(pipeline).__name__} can decode so; leave it out"
        )
    for enable in decoders:
        _attempt(f"--vae-{what}", pipeline, enable)


def _exchange_attention(pipeline: DiffusionPipeline, backend: str) -> None:
    networks = [n for n in denoisers(pipeline) if hasattr(n, "set_attention_backend")]
    changed = [
        module
        for network in networks
        for module in network.modules()
        if hasattr(getattr(module, "processor", None), "_attention_backend")
    ]
    if not changed:
        raise ConfigError(
            f"--attention {backend}: the attention of {type(pipeline).__name__} cannot be exchanged; leave it out"
        )
    for network in networks:
        exchange: Any = network.set_attention_backend
        _attempt(f"--attention {backend}", pipeline, partial(exchange, backend))


def _attempt(flag: str, pipeline: DiffusionPipeline, change: Callable[[], object]) -> None:
    try:
        change()
    except REFUSALS as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{flag} cannot be had for {type(pipeline).__name__} here: {said}"
        ) from None
