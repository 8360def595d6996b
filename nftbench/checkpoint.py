"""Any diffusers text-to-image checkpoint, by name: packaged, a local folder or a hub id, with a LoRA if wanted."""

import hashlib
import inspect
import json
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download, model_info
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from rewards.base import ConfigError

INDEX = "model_index.json"
LORA = "+lora="


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A checkpoint made ready to sample."""

    name: str
    """As the user wrote it; packaged checkpoints by their short name."""
    digest: str
    """sha256 of the weight files (16 hexadecimal digits), or the hub's commit."""
    pipeline: DiffusionPipeline


def packaged() -> dict[str, Path]:
    """Checkpoints that ship with the project: every diffusers folder under `pocket/weights`."""
    root = Path(str(files("nftbench.pocket"))) / "weights"
    return {p.parent.name: p.parent for p in sorted(root.glob(f"*/{INDEX}"))}


def own_suite(checkpoint: str) -> str | None:
    """The suite that a checkpoint recommends for itself, in `nftbench.toml` beside its weights."""
    path = _folder(checkpoint.partition(LORA)[0]) / "nftbench.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")).get("suite") if path.is_file() else None


def _folder(base: str) -> Path:
    return packaged().get(base, Path(base))


def load_policy(checkpoint: str, *, dtype: str = "float32", device: str | None = None) -> Policy:
    """Load a checkpoint for sampling.

    Args:
        checkpoint: a packaged name, a folder in diffusers' layout or a hub id; `+lora=PATH` adds a LoRA.
        dtype: `float32`, `bfloat16` or `float16`.
        device: a torch device; the GPU when there is one.

    Raises:
        ConfigError: no such checkpoint, a folder that is none, or a pipeline that makes no images from text.
    """
    base, _, lora = checkpoint.partition(LORA)
    source = _folder(base)
    local = source.is_dir()
    index = _read_index(source) if local else _fetch_index(base)
    pipeline = _load(str(source) if local else base, index, getattr(torch, dtype))
    digest = folder_digest(source) if local else str(model_info(base).sha)
    if lora:
        digest = f"{digest}+{_add_lora(pipeline, Path(lora))}"
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Policy(name=checkpoint, digest=digest, pipeline=pipeline)


def folder_digest(folder: Path) -> str:
    """First 16 hexadecimal digits of the sha256 over names and bytes of a folder's configuration and weights."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise ConfigError(
            f"{folder} is no checkpoint: it holds no {INDEX}; expected a folder saved by a diffusers pipeline"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error}); save the pipeline again") from None


def _fetch_index(hub_id: str) -> dict[str, Any]:
    known = ", ".join(packaged())
    try:
        return json.loads(Path(hf_hub_download(hub_id, INDEX)).read_text(encoding="utf-8"))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"unknown checkpoint {hub_id!r}: not packaged ({known}), no such folder, "
            f"and not to be had from the hub ({reason})"
        ) from None


def _load(source: str, index: dict[str, Any], dtype: torch.dtype) -> DiffusionPipeline:
    # A null component (SD3 without T5) must be named, or diffusers looks for its folder.
    absent = {k: None for k, v in index.items() if isinstance(v, list) and v[:1] == [None]}
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, **absent
        )
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{source} does not load as a diffusers pipeline: {reason}") from error
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        raise ConfigError(
            f"{source} holds a {type(pipeline).__name__}, which takes no prompt; expected text-to-image"
        )
    return pipeline


def _add_lora(pipeline: DiffusionPipeline, path: Path) -> str:
    if not path.exists():
        raise ConfigError(f"no LoRA at {path}")
    if not hasattr(pipeline, "load_lora_weights"):
        raise ConfigError(f"{type(pipeline).__name__} takes no LoRA")
    try:
        pipeline.load_lora_weights(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path} is no LoRA of {type(pipeline).__name__}: {str(error).splitlines()[0]}"
        ) from None
    return folder_digest(path if path.is_dir() else path.parent)
