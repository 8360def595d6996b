"""Flags about loading a checkpoint, shared by the commands that load one."""

from typing import TYPE_CHECKING, Annotated

import typer

from rewards.base import ConfigError

if TYPE_CHECKING:
    from nftbench.generation.checkpoint import Allowed
    from nftbench.generation.hardware import Hardware

HELP = (
    "pocket, a folder, a run, a .safetensors file or owner/name@revision:subfolder; then, as wanted, "
    "+lora=PATH@SCALE, +transformer=PATH."
)
Config = Annotated[
    str | None, typer.Option(help="Folder or hub id whose configuration a single file has.")
]
Quantize = Annotated[
    str | None, typer.Option(help="Quantise the denoiser while loading: nf4 or int8.")
]
LoraPartial = Annotated[
    bool, typer.Option("--lora-partial", help="Take a LoRA of which not every layer fits.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python that the checkpoint brings along.")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or float16; on a GPU the checkpoint's own, else float32, when left out."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the GPU where there is one.")
]
Offload = Annotated[
    str,
    typer.Option(
        help="Parts (model) or layers (sequential) are on the GPU only while they compute."
    ),
]
VaeTiling = Annotated[
    bool, typer.Option("--vae-tiling", help="Decode large images in tiles: moves pixels.")
]
VaeSlicing = Annotated[bool, typer.Option("--vae-slicing", help="Decode images one by one.")]
Attention = Annotated[
    str | None, typer.Option(help="diffusers' attention backend, such as flash or _native_cudnn.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the denoiser for the machine.")]
Tf32 = Annotated[
    bool, typer.Option("--tf32", help="Let a GPU compute float32 in TF32: moves numbers.")
]


def hardware(
    dtype: str | None,
    device: str | None,
    offload: str = "none",
    *,
    vae_tiling: bool = False,
    vae_slicing: bool = False,
    attention: str | None = None,
    compiled: bool = False,
    tf32: bool = False,
) -> "Hardware":
    """On what a checkpoint runs, and how; refused before anything is loaded.

    Raises:
        ConfigError: an unknown precision, device or way to offload.
    """
    from nftbench.generation.hardware import Hardware

    wanted = Hardware(
        dtype=dtype,
        device=device,
        offload=offload,
        vae_tiling=vae_tiling,
        vae_slicing=vae_slicing,
        attention=attention,
        compiled=compiled,
        tf32=tf32,
    )
    wanted.where()
    return wanted


def named(checkpoint: str | None, config: str | None, quantize: str | None) -> str | None:
    """The checkpoint's words with what the flags add: a run's name holds all that decides what is loaded.

    Raises:
        ConfigError: flags without a checkpoint.
    """
    added = "".join(
        f"+{kind}={value}" for kind, value in (("config", config), ("quantize", quantize)) if value
    )
    if added and checkpoint is None:
        raise ConfigError("--config and --quantize are about a checkpoint; name it")
    return None if checkpoint is None else f"{checkpoint}{added}"


def allowed(lora_partial: bool, trust_remote_code: bool) -> "Allowed":
    """What the user allows, this time."""
    from nftbench.generation.checkpoint import Allowed

    return Allowed(remote_code=trust_remote_code, partial_lora=lora_partial)
