"""Where certificates lie, what they say, and whether what they speak of has changed since. Imports nothing heavy."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import rewards
from rewards.base import ConfigError
from rewards.certify.code import modules_digest


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
        if not isinstance(found["verdict"], str):
            raise TypeError
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
    return modules_digest(rewards.targets()[key].partition(":")[0])
