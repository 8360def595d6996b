"""Checkpoints that ship with the project, and whether a name can mean any at all. Imports nothing heavy."""

from importlib.resources import files
from pathlib import Path

from nftbench.generation.sources.reference import INDEX, parse
from rewards.base import ConfigError, did_you_mean

POLICY_FILE = "policy.json"
"""Note of a trained policy: which checkpoint it was trained from, and what of it was trained."""


def packaged() -> dict[str, Path]:
    """Checkpoints that ship with the project: the diffusers folders and trained policies under `pocket/weights`."""
    root = Path(str(files("nftbench.pocket"))) / "weights"
    found = [p for name in (INDEX, POLICY_FILE) for p in root.glob(f"*/{name}")]
    return {p.parent.name: p.parent for p in sorted(found)}


def place_of(base: str) -> Path:
    """Where a checkpoint lies if it lies on this disk."""
    return packaged().get(base, Path(base))


def refuse_unknown(checkpoint: str) -> None:
    """Refuse a name that is neither packaged, nor on this disk, nor of the hub's form.

    Raises:
        ConfigError: the near name is suggested; or what lies there is a file of another kind.
    """
    base = parse(checkpoint).base
    if not base or ("/" not in base and not place_of(base).exists()):
        raise ConfigError(unknown(base))
    if base.startswith(("./", "../", "/", "~")) and not Path(base).exists():
        raise ConfigError(f"no checkpoint at {base}: there is no such folder or file")
    if place_of(base).is_file():
        refuse_other_file(place_of(base))


def refuse_other_file(path: Path) -> None:
    """Refuse a file that cannot hold a whole pipeline.

    Raises:
        ConfigError: it is of another kind than .safetensors.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"not a valid checkpoint: {path} is a file; expected a folder with a {INDEX}, or one .safetensors file"
        )


def unknown(base: str) -> str:
    """What is said of a name that means no checkpoint."""
    expected = (
        f"expected a packaged one ({', '.join(packaged())}), an existing folder or .safetensors file, a hub id such as "
        "owner/name@revision:subfolder, or an image service, api:URL#MODEL"
    )
    return f"unknown checkpoint {base!r}{did_you_mean(base, packaged(), expected)}"
