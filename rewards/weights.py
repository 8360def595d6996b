"""Where weights come from. A file is used only after its sha256 was found right."""

import functools
import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

from rewards.base import ConfigError, MissingWeights, Weight


@functools.cache
def verified(path: Path, sha256: str, *, remedy: str) -> Path:
    """A local file, once its digest was checked; checked once a process.

    Args:
        path: file of weights.
        sha256: expected digest, hexadecimal.
        remedy: what to do when the file is missing or another one, such as a command.

    Raises:
        MissingWeights: there is no such file.
        ConfigError: it holds something else.
    """
    if not path.is_file():
        raise MissingWeights(f"weights {path} are missing; {remedy}.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ConfigError(f"weights {path} have sha256 {found}, expected {sha256}; {remedy}.")
    return path


def packaged(package: str, name: str, sha256: str, *, remedy: str = "") -> Path:
    """A file of weights that an installed package ships.

    Args:
        package: import name, such as `rapidocr`; it is located, not imported.
        name: path of the file inside the package, such as `models/det.onnx`.
        sha256: expected digest, hexadecimal.
        remedy: as in `verified`; reinstalling the package when empty.

    Raises:
        MissingWeights: the package or the file is not there.
        ConfigError: the file holds something else.
    """
    remedy = remedy or f"pip install --force-reinstall {package.partition('.')[0]}"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingWeights(
            f"package {package!r}, which ships {name}, is not installed; {remedy}."
        )
    return verified(Path(spec.submodule_search_locations[0]) / name, sha256, remedy=remedy)


def cache() -> Path:
    """Where fetched weights lie: `NFTBENCH_CACHE`, else `nftbench` under the hub's own cache."""
    if os.environ.get("NFTBENCH_CACHE"):
        return Path(os.environ["NFTBENCH_CACHE"]).expanduser()
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home).expanduser() / "nftbench"


def weight_file(weight: Weight, *, reward: str) -> Path:
    """A fetched file of weights, its digest checked.

    Args:
        weight: which.
        reward: key of the reward that asks, for the remedy.

    Raises:
        MissingWeights: it was not fetched; names the command that does.
        ConfigError: it holds something else.
    """
    return verified(
        cache() / weight.name, weight.sha256, remedy=f"run: nftbench rewards pull {reward}"
    )
