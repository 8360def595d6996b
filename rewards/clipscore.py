"""CLIPScore: how well an image fits its prompt, as the cosine of their CLIP embeddings."""

from collections.abc import Sequence

import numpy as np

from rewards.base import Prompt, RewardInfo, Scores
from rewards.preprocess import Preprocess
from rewards.towers import ClipTower


class ClipScore:
    """Cosine of image and text embedding, in [-1, 1].

    Variants differ in the transform alone: `preprocess.clipscore_nft` (the paper's),
    `preprocess.clipscore_openai`.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/clip_scorer.py (logits / 100 there: the cosine,
    since CLIP's logit scale is 100).
    Differs: torchmetrics prints max(100 cos, 0).
    """

    def __init__(self, tower: ClipTower, *, transform: Preprocess, info: RewardInfo) -> None:
        self.info = info
        self._tower = tower
        self._transform = transform

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Judge images: see `Reward.score`."""
        texts = [prompt.text for prompt in prompts]
        return Scores.of(self._tower.cosines(images, texts, self._transform))

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any text can be scored; past the text encoder's length it is cut."""
