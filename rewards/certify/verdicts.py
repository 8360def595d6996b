"""Where certificates lie, what they say, and whether what they speak of has changed since. Imports nothing heavy."""

import ast
import hashlib
import json
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rewards
from rewards.base import ConfigError

LIGHT = {"rewards.base", "rewards.weights.pull", "rewards.weights.sources", "rewards.vlm.chat"}
"""Modules that carry numbers and change none: a change of theirs makes no certificate stale."""


def folder() -> Path:
    """The project's own certificates, in a checkout and in an installed wheel alike."""
    return Path(str(files("rewards.certify"))) / "certificates"


def path(key: str, where: Path | None = None) -> Path:
    """The certificate of a reward.

    Args:
        key: full key.
        where: folder of certificates; the project's own when None.
    """
    return (where or folder()) / f"{key}.json"


def read(key: str, where: Path | None = None) -> dict[str, Any]:
    """The certificate of a reward; empty where it has none.

    Args:
        key: full key.
        where: folder of certificates; the project's own when None.

    Raises:
        ConfigError: a certificate without a verdict.
    """
    certificate = path(key, where)
    if not certificate.is_file():
        return {}
    try:
        found = json.loads(certificate.read_bytes())
        found["verdict"] + ""
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{certificate}: expected JSON with a verdict; make the certificate again"
        ) from None
    return found


def verdict(key: str, where: Path | None = None) -> str:
    """What the certificate of a reward says; empty where it has none. See `read`."""
    return read(key, where).get("verdict", "")


def standing(key: str, where: Path | None = None, golden: Path | None = None) -> str:
    """What the certificate says, `stale (...): ` before it where what it speaks of has changed since.

    Args:
        key: full key.
        where: folder of certificates; the project's own when None.
        golden: folder of golden files to compare with those of the certificate; not compared when None.

    Raises:
        ConfigError: see `read`.
    """
    found = read(key, where)
    if not found:
        return ""
    changed = [] if found.get("code") == code_digest(key) else ["code"]
    then = found.get("golden") or {}
    if golden and any(file_digest(golden / name) != digest for name, digest in then.items()):
        changed.append("golden files")
    old = f"stale ({' and '.join(changed)} changed since): " if changed else ""
    return f"{old}{found['verdict']}"


# --- digests --------------------------------------------------------------------------------------


def file_digest(place: Path) -> str:
    """First half of the sha256 of a file, hexadecimal; empty where there is none."""
    return hashlib.sha256(place.read_bytes()).hexdigest()[:32] if place.is_file() else ""


def code_digest(key: str) -> str:
    """Digest of the code that a reward's numbers follow from: its module and all that this imports of its package.

    Args:
        key: full key.
    """
    return modules_digest(rewards.target_of(key).partition(":")[0])


@cache
def modules_digest(module: str) -> str:
    """Digest of the sources of a module and of all modules of `rewards`, and of its own package, that it imports."""
    sources = {name: _source(name) for name in sorted(reached(module))}
    lines = [
        f"{name} {file_digest(path) if path else 'made by hand'}" for name, path in sources.items()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def reached(module: str) -> set[str]:
    """A module, and all modules of `rewards` and of its own package that it imports, and they."""
    found: set[str] = set()
    ahead = [module]
    while ahead:
        name = ahead.pop()
        if name not in found and name not in LIGHT:
            found.add(name)
            ahead += _imports(name)
    return found


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of `rewards` and of the module's own package that a module imports, anywhere in it."""
    own = {"rewards", module.partition(".")[0]}
    named: set[str] = set()
    source = _source(module)
    for node in ast.walk(ast.parse(source.read_bytes() if source else b"")):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return tuple(n for n in sorted(named) if n.partition(".")[0] in own and _is_module(n))


@cache
def _is_module(name: str) -> bool:
    if "." not in name:
        return False  # the registry: another key changes no number of this one
    try:
        spec = find_spec(name)
    except (
        ModuleNotFoundError,
        ValueError,
    ):  # a name within a module, or a module that was made by hand
        return False
    return bool(spec and spec.origin)


def _source(module: str) -> Path | None:
    """Where a module's text lies; None of a module that was made by hand, as in a notebook."""
    try:
        spec = find_spec(module)
    except ValueError:
        return None
    return Path(spec.origin) if spec and spec.origin else None
