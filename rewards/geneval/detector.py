"""What GenEval needs of an object detector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """Objects found in one image, with the detector's own scores; the rules threshold them later.

    Raises:
        AssertionError: boxes are not (n, 5), or masks do not belong to boxes.
    """

    boxes: Mapping[str, np.ndarray]
    """Class -> float32 (n, 5) [x1, y1, x2, y2, score]: pixels of the image, y down, x2 and y2
    exclusive; score 0-1."""
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Class -> bool (n, H, W), one a box; classes or the whole mapping may be missing."""

    def __post_init__(self) -> None:
        for name, found in self.boxes.items():
            assert found.ndim == 2 and found.shape[1] == 5, (
                f"boxes of {name!r} must be (n, 5), got {found.shape}"
            )
        for name, masks in self.masks.items():
            assert len(masks) == len(self.boxes[name]), f"one mask a box of {name!r}"


@runtime_checkable
class Detector(Protocol):
    """Finds objects of known classes."""

    classes: Sequence[str]
    """Names that a GenEval target may ask for."""

    def detect(self, images: np.ndarray) -> Sequence[Detections]:
        """Find objects.

        Args:
            images: uint8 RGB (N, H, W, 3).

        Returns:
            Detections of the N images; each depends on its own image alone.
        """
        ...
