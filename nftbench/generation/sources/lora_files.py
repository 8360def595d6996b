"""A LoRA's file, whoever wrote it: diffusers, peft or kohya; read into layers by the module each belongs to.

Names are settled by the pipeline at hand, not by a list of families: a layer is where the pipeline has a module of that
name and shape. Where a file uses another program's names, diffusers' own conversion of that pipeline is tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nftbench.generation.recorder.trace import denoiser_of
from nftbench.generation.sources.digest import file_digest, files_digest
from nftbench.generation.sources.hub import NotOnHub, fetch_file, fetch_listed
from nftbench.generation.sources.lora_config import PEFT_CONFIG, header_config, read_config
from nftbench.generation.sources.lora_names import ALPHA, FACTOR, Names, converted, unwrapped
from nftbench.generation.sources.packaged import packaged, place_of
from nftbench.generation.sources.reference import HubPlace, hub_place
from rewards.base import ConfigError, did_you_mean

DOWN = ("_A", "down")
"""Endings of the first factor's name."""
KNOWN_BIN = ("adapter_model.bin", "pytorch_lora_weights.bin")
_OTHER_KINDS = ("lokr_", "hada_", "oft_", "dora_scale", "lora_mid", "boft_", "vera_")


@dataclass(slots=True)
class Layer:
    """One adapted module: W + scale * up @ down."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None
    more: dict[str, Tensor] = field(default_factory=dict)
    """Biases and DoRA's magnitudes, by peft's name."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """What a file holds, as it came."""

    source: str
    path: Path
    digest: str
    tensors: dict[str, Tensor]
    config: Mapping[str, Any]
    """peft's configuration, from beside the file or from its header; empty where there is none."""


Layers = dict[tuple[str, str], Layer]
"""By part of the pipeline and module within it."""


def read_lora(source: str) -> LoraFile:
    """Read a LoRA from a file, a folder, the hub or what ships with the project.

    Args:
        source: a path, `owner/name@revision:subfolder`, or the name of a packaged policy that is a LoRA.

    Raises:
        ConfigError: nothing there, several files to choose from, a damaged one, or tensors that are not finite.
    """
    path, digest = _place(source)
    config_path = path.parent / PEFT_CONFIG
    tensors, header = _tensors(path, source)
    _check(tensors, source)
    config = read_config(config_path) if config_path.is_file() else header_config(header, source)
    _refuse_lost(config, tensors, source)
    if not digest:
        digest = _local_digest(place_of(source), path, config_path)
    return LoraFile(source, path, digest, unwrapped(tensors, source), config)


def _local_digest(named: Path, path: Path, config: Path) -> str:
    if named.is_file() and not config.is_file():
        return file_digest(path)
    return files_digest(path.parent, [p for p in (path, config) if p.is_file()])


def _place(source: str) -> tuple[Path, str]:
    """Where the file is on this disk; its digest where the hub gave it."""
    path = place_of(source)
    if path.is_file():
        return path, ""
    if path.is_dir():
        inside = [p.name for p in path.iterdir() if p.is_file()]
        if not _candidates(inside) and (path / "lora").is_dir():
            path /= "lora"  # checkpoint-N/lora/ and a run's own
            inside = [p.name for p in path.iterdir() if p.is_file()]
        return path / _choose(inside, str(path)), ""
    named, _, scale = source.rpartition("@")
    if named and Path(named).exists():
        raise ConfigError(
            f"no LoRA at {source}: {named} is there, but its scale {scale!r} is not a number; expected one such as "
            "0.5 behind the @"
        )
    place = hub_place(source)
    if place is None:
        raise ConfigError(
            f"no LoRA at {source}: no such file or folder, and not owner/name@revision:subfolder"
            f"{did_you_mean(source, packaged())}"
        )
    try:
        return _fetch(place, source)
    except NotOnHub as error:
        raise ConfigError(f"no LoRA at {source}: no such file or folder, and {error}") from None


def _fetch(place: HubPlace, source: str) -> tuple[Path, str]:
    if (place.subfolder or "").endswith((".safetensors", ".bin")):
        folder, _, name = (place.subfolder or "").rpartition("/")
        fetched = fetch_file(HubPlace(place.id, place.revision, folder or None), name)
    else:
        fetched = fetch_listed(place, lambda names: _choose(names, source))
    if fetched.path.name.startswith("adapter_model"):  # alpha is in the configuration beside it
        fetch_file(HubPlace(place.id, fetched.commit, fetched.place.subfolder), PEFT_CONFIG)
    inside = f"{fetched.place.subfolder}/" if fetched.place.subfolder else ""
    return fetched.path, f"{fetched.commit}:{inside}{fetched.path.name}"


def _candidates(names: list[str]) -> list[str]:
    names = [n for n in names if "/" not in n and not n.startswith(".")]
    safe = [n for n in names if n.endswith(".safetensors")]
    bins = [n for n in names if n in KNOWN_BIN]
    return sorted(safe or bins or [n for n in names if n.endswith(".bin")])


def _choose(names: list[str], where: str) -> str:
    found = _candidates(names)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{where} holds {len(found)} files of weights ({', '.join(found[:4])}); name the one behind +lora="
        )
    raise ConfigError(
        f"{where} is not a LoRA: expected one .safetensors file, found none; a policy that was trained in full is a "
        "checkpoint: name it alone"
    )


def _tensors(path: Path, source: str) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
        loaded = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise _broken(source, error) from None
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ConfigError(f"{source} is not a LoRA: expected named tensors")
    return loaded, {}


def _broken(source: str, error: BaseException) -> ConfigError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if isinstance(error, UnpicklingError):  # torch advises to run the code in it
        reason = "not a pickle of tensors alone, and code in a pickle is never run; expected a .safetensors file"
    return ConfigError(
        f"{source} is not a LoRA, or it is damaged: {reason}; fetch or save it again"
    )


