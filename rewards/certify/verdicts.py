"""Where certificates lie, and what they say. Imports nothing heavy."""

import json
from importlib.resources import files
from pathlib import Path

from rewards.base import ConfigError


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


def verdict(key: str, where: Path | None = None) -> str:
    """What the certificate of a reward says; empty where it has none.

    Args:
        key: full key.
        where: folder of certificates; the project's own when None.

    Raises:
        ConfigError: a certificate without a verdict.
    """
    certificate = path(key, where)
    if not certificate.is_file():
        return ""
    try:
        return str(json.loads(certificate.read_bytes())["verdict"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{certificate}: expected JSON with a verdict; make the certificate again"
        ) from None
