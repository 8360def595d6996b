"""The words for a checkpoint, taken apart: BASE[+PART=SOURCE]...

    pocket                                          packaged
    ./folder                                        saved by a diffusers pipeline, or a training run
    owner/name@revision:subfolder                   on the hub; revision and subfolder as wanted
    model.safetensors+config=owner/name             one file with all weights, and whose configuration it has
    ./base+transformer=./finetuned                  a part saved on its own
    ./base+quantize=nf4                             weights of the denoiser quantised while loading
    ./base+variant=fp16                             of several sets of weights, this one
    ./base+lora=./a@0.5+lora=owner/name@main:sub    LoRAs, with a scale where it is not 1; a packaged one by its name

All that decides what is loaded stands in this one string, so a run that writes it down can be made again.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from rewards.base import ConfigError

INDEX = "model_index.json"
"""What a saved pipeline's folder says of its parts."""
LORA, CONFIG, QUANTIZE, VARIANT = "lora", "config", "quantize", "variant"
WORDS = (QUANTIZE, VARIANT)
"""Parts whose value is a word; the others name a place."""
SINGLE = (CONFIG, QUANTIZE, VARIANT)
_PART = re.compile(r"\+([a-z][a-z0-9_]*)=")
_SCALE = re.compile(r"(.+)@([+-]?(?:\d{1,10}|\d{0,4}\.\d{1,20})(?:[eE][+-]?\d)?)")
_HUB = re.compile(
    r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[^@:]+))?(?::(?P<subfolder>[^:]+))?", re.ASCII
)


def scale_text(scale: float) -> str:
    """How a LoRA's scale is written behind it, all digits of it, for two scales are two models; 1 is not written."""
    return f"@{scale:.15g}" if scale != 1 else ""


@dataclass(frozen=True, slots=True)
class Part:
    """One `+kind=source`."""

    kind: str
    source: str
    scale: float = 1.0
    """Of a LoRA."""

    def __str__(self) -> str:
        return f"+{self.kind}={self.source}{scale_text(self.scale)}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A checkpoint's words, taken apart."""

    base: str
    parts: tuple[Part, ...] = ()

    def __str__(self) -> str:
        return self.base + "".join(map(str, self.parts))

    def all(self, kind: str) -> list[Part]:
        """The parts of a kind, in their order."""
        return [part for part in self.parts if part.kind == kind]

    def one(self, kind: str) -> str | None:
        """The source of a part that there is at most one of."""
        return next((part.source for part in self.parts if part.kind == kind), None)

    @property
    def components(self) -> dict[str, str]:
        """Parts of the pipeline that come from elsewhere, by name."""
        return {p.kind: p.source for p in self.parts if p.kind not in (LORA, *SINGLE)}

    def seen_from(self, folder: Path) -> "Reference":
        """The same with every local path relative to a folder: what is written into that folder."""
        return self._moved(lambda text: _relative(text, folder))

    def found_from(self, folder: Path) -> "Reference":
        """The same with every path that was written relative to a folder as it is from here."""
        return self._moved(lambda text: _found(text, folder))

    def _moved(self, move) -> "Reference":
        parts = [p if p.kind in WORDS else replace(p, source=move(p.source)) for p in self.parts]
        return Reference(move(self.base), tuple(parts))


@dataclass(frozen=True, slots=True)
class HubPlace:
    """Where on the hub."""

    id: str
    revision: str | None = None
    subfolder: str | None = None
    """Or a file."""


def parse(checkpoint: str) -> Reference:
    """Take a checkpoint's words apart.

    Raises:
        ConfigError: a part without a value, one that is named twice, or a scale that is not a number.
    """
    if Path(checkpoint).exists():  # a path may hold any sign
        return Reference(checkpoint)
    base, *rest = _PART.split(checkpoint)
    parts = [
        _part(checkpoint, kind, text) for kind, text in zip(rest[::2], rest[1::2], strict=True)
    ]
    twice = [p.kind for i, p in enumerate(parts) if p.kind in {q.kind for q in parts[:i]} - {LORA}]
    if twice:
        raise ConfigError(f"{checkpoint!r} names +{twice[0]}= twice; leave one of them out")
    return Reference(base, tuple(parts))


def _part(checkpoint: str, kind: str, text: str) -> Part:
    if not text:
        what = "LoRA" if kind == LORA else kind
        raise ConfigError(f"{checkpoint!r} names no {what}; write it behind +{kind}=")
    scaled = _SCALE.fullmatch(text)
    if kind == LORA and scaled and not Path(text).exists() and not _is_revision(*scaled.groups()):
        return Part(kind, scaled[1], float(scaled[2]))
    return Part(kind, text)


def _is_revision(source: str, number: str) -> bool:
    """Whether a number behind a hub id is a branch such as `2024`: nobody takes a LoRA a hundred times."""
    place = None if Path(source).exists() else hub_place(source)
    branch = len(number) > 2 and number.isdecimal()
    return branch and place is not None and place.revision is None and place.subfolder is None


def hub_place(source: str) -> HubPlace | None:
    """`owner/name@revision:subfolder`, taken apart; None where it is not of that form."""
    found = _HUB.fullmatch(source)
    if not found or ".." in re.split("[/:@]", source):
        return None
    inside = "/".join(n for n in (found["subfolder"] or "").split("/") if n not in ("", "."))
    return HubPlace(found["id"], found["revision"], inside or None)


def _relative(text: str, folder: Path) -> str:
    """A local path as seen from a folder, marked by its leading dots; anything else as it is."""
    if not text or not Path(text).exists():
        return text
    if Path(text).is_absolute():
        return str(Path(text))
    seen = Path(os.path.relpath(Path(text).resolve(), folder.resolve())).as_posix()
    return seen if seen.startswith("..") else f"./{seen}"


def _found(text: str, folder: Path) -> str:
    if text.startswith(("./", "../")) and (folder / text).exists():
        return os.path.normpath(folder / text)
    return text
