"""CLIPScore: how well an image fits its prompt, as the cosine of their CLIP embeddings."""

from collections.abc import Callable, Sequence

import numpy as np

from rewards.base import Prompt, Reward, RewardInfo, Scores
from rewards.clip import models as clip_models
from rewards.clip.towers import Tower, cosine_scores
from rewards.images import preprocess
from rewards.images.preprocess import Preprocess


class ClipScore:
    """Cosine of image and text embedding, in [-1, 1].

    Variants differ in the transform alone: `preprocess.clipscore_nft` (the paper's),
    `preprocess.clipscore_openai`.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/clip_scorer.py (logits / 100 there: the cosine,
    since CLIP's logit scale is 100).
    Differs: torchmetrics prints max(100 cos, 0).
    """

    def __init__(self, tower: Tower, *, transform: Preprocess, info: RewardInfo) -> None:
        self.info = info
        self.tower = tower
        self.transform = transform

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`."""
        return cosine_scores(self.tower, images, prompts, transform=self.transform)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Where images lie in CLIP's space.

        Args:
            images: uint8 RGB (N, H, W, 3).

        Returns:
            float32 (N, D), each of length 1.
        """
        return self.tower.unit_images(images, self.transform).numpy()

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any text can be scored; past the text encoder's length it is cut, which the part `truncated` counts."""


def _variant(name: str, transform: Preprocess, pixels: str, source: str) -> Callable[..., Reward]:
    """Factory of one variant, with its `info`."""
    info = RewardInfo(
        name="clipscore",
        variant=name,
        summary=f"cosine of image and prompt in OpenAI's CLIP ViT-L/14, pixels {pixels}",
        low=-1.0,
        high=1.0,
        weights=(clip_models.VIT_L_14.url,),
        files=(clip_models.VIT_L_14,),
        licence="MIT",
        source=source,
    )

    def factory(*, device: str = "cpu", dtype: str = "float32") -> Reward:
        tower = clip_models.openai_tower(info.key, device=device, dtype=dtype)
        return ClipScore(tower, transform=transform, info=info)

    factory.info = info  # type: ignore[attr-defined]
    return factory


nft = _variant(
    "nft",
    preprocess.clipscore_nft,
    "resized as floats, bilinear and antialiased",
    "NVlabs/DiffusionNFT@24af555 flow_grpo/clip_scorer.py",
)
openai = _variant(
    "openai",
    preprocess.clipscore_openai,
    "resized as CLIP's own code does, bicubic",
    "openai/CLIP clip/clip.py `transform`; arXiv:2104.08718 without its factor 2.5",
)