def _check(tensors: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() and not name.endswith(".alpha"):
            raise ConfigError(
                f"{source}: {name} holds numbers of type {str(tensor.dtype).removeprefix('torch.')}; expected floats: "
                "save the LoRA again unquantised"
            )
        if not torch.isfinite(tensor.float()).all():
            raise ConfigError(
                f"{source} is damaged: {name} holds numbers that are not finite; nothing drawn with it could be trusted"
            )
    kinds = sorted({kind.strip("_") for kind in _OTHER_KINDS for name in tensors if kind in name})
    if kinds:
        raise ConfigError(
            f"{source} holds an adapter of another kind ({', '.join(kinds)}); expected a LoRA with two factors a layer"
        )


def _refuse_lost(config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse an adapter that lost what its configuration speaks of: the rest would be a LoRA that nobody trained."""
    promised = {"use_dora": ["lora_magnitude_vector"], "lora_bias": ["lora_B.bias"]}
    for key, value in config.items():
        field = key.rpartition(".")[2]
        wanted = promised.get(field, []) if value is True else []
        if field == "modules_to_save" and isinstance(value, list):
            wanted = [f".{module}." for module in map(str, value)]
        for part in wanted:
            if not any(part in f".{name}" for name in tensors):
                raise ConfigError(
                    f"{source}: its configuration says {field}, but it holds no {part.strip('.')}; save the LoRA again"
                )


def layers_of(file: LoraFile, pipeline: DiffusionPipeline) -> tuple[Layers, Layers, int]:
    """Find the modules that a file's layers belong to.

    Args:
        file: what was read.
        pipeline: the one that is adapted.

    Returns:
        Layers that fit; those that do not; tensors that are no factor of any layer.
    """
    attempts = [_named(file.tensors, pipeline)]
    if attempts[0][1] or attempts[0][2] or not attempts[0][0]:
        attempts += [_named(tensors, pipeline) for tensors in converted(file.tensors, pipeline)]
    # A conversion may leave tensors out: what the file had more of than came through was not fitted.
    found = max(attempts, key=lambda a: (len(a[0]), -len(a[1]), -a[2]))
    raw = len(attempts[0][0]) + len(attempts[0][1])
    lost = raw - len(found[0]) - len(found[1])
    for number in range(lost):
        found[1]["", f"left out by the conversion, {number + 1}"] = Layer()
    return found


def _named(
    tensors: Mapping[str, Tensor], pipeline: DiffusionPipeline
) -> tuple[Layers, Layers, int]:
    parts = {k: m for k, m in pipeline.components.items() if isinstance(m, nn.Module)}
    names = Names(parts, denoiser_of(pipeline)[0])
    layers, strange = _grouped(tensors)
    fit: Layers = {}
    misfit: Layers = {}
    for raw, layer in layers.items():
        place = names.find(raw)
        module = parts[place[0]].get_submodule(place[1]) if place else None
        if place and module is not None and place not in fit and fits(module, layer):
            fit[place] = (
                layer  # a second one for a module is another adapter, of which one would be lost
            )
        else:
            misfit["", raw] = layer
    return fit, misfit, strange


def _grouped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Layer], int]:
    """Layers by the file's own names, and how many tensors belong to none."""
    layers: dict[str, Layer] = {}
    alphas: dict[str, float] = {}
    strange = 0
    for name, tensor in tensors.items():
        if (found := FACTOR.fullmatch(name)) and not _inner_bias(found["factor"], found["what"]):
            _put(
                layers.setdefault(found["module"], Layer()), found["factor"], found["what"], tensor
            )
        elif (found := ALPHA.fullmatch(name)) and tensor.numel() == 1:
            alphas[found["module"].removesuffix(".lora")] = float(tensor)
        else:
            strange += 1
    for module, alpha in alphas.items():
        if module in layers:
            layers[module].alpha = alpha
    return layers, strange


def _inner_bias(factor: str, what: str | None) -> bool:
    """Whether it is added between a layer's two factors, which peft has no place for."""
    return what == "bias" and factor.endswith(DOWN)


def _put(layer: Layer, factor: str, what: str | None, tensor: Tensor) -> None:
    if "magnitude" in factor:
        layer.more["lora_magnitude_vector"] = tensor
    elif what == "bias":
        layer.more["lora_B.bias"] = tensor
    elif factor.endswith(DOWN):
        layer.down = tensor
    else:
        layer.up = tensor


def fits(module: nn.Module, layer: Layer) -> bool:
    """Whether both factors are there and have the module's shape."""
    if layer.down is None or layer.up is None:
        return False
    base = getattr(module, "get_base_layer", lambda: module)()
    rank = layer.down.shape[0]
    if isinstance(base, nn.Embedding):
        return layer.down.shape == (rank, base.num_embeddings) and layer.up.shape == (
            base.embedding_dim,
            rank,
        )
    if hasattr(base, "in_features") and hasattr(base, "out_features"):
        layer.down, layer.up = _flat(layer.down), _flat(layer.up)
        return layer.down.shape == (rank, base.in_features) and layer.up.shape == (
            base.out_features,
            rank,
        )
    if isinstance(base, nn.Conv2d):
        down = (rank, base.in_channels // base.groups, *base.kernel_size)
        return layer.down.shape == down and layer.up.shape[:2] == (base.out_channels, rank)
    return False


def _flat(factor: Tensor) -> Tensor:
    """Kohya keeps the factors of a linear layer as 1x1 convolutions now and then."""
    return factor[:, :, 0, 0] if factor.ndim == 4 and factor.shape[2:] == (1, 1) else factor
