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

from nftbench.generation.trace import denoiser_of
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
        ConfigError: neither packaged, nor a folder, nor a hub id.
    """
    base = checkpoint.partition(LORA)[0]
    if not base or ("/" not in base and not _folder(base).is_dir()):
        near = difflib.get_close_matches(base, packaged(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(
            f"unknown checkpoint {base!r}{hint} Expected a packaged one ({', '.join(packaged())}), an existing folder, "
            "or a hub id such as owner/name"
        )
    path = _folder(base) / "nftbench.toml"
    if path.is_file():
        return tomllib.loads(path.read_text(encoding="utf-8")).get("suite")
    trained = trained_folder(base)
    return own_suite(trained.base) if trained else None


def local_folder(base: str) -> Path:
    """The folder of a packaged checkpoint or of one on this disk.

    Raises:
        ConfigError: it does not hold a checkpoint.
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
        ConfigError: no such checkpoint, a folder that holds none, or a pipeline that makes no images from text.
    """
    pipeline, digest = _load_any(checkpoint, dtype)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return LoadedModel(name=checkpoint, digest=digest, pipeline=pipeline)


@dataclass(frozen=True, slots=True)
class TrainedFolder:
    """What a training leaves as a checkpoint: `POLICY_FILE`, and beside it `lora/` or `pipeline/`."""

    folder: Path
    base: str
    """The checkpoint that was trained, as the user wrote it."""
    base_digest: str
    method: str
    """`lora`, or `full` where every weight of the network was trained."""


def trained_folder(checkpoint: str) -> TrainedFolder | None:
    """Read what a trained policy's folder says of itself.

    Args:
        checkpoint: a packaged name or a folder.

    Returns:
        None where the checkpoint is not a trained policy.

    Raises:
        ConfigError: its `POLICY_FILE` cannot be read.
    """
    path = _folder(checkpoint) / POLICY_FILE
    if not path.is_file():
        return None
    try:
        return TrainedFolder(path.parent, **json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} does not describe a trained policy: expected base, base_digest and method ({error}); "
            "train it again"
        ) from None


def _load_any(checkpoint: str, dtype: str) -> tuple[DiffusionPipeline, str]:
    """The pipeline of a checkpoint string, and its digest."""
    base, wanted, lora = checkpoint.partition(LORA)
    if wanted and not lora:
        raise ConfigError(f"{checkpoint!r} names no LoRA; write its path behind {LORA}")
    trained = trained_folder(base)
    if trained and lora:
        raise ConfigError(f"{trained.folder} is a trained policy already; add no LoRA to it")
    if trained:
        return _load_trained(trained, dtype)
    pipeline, digest = _load_base(base, dtype)
    return (pipeline, f"{digest}+{_add_lora(pipeline, Path(lora))}") if lora else (pipeline, digest)


def _load_base(base: str, dtype: str) -> tuple[DiffusionPipeline, str]:
    source = _folder(base)
    if source.is_dir():
        index, digest = _read_index(source / INDEX), folder_digest(source)
        return _load(str(source), index, getattr(torch, dtype)), digest
    path = _fetch_index(base)
    commit = path.parent.name  # the hub's cache names a snapshot by its commit
    return _load(base, _read_index(path), getattr(torch, dtype), revision=commit), commit


def _load_trained(trained: TrainedFolder, dtype: str) -> tuple[DiffusionPipeline, str]:
    if trained.method == "full":
        return _load_base(str(trained.folder / "pipeline"), dtype)
    pipeline, digest = _load_any(trained.base, dtype)
    if digest != trained.base_digest:
        raise ConfigError(
            f"{trained.folder} was trained from {trained.base} with weights {trained.base_digest}, but "
            f"{trained.base} now holds {digest}; use the weights it was trained from"
        )
    if digest.count("+"):  # a LoRA of the base was merged before training began
        pipeline.fuse_lora(components=[denoiser_of(pipeline)[0]])
        pipeline.unload_lora_weights()
    return pipeline, f"{digest}+{_add_lora(pipeline, trained.folder / 'lora')}"


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
            f"not a valid checkpoint: {path.parent} holds no {INDEX}; expected a folder saved by a diffusers pipeline"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); save the pipeline again") from None
    if not isinstance(index, dict):
        raise ConfigError(
            f"{path}: expected a JSON object, got a {type(index).__name__}; save the pipeline again"
        )
    return index


def _fetch_index(hub_id: str) -> Path:
    known = ", ".join(packaged())
    try:
        return Path(hf_hub_download(hub_id, INDEX))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"unknown checkpoint {hub_id!r}: not packaged ({known}), not a folder, "
            f"and the hub does not give it ({reason})"
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
            f"{source} holds a {type(pipeline).__name__}, which takes no prompt; expected a text-to-image pipeline"
        )
    return pipeline


def _add_lora(pipeline: DiffusionPipeline, path: Path) -> str:
    if not path.exists():
        raise ConfigError(f"no LoRA at {path}: no such file or folder")
    if not hasattr(pipeline, "load_lora_weights"):
        raise ConfigError(f"{type(pipeline).__name__} cannot load LoRA weights; leave out {LORA}")
    try:
        pipeline.load_lora_weights(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path} is not a LoRA for {type(pipeline).__name__}: {str(error).splitlines()[0]}"
        ) from None
    if not any(pipeline.get_list_adapters().values()):  # diffusers passes foreign names over
        raise ConfigError(
            f"{path} is not a LoRA for {type(pipeline).__name__}: none of its layers is in this model"
        )
    if path.is_dir():
        return folder_digest(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
