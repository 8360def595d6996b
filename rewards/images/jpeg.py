"""JPEG file size: the reward that needs no weights, for trying out a training run.

Source: NVlabs/DiffusionNFT@24af555 flow_grpo/rewards.py `jpeg_incompressibility`,
`jpeg_compressibility`; arXiv:2305.13301.
"""

import io
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from PIL import Image

from rewards.base import Prompt, RewardInfo, Scores

QUALITY = 95
COMPRESSIBILITY_DIVISOR = 500
"""Upstream's scale of compressibility, in kB."""
MAX_SIDE = 65_500
"""Pixels of a JPEG's longer side, at most."""
_SOURCE = "NVlabs/DiffusionNFT@24af555 flow_grpo/rewards.py jpeg_incompressibility"


def jpeg_kilobytes(image: np.ndarray) -> float:
    """Size of a picture as a JPEG file of quality 95, in units of 1000 bytes.

    Args:
        image: uint8 RGB (H, W, 3).
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.tell() / 1000


class Incompressibility:
    """File size in kB: high for detail and noise."""

    info: ClassVar[RewardInfo] = RewardInfo(
        name="jpeg",
        variant="",
        summary="JPEG size at quality 95, in kB of 1000 bytes",
        low=0.0,
        high=100_000.0,
        licence="Apache-2.0",  # of this code: no weights are needed
        source=_SOURCE,
    )

    def __init__(self, *, device: str = "cpu") -> None:
        del device  # no network runs

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`."""
        return _scores(images, 1.0)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Every prompt will do: the text is not looked at."""


class Compressibility(Incompressibility):
    """Minus the file size, in units of 500 kB: high for smooth pictures."""

    info: ClassVar[RewardInfo] = RewardInfo(
        name="jpeg",
        variant="compressibility",
        summary="minus JPEG size at quality 95, in units of 500 kB",
        low=-100_000.0 / COMPRESSIBILITY_DIVISOR,
        high=0.0,
        licence="Apache-2.0",  # of this code: no weights are needed
        source=_SOURCE,
    )

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`."""
        return _scores(images, -1.0 / COMPRESSIBILITY_DIVISOR)


def _scores(images: np.ndarray, factor: float) -> Scores:
    height, width = images.shape[1:3]
    if not 0 < min(height, width) <= max(height, width) <= MAX_SIDE:
        reason = f"a picture of {width}x{height} cannot be a JPEG; sides must be 1 to {MAX_SIDE}"
        return Scores(
            values=np.full(len(images), np.nan, np.float32), reasons=(reason,) * len(images)
        )
    return Scores.of([factor * jpeg_kilobytes(image) for image in images])
