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
        source=_SOURCE,
    )

    def __init__(self, *, device: str = "cpu") -> None:
        del device  # no network runs

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Judge images: see `Reward.score`."""
        return Scores.of([jpeg_kilobytes(image) for image in images])

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
        source=_SOURCE,
    )

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Judge images: see `Reward.score`."""
        return Scores.of([-jpeg_kilobytes(image) / COMPRESSIBILITY_DIVISOR for image in images])
