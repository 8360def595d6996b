"""Any text-to-image checkpoint, by name: packaged, a diffusers folder, a training run or a hub id, a LoRA if wanted."""

import difflib
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
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from rewards.base import ConfigError

INDEX = "model_index.json"
POLICY_FILE = "policy.json"
"""Note of a trained policy: which checkpoint it was trained from, and what of it was trained."""
LORA = "+lora="


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A checkpoint made ready to sample."""

    name: str
    """As the user wrote it; packaged checkpoints by their short name."""
    digest: str
    """sha256 of the weight files (16 hexadecimal digits), or the hub's commit."""
    pipeline: DiffusionPipeline


def packaged() -> dict[str, Path]:
    """Checkpoints that ship with the project: the diffusers folders and trained policies under `pocket/weights`."""
    root = Path(str(files("nftbench.pocket"))) / "weights"
    found = [p for name in (INDEX, POLICY_FILE) for p in root.glob(f"*/{name}")]
    return {p.parent.name: p.parent for p in sorted(found)}


def own_suite(checkpoint: str) -> str | None:
    """The suite that a checkpoint recommends for itself, in `nftbench.toml` beside its weights.

    Raises:
        ConfigError: neither packaged nor a folder, and no hub id either.
    """
    base = checkpoint.partition(LORA)[0]
    if not base or ("/" not in base and not _folder(base).is_dir()):
        near = difflib.get_close_matches(base, packaged(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(
            f"unknown checkpoint {base!r}{hint} Packaged: {', '.join(packaged())}; no such folder, no hub id"
        )
    path = _folder(base) / "nftbench.toml"
    if path.is_file():
        return tomllib.loads(path.read_text(encoding="utf-8")).get("suite")
    trained = _trained(_folder(base))
    return own_suite(trained.base) if trained else None


def local_folder(base: str) -> Path:
    """The folder of a packaged checkpoint or of one on this disk.

    Raises:
        ConfigError: it holds no checkpoint.
    """
    _read_index(_folder(base) / INDEX)
    return _folder(base)


def _folder(base: str) -> Path:
    return packaged().get(base, Path(base))


def load_model(
    checkpoint: str, *, dtype: str = "float32", device: str | None = None
) -> LoadedModel:
    """Load a checkpoint for sampling.

    Args:
        checkpoint: a packaged name, a folder in diffusers' layout, a training run's or a hub id; `+lora=PATH` adds a
            LoRA.
        dtype: `float32`, `bfloat16` or `float16`.
        device: a torch device; the GPU when there is one.

    Raises:
        ConfigError: no such checkpoint, a folder that is none, or a pipeline that makes no images from text.
    """
    base, wanted, lora = checkpoint.partition(LORA)
    if wanted and not lora:
        raise ConfigError(f"{checkpoint!r} names no LoRA; write its path behind {LORA}")
    trained = _trained(_folder(base))
    if trained:
        return _load_trained(checkpoint, trained, lora, dtype=dtype, device=device)
    source = _folder(base)
    if source.is_dir():
        index, digest = _read_index(source / INDEX), folder_digest(source)
        pipeline = _load(str(source), index, getattr(torch, dtype))
    else:
        path = _fetch_index(base)
        digest = path.parent.name  # the hub's cache names a snapshot by its commit
        pipeline = _load(base, _read_index(path), getattr(torch, dtype), revision=digest)
    if lora:
        digest = f"{digest}+{_add_lora(pipeline, Path(lora))}"
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return LoadedModel(name=checkpoint, digest=digest, pipeline=pipeline)


@dataclass(frozen=True, slots=True)
class _Trained:
    """What `POLICY_FILE` says, and where it lies."""

    folder: Path
    base: str
    base_digest: str
    method: str


def _trained(folder: Path) -> _Trained | None:
    path = folder / POLICY_FILE
    if not path.is_file():
        return None
    try:
        return _Trained(folder, **json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no note of a trained policy ({error}); train again") from None


def _load_trained(
    checkpoint: str, trained: _Trained, lora: str, *, dtype: str, device: str | None
) -> LoadedModel:
    if lora:
        raise ConfigError(f"{trained.folder} is a trained policy already; add no LoRA to it")
    if trained.method == "full":
        whole = load_model(str(trained.folder / "pipeline"), dtype=dtype, device=device)
        return LoadedModel(name=checkpoint, digest=whole.digest, pipeline=whole.pipeline)
    policy = load_model(
        f"{trained.base}{LORA}{trained.folder / 'lora'}", dtype=dtype, device=device
    )
    if policy.digest.rpartition("+")[0] != trained.base_digest:
        raise ConfigError(
            f"{trained.folder} was trained from {trained.base} with weights {trained.base_digest}, but "
            f"{trained.base} now holds {policy.digest.rpartition('+')[0]}; use the weights it was trained from"
        )
    return LoadedModel(name=checkpoint, digest=policy.digest, pipeline=policy.pipeline)


def folder_digest(folder: Path) -> str:
    """First 16 hexadecimal digits of the sha256 over names and bytes of a folder's configuration and weights."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _read_index(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"{path.parent} is no checkpoint: it holds no {INDEX}; expected a folder saved by a diffusers pipeline"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error}); save the pipeline again") from None
    if not isinstance(index, dict):
        raise ConfigError(
            f"{path} holds a {type(index).__name__}, not an object; save the pipeline again"
        )
    return index


def _fetch_index(hub_id: str) -> Path:
    known = ", ".join(packaged())
    try:
        return Path(hf_hub_download(hub_id, INDEX))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"unknown checkpoint {hub_id!r}: not packaged ({known}), no such folder, "
            f"and not to be had from the hub ({reason})"
        ) from None


def _load(
    source: str, index: dict[str, Any], dtype: torch.dtype, revision: str | None = None
) -> DiffusionPipeline:
    # A null component (SD3 without T5) must be named, or diffusers looks for its folder.
    absent = {k: None for k, v in index.items() if isinstance(v, list) and v[:1] == [None]}
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            source,
            dtype=dtype,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            **absent,
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
    if not any(pipeline.get_list_adapters().values()):  # diffusers passes foreign names over
        raise ConfigError(f"{path} is no LoRA of {type(pipeline).__name__}: no name in it fits")
    if path.is_dir():
        return folder_digest(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
