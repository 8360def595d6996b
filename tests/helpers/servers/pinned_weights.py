"""A file of weights with a digest, as a server or a mirror holds it."""

import hashlib
from pathlib import Path

from rewards.base import Weight

DATA = bytes(range(256)) * 800
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = "things/model.safetensors"


def pinned(url: str, **other) -> Weight:
    fields = {"name": NAME, "url": url, "sha256": SHA256, "size": len(DATA), "licence": "MIT"}
    return Weight(**fields | other)


def left(cache: Path) -> set[str]:
    """Files in the cache other than the lock."""
    files = (p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(cache)) for p in files}
