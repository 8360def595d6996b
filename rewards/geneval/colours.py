"""GenEval's colour question: which of some colours is this object, by CLIP without training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn.functional import normalize

from rewards.clip import models as clip_models
from rewards.clip.towers import Activation, Tower
from rewards.geneval.judge import COLORS
from rewards.images import preprocess
from rewards.images.preprocess import Preprocess

TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
BACKGROUND = 0x99
"""Grey level, 0-255, that replaces what lies outside an object's mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """One object cut out of its image."""

    name: str
    """Its class."""
    pixels: np.ndarray
    """uint8 RGB (h, w, 3), h and w >= 1."""


@runtime_checkable
class ColorHead(Protocol):
    """Tells the colour of objects."""

    colors: Sequence[str]
    """Answers it can give."""

    def classify(self, crops: Sequence[Crop]) -> list[str]:
        """Colour of each crop, one of `colors`."""
        ...


def cut_out(
    image: np.ndarray, box: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray | None:
    """The pixels of one object, its surroundings greyed out where a mask tells them.

    Args:
        image: uint8 RGB (H, W, 3).
        box: [x1, y1, x2, y2, ...] in pixels; edges are rounded half to even, what lies outside the
            image is black.
        mask: bool (H, W), true on the object.

    Returns:
        uint8 RGB (h, w, 3), or None where the rounded box has no pixel.

    Source: djghosh13/geneval@af4902f evaluation/evaluate_images.py `ImageCrops`.
    """
    x1, y1, x2, y2 = (int(edge) for edge in np.rint(box[:4]))
    if x2 <= x1 or y2 <= y1:
        return None
    if mask is not None:
        image = np.where(mask[..., None], image, np.uint8(BACKGROUND))
    height, width = image.shape[:2]
    crop = np.zeros((y2 - y1, x2 - x1, 3), dtype=np.uint8)
    top, left = max(y1, 0), max(x1, 0)
    inside = image[top : max(min(y2, height), top), left : max(min(x2, width), left)]
    crop[top - y1 :, left - x1 :][: inside.shape[0], : inside.shape[1]] = inside
    return crop


class ClipColorHead:
    """Zero-shot colours by CLIP.

    An object has the colour whose mean text embedding over `TEMPLATES`, filled with the colour and
    the object's class, is nearest to its crop.

    Source: djghosh13/geneval@af4902f evaluation/evaluate_images.py `color_classification`;
    LAION-AI/CLIP_benchmark `zero_shot_classifier`.
    Differs: float32 where the reference runs under autocast.
    """

    def __init__(
        self,
        tower: Tower,
        *,
        colors: Sequence[str] = COLORS,
        transform: Preprocess = preprocess.geneval_crop,
    ) -> None:
        self.colors: Sequence[str] = tuple(colors)
        self.tower = tower
        self.transform = transform
        self.classifier = cache(self._build_classifier)

    def classify(self, crops: Sequence[Crop]) -> list[str]:
        """Colour of each crop, one of `colors`."""
        return [self.colors[int(row.argmax())] for row in self.cosines(crops)]

    def cosines(self, crops: Sequence[Crop]) -> torch.Tensor:
        """How near each crop is to each of `colors`, float32 (N, colours) in [-1, 1]."""
        if not crops:
            return torch.empty(0, len(self.colors))
        size = self.tower.image_size
        pixels = torch.stack([self.transform(crop.pixels, size) for crop in crops])
        embeds = normalize(self.tower.embed_images(pixels), dim=-1)
        return torch.stack(
            [embed @ self.classifier(crop.name) for embed, crop in zip(embeds, crops, strict=True)]
        )

    def _build_classifier(self, name: str) -> torch.Tensor:
        """Unit text embedding of each colour, (D, colours)."""
        texts = [t.format(color=color, name=name) for color in self.colors for t in TEMPLATES]
        embeds = normalize(self.tower.embed_texts(texts), dim=-1)
        means = embeds.reshape(len(self.colors), len(TEMPLATES), -1).mean(dim=1)
        return normalize(means, dim=-1).T


def openai_color_head(
    reward: str,
    *,
    activation: Activation = "quick_gelu",
    device: str = "cpu",
    dtype: str = "float32",
) -> ClipColorHead:
    """GenEval's colour head through OpenAI's ViT-L/14, whose parameters CLIPScore and Aesthetic share.

    Args:
        reward: key of the reward that asks, for the remedy where weights are missing.
        activation: `quick_gelu` as GenEval pins it (open_clip 2.20), `gelu` as open_clip >= 2.29 runs
            it in silence, DiffusionNFT's and Flow-GRPO's servers among others.
        device: torch device.
        dtype: one of `rewards.clip.towers.DTYPES`.

    Raises:
        MissingWeights: they were not fetched.
    """
    tower = clip_models.openai_tower(reward, device=device, dtype=dtype, activation=activation)
    return ClipColorHead(tower)
