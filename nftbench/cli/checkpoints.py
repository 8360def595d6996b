"""Flags about loading a checkpoint, shared by the commands that load one."""

from typing import TYPE_CHECKING, Annotated

import typer

from rewards.base import ConfigError

if TYPE_CHECKING:
    from nftbench.generation.checkpoint import Allowed

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
