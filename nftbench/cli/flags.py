"""Flags that several commands share: declared once, as dataclasses that a command takes as one parameter."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from rewards.base import ConfigError

if TYPE_CHECKING:
    from nftbench.generation.checkpoint import Allowed
    from nftbench.generation.machine.hardware import Hardware

CHECKPOINT = (
    "pocket, a folder, a run, a .safetensors file or owner/name@revision:subfolder; then, as wanted, "
    "+lora=PATH@SCALE, +transformer=PATH; for eval also an image service, api:URL#MODEL."
)


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose parameters of dataclass types are flags of their own, a field a flag, in the place they have.

    Args:
        command: a function as typer takes it; a dataclass parameter has no default.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {
        name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)
    }
    flags: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            flags += _parameters(groups[parameter.name])
        else:
            flags.append(parameter.replace(annotation=hints[parameter.name]))

    @wraps(command)
    def run(**given: Any) -> Any:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return command(**given)

    keyword = [flag.replace(kind=inspect.Parameter.KEYWORD_ONLY) for flag in flags]
    run.__signature__ = inspect.Signature(keyword)  # pyright: ignore[reportAttributeAccessIssue] (of inspect)
    run.__annotations__ = {flag.name: flag.annotation for flag in keyword}
    return run


def _parameters(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]


@dataclass(frozen=True)
class Loading:
    """How a checkpoint is loaded."""

    config: Annotated[
        str | None, typer.Option(help="Folder or hub id whose configuration a single file has.")
    ] = None
    quantize: Annotated[
        str | None, typer.Option(help="Quantise the denoiser while loading: nf4 or int8.")
    ] = None
    lora_partial: Annotated[
        bool, typer.Option("--lora-partial", help="Take a LoRA of which not every layer fits.")
    ] = False
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python that the checkpoint brings along."),
    ] = False

    def named(self, checkpoint: str) -> str:
        """The checkpoint's words with what the flags add: a run's name holds all that decides what is loaded.

        Raises:
            ConfigError: flags about weights, for an image service.
        """
        added = (("config", self.config), ("quantize", self.quantize))
        given = [f"--{kind}" for kind, value in added if value]
        if given and checkpoint.startswith("api:"):
            raise ConfigError(
                f"{checkpoint} is an image service: {', '.join(given)} is about a model on this machine; leave out"
            )
        return checkpoint + "".join(f"+{kind}={value}" for kind, value in added if value)

    def named_if_any(self, checkpoint: str | None) -> str | None:
        """As `named`; None of None.

        Raises:
            ConfigError: flags without a checkpoint.
        """
        if checkpoint is not None:
            return self.named(checkpoint)
        if self.config or self.quantize:
            raise ConfigError("--config and --quantize are about a checkpoint; name it")
        return None

    @property
    def allowed(self) -> "Allowed":
        """What the user allows, this time."""
        from nftbench.generation.checkpoint import Allowed

        return Allowed(remote_code=self.trust_remote_code, partial_lora=self.lora_partial)


@dataclass(frozen=True)
class Machine:
    """On what a checkpoint runs."""

    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16; on a GPU the checkpoint's own, else float32, when left out."
        ),
    ] = None
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the GPU where there is one.")
    ] = None

    def hardware(self) -> "Hardware":
        """On what a checkpoint runs, and how; refused before anything is loaded.

        Raises:
            ConfigError: an unknown precision, device or way to offload.
        """
        from nftbench.generation.machine.hardware import Hardware

        wanted = Hardware(**asdict(self))
        wanted.where()
        return wanted


@dataclass(frozen=True)
class FullMachine(Machine):
    """The same, and what is traded for memory or speed."""

    offload: Annotated[
        str,
        typer.Option(
            help="Parts (model) or layers (sequential) are on the GPU only while they compute."
        ),
    ] = "none"
    vae_tiling: Annotated[
        bool, typer.Option("--vae-tiling", help="Decode large images in tiles: moves pixels.")
    ] = False
    vae_slicing: Annotated[
        bool, typer.Option("--vae-slicing", help="Decode images one by one.")
    ] = False
    attention: Annotated[
        str | None,
        typer.Option(help="diffusers' attention backend, such as flash or _native_cudnn."),
    ] = None
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser for the machine.")
    ] = False
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let a GPU compute float32 in TF32: moves numbers.")
    ] = False
