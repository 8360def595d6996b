"""Weights that a file holds and no network takes: the libraries leave them out, and go on.

A network of fewer layers than the file was saved from draws other images, and 8-bit weights without their scales draw
noise.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from rewards.base import ConfigError

MARKERS = ("v_pred", "ztsnr", "scaled_fp8")
"""Empty tensors by which the programs that write single files say what the network predicts, and how it was stored."""
SINGLE_FILES = logging.getLogger("diffusers.loaders.single_file_model")
"""Warns of what a network in one file had no place for; its loader gives no report."""
_WARNING = re.compile(
    r"not used when initializing (?P<kind>\w+): \s*\[['\"](?P<names>.*)['\"]\]", re.S
)
_SMALL = ("F8_", "I8", "U8", "F4", "F6_")
"""Beginnings of safetensors' names of 8 bits and fewer."""


def left_out(network: nn.Module, source: str, names: Sequence[str]) -> list[str]:
    """What is said of weights that a network was loaded without; nothing where it makes them itself.

    Args:
        network: as it was loaded.
        source: where from.
        names: of the weights, as the file has them.

    Raises:
        ConfigError: some stand beside the weight of a layer, which they scale or shift.
    """
    own = tuple(name for name, _ in network.named_buffers())
    lost = sorted(n for n in names if not (own and n.endswith(own)))
    layers = {
        name
        for name, module in network.named_modules()
        if hasattr(module, "weight") and not any(module.children())
    }
    beside = next((n for n in lost if _layer(n) in layers and not n.endswith(".bias")), None)
    if beside:
        raise _scaled(source, beside)
    return _said(type(network).__name__, source, lost)


def _layer(name: str) -> str:
    """The layer that a tensor is of: `X` of `X.scale_weight` and of `X.weight.absmax`."""
    return name.rpartition(".")[0].removesuffix(".weight")


def _said(kind: str, source: str, names: Sequence[str]) -> list[str]:
    lost = [n for n in names if n.rpartition(".")[2] not in MARKERS]
    if not lost:
        return []
    return [
        f"{source} holds {len(lost)} weights that its {kind}, as configured, has no place for, such as {lost[0]}: "
        "drawn without them"
    ]


def _scaled(source: str, name: str) -> ConfigError:
    return ConfigError(
        f"{source} holds layers with more than their weights ({name}), such as scales of weights in 8 bits, which "
        "would be left out; expected weights of 16 or 32 bits: fetch those, and pass +quantize= for fewer bits"
    )


def refuse_scales(path: Path) -> None:
    """Refuse a file of 8-bit weights with scales beside them: conversions drop names that they do not know.

    Args:
        path: of one network or of a whole pipeline; what is not safetensors, or damaged, is left to the loader.

    Raises:
        ConfigError: with the first scale.
    """
    try:
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
            weights = {n for n in names if n.endswith(".weight")}
            small = {
                n.removesuffix(".weight")
                for n in weights
                if file.get_slice(n).get_dtype().startswith(_SMALL)
            }
    except (OSError, SafetensorError):
        return
    known = (*weights, *(f"{layer}.bias" for layer in small))
    beside = next((n for n in names if _layer(n) in small and n not in known), None)
    if beside:
        raise _scaled(str(path), beside)


@contextmanager
def single_files_heard(notes: list[str]) -> Iterator[None]:
    """Within the block, note what diffusers warns of networks from one file, in place of printing or hiding it."""
    before, level = SINGLE_FILES.getEffectiveLevel(), SINGLE_FILES.level

    def hear(record: logging.LogRecord) -> bool:
        if found := _WARNING.search(record.getMessage()):
            notes.extend(_said(found["kind"], "the one file", sorted(found["names"].split(", "))))
        return not found and record.levelno >= before

    SINGLE_FILES.addFilter(hear)
    SINGLE_FILES.setLevel(min(before, logging.WARNING))
    try:
        yield
    finally:
        SINGLE_FILES.setLevel(level)
        SINGLE_FILES.removeFilter(hear)
