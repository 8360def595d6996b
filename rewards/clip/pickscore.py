"""PickScore: a CLIP trained on people's choices between images of one prompt."""

from collections.abc import Sequence

import numpy as np

from rewards.base import Prompt, Reward, RewardInfo, Scores
from rewards.clip import models as clip_models
from rewards.clip.towers import Tower, cosine_scores
from rewards.images import preprocess
from rewards.images.preprocess import Preprocess

TRAIN_SCALE = 26.0
"""Flow-GRPO and DiffusionNFT train on PickScore / 26; published tables are native."""


class PickScore:
    """exp(logit_scale) times the cosine of the embeddings: about 16 to 26 for PickScore_v1.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/pickscore_scorer.py.
    Differs: native units; upstream's scorer returns them divided by `TRAIN_SCALE`.
    """

    def __init__(
        self,
        tower: Tower,
        *,
        info: RewardInfo,
        transform: Preprocess = preprocess.pickscore,
    ) -> None:
        self.info = info
        self.tower = tower
        self.transform = transform

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`."""
        scale = self.tower.logit_scale
        return cosine_scores(self.tower, images, prompts, transform=self.transform, scale=scale)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any text can be scored; past the text encoder's length it is cut, which the part `truncated` counts."""


def pickscore(*, device: str = "cpu", dtype: str = "float32") -> Reward:
    """PickScore_v1."""
    tower = clip_models.pickscore_tower(pickscore.info.key, device=device, dtype=dtype)
    return PickScore(tower, info=pickscore.info)


pickscore.info = RewardInfo(
    name="pickscore",
    variant="",
    summary="PickScore_v1: CLIP ViT-H/14 of people's choices, 100 times the cosine, about 16 to 26",
    low=-100.0,
    high=100.0,
    train_scale=TRAIN_SCALE,
    weights=(clip_models.PICKSCORE_V1.url,),
    files=(clip_models.PICKSCORE_V1,),
    licence=clip_models.PICKSCORE_V1.licence,
    source="arXiv:2305.01569 Sec. 3; NVlabs/DiffusionNFT@24af555 flow_grpo/pickscore_scorer.py",
)
