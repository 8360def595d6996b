"""PickScore: a CLIP trained on people's choices between images of one prompt."""

from collections.abc import Sequence

import numpy as np

from rewards import preprocess
from rewards.base import Prompt, RewardInfo, Scores
from rewards.preprocess import Preprocess
from rewards.towers import ClipTower

TRAIN_SCALE = 26.0
"""Flow-GRPO and DiffusionNFT train on PickScore / 26; published tables are native."""


class PickScore:
    """exp(logit_scale) times the cosine of the embeddings: about 16 to 26 for PickScore_v1.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/pickscore_scorer.py.
    Differs: native units; upstream's scorer returns them divided by `TRAIN_SCALE`.
    """

    def __init__(
        self,
        tower: ClipTower,
        *,
        info: RewardInfo,
        transform: Preprocess = preprocess.pickscore,
    ) -> None:
        self.info = info
        self._tower = tower
        self._transform = transform

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Judge images: see `Reward.score`."""
        texts = [prompt.text for prompt in prompts]
        return Scores.of(
            self._tower.logit_scale * self._tower.cosines(images, texts, self._transform)
        )

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any text can be scored; past the text encoder's length it is cut."""
