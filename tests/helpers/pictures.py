"""Images that a test hands in as finished ones."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, number: int, size: int = 64) -> np.ndarray:
    """Noise of that seed, saved; uint8 RGB (size, size, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels
