"""What a folder is that is no pipeline's, for messages: people name what a training left, or one folder too high."""

from collections.abc import Iterable
from pathlib import Path

from nftbench.generation.sources.reference import INDEX
from nftbench.parsing import parse_json

CONFIG_BYTES = 1_000_000
"""Bound of a `config.json` that is read; real ones have a few kB."""
MODULAR = "modular_model_index.json"
LORAS = ("adapter_config.json", "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
SHARDS = ("*model_states.pt", "*optim_states.pt", "*.distcp")
"""Weights in pieces, one a process: of DeepSpeed, and of torch's own sharding."""


def held_instead(folder: Path) -> str:
    """What a folder without a pipeline holds, in words that go behind "holds no X"; empty where nobody can tell."""
    told = (_network, _modular, _deeper, _shards, _lora, _parts, _weights)
    return next((f" but {words}" for tell in told if (words := tell(folder))), "")


def _network(folder: Path) -> str:
    """One network, such as a language model, where its `config.json` says so."""
    kind = _class_in(folder / "config.json")
    return f"a {kind[:80]}, which is one network alone" if kind else ""


def _class_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            found = parse_json(file.read(CONFIG_BYTES))
        kinds = [*found.get("architectures", ()), found.get("_class_name")]
    except (OSError, ValueError, AttributeError, TypeError):
        return ""
    return next((str(kind) for kind in kinds if kind), "")


def _modular(folder: Path) -> str:
    return f"{MODULAR}, a modular pipeline" if (folder / MODULAR).is_file() else ""


def _deeper(folder: Path) -> str:
    inside = [path.parent for path in _sorted(folder.glob(f"*/{INDEX}"))]
    return f"pipelines one level deeper: name {_few(map(str, inside), ' or ')}" if inside else ""


def _shards(folder: Path) -> str:
    places = [folder, *(p for p in _sorted(folder.glob("*")) if p.is_dir())]
    found = next((path for p in places for s in SHARDS for path in _sorted(p.glob(s))), None)
    if found is None:
        return ""
    return (
        f"{found.relative_to(folder)}, a training's weights in pieces, one a process: join them by its own tool, such "
        "as DeepSpeed's zero_to_fp32.py"
    )


def _lora(folder: Path) -> str:
    inside = [p for p in (folder, folder / "lora") if any((p / name).is_file() for name in LORAS)]
    return f"a LoRA: name its base, BASE+lora={inside[0]}" if inside else ""


def _parts(folder: Path) -> str:
    """As training scripts leave them: `unet/`, `unet_ema/`."""
    inside = [p.parent for p in _sorted(folder.glob("*/config.json")) if _class_in(p)]
    if not inside:
        return ""
    part = inside[0].name.removesuffix("_ema")
    return f"parts of one ({_few(p.name for p in inside)}): name its base, such as BASE+{part}={inside[0]}"


def _weights(folder: Path) -> str:
    """As accelerate leaves them: `model.safetensors` beside the optimizer's state."""
    found = _sorted(folder.glob("*.safetensors"))
    if not found:
        return ""
    return (
        f"weights ({_few(p.name for p in found)}): name the file; one network's behind +transformer= or +unet= of its "
        "base"
    )


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths)[:50]


def _few(names: Iterable[str], between: str = ", ") -> str:
    return between.join([*names][:3])
