"""What a run is: written before its first image, checked whenever the folder is used, of the right types or refused."""

import datetime
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from nftbench.benchmark.faults import in_words
from nftbench.parsing import parse_json
from nftbench.runs.io import TEMPORARY
from nftbench.runs.lock import LOCK
from rewards.base import ConfigError, RewardInfo

MANIFEST = "manifest.json"
CHECK = "check"
"""Last entry of it."""
TRAINING = ("recipe.json", "metrics.jsonl")
"""Files that a training run's folder holds."""
Kind = Literal["eval", "train", "other", ""]
INFO = TypeAdapter(RewardInfo)
"""Made once: it takes longer than all else that is checked of a manifest."""


class Checkpoint(BaseModel):
    """Whose images they are."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    digest: str
    """Over all weight files that are loaded."""
    pipeline: str = ""


class Manifest(BaseModel):
    """`manifest.json` of an evaluation; further entries are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)

    kind: Literal["eval"] = "eval"
    checkpoint: Checkpoint
    batch_size: int = Field(ge=1)
    protocols: dict[str, dict[str, Any]]
    rewards: dict[str, dict[str, dict[str, Any]]]
    versions: dict[str, str]
    samples: dict[str, str] = {}
    """Benchmark -> sha256 of its sample table, once it is scored."""
    date: str = ""
    """ISO day on which the first image was made; rows bear it."""

    @field_validator("protocols", "rewards")
    @classmethod
    def _inside(cls, named: dict[str, Any]) -> dict[str, Any]:
        """Each name is a folder of the run, and never one outside it."""
        for name in named:
            if not name or name.startswith(".") or set(name) & set("/\\\0"):
                raise ValueError(f"expected names of folders in the run, got {name!r}")
        return named

    @field_validator("date")
    @classmethod
    def _day(cls, text: str) -> str:
        if text:
            datetime.date.fromisoformat(text)
        return text


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is written: `CHECK` tells one that was damaged since."""
    whole = dict(manifest) | {CHECK: _check(manifest)}
    return f"{json.dumps(whole, indent=2, ensure_ascii=False)}\n".encode()


def _check(manifest: Mapping[str, Any]) -> str:
    """CRC-32 of all entries but `CHECK`, in hexadecimal."""
    text = json.dumps({k: v for k, v in manifest.items() if k != CHECK}, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def read_manifest(path: Path) -> dict[str, Any]:
    """What a run says of itself, every entry that the engine reads of the right type.

    Raises:
        ConfigError: not JSON, an entry missing or of a wrong type; one line with the field and what it holds.
    """
    try:
        manifest = parse_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not JSON ({error}); restore it, or make the run again in another folder"
        ) from None
    if isinstance(manifest, dict) and manifest.pop(CHECK, None) not in (None, _check(manifest)):
        raise ConfigError(
            f"{path} was changed since nftbench wrote it; restore it, or make the run again in another folder"
        )
    try:
        Manifest.model_validate(manifest)
        _check_rewards(manifest["rewards"])
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not a manifest of this version of nftbench: {in_words(error)[:300]}; make the run "
            "again in another folder"
        ) from None
    return manifest


def _check_rewards(rewards: Mapping[str, Mapping[str, Any]]) -> None:
    for known in rewards.values():
        for key, info in known.items():
            if INFO.validate_python(info).key != key:
                raise ConfigError(f"not a valid run: its manifest lists {key!r} under another name")


def kind_of(folder: Path) -> Kind:
    """What a folder holds: an evaluation, a training, other files, or nothing yet (locks and leftovers aside)."""
    if (folder / MANIFEST).is_file():
        return "eval"
    if any((folder / name).exists() for name in TRAINING):
        return "train"
    return "other" if strangers(folder) else ""


def strangers(folder: Path) -> list[str]:
    """Names of what lies in a folder, locks and leftovers of killed processes aside."""
    if not folder.is_dir():
        return []
    names = sorted(p.name for p in folder.iterdir())
    return [n for n in names if not n.startswith(LOCK) and not TEMPORARY.fullmatch(n)]


def refuse_other_kind(folder: Path, kind: Literal["eval", "train"]) -> None:
    """Refuse to begin or resume a run in a folder that is neither new nor a run of this kind.

    Raises:
        ConfigError: says what the folder holds.
    """
    found = kind_of(folder)
    if found in ("", kind):
        return
    holds = {
        "eval": "an evaluation",
        "train": "a training",
        "other": f"other files ({', '.join(strangers(folder)[:3])}) and no {MANIFEST}",
    }[found]
    raise ConfigError(f"{folder} is not a new folder: it holds {holds}; choose another --out")
