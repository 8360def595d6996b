"""Aesthetic score: how much people would like a picture, whatever it shows, from about 1 to 10."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rewards.base import Prompt, Reward, RewardInfo, Scores, Weight, unseen
from rewards.clip import models as clip_models
from rewards.clip.towers import Tower
from rewards.images import preprocess
from rewards.images.preprocess import Preprocess
from rewards.weights.pull import weight_file

HEAD = Weight(
    name="improved-aesthetic-predictor/sac+logos+ava1-l14-linearMSE.pth",
    url="https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/"
    "6934dd81792f086e613a121dbce43082cb8be85e/sac%2Blogos%2Bava1-l14-linearMSE.pth",
    sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    size=3_714_759,
    licence="Apache-2.0",
)
WIDTHS = {0: (768, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
"""Place in the published file (dropout between them) -> inputs and outputs of the layer."""


class AestheticHead(nn.Module):
    """Five linear layers with nothing between them: one affine map of an embedding to a number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(i): nn.Linear(*sides) for i, sides in WIDTHS.items()})

    def forward(self, embeds: Tensor) -> Tensor:
        """Scores (N,) of unit embeddings (N, 768)."""
        for layer in self.layers.values():
            embeds = layer(embeds)
        return embeds[:, 0]


class Aesthetic:
    """An affine map of the unit image embedding; the prompt is not looked at.

    Source: christophschuhmann/improved-aesthetic-predictor@6934dd8 simple_inference.py;
    NVlabs/DiffusionNFT@24af555 flow_grpo/aesthetic_scorer.py.
    Differs: float32 throughout, as NFT, where the original encodes in float16 on a GPU.
    """

    def __init__(
        self,
        tower: Tower,
        head: AestheticHead,
        *,
        info: RewardInfo,
        transform: Preprocess = preprocess.aesthetic_nft,
    ) -> None:
        self.info = info
        self.tower = tower
        self.head = head.eval().requires_grad_(False)
        self.transform = transform

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`."""
        nothing = unseen(images)
        if nothing is not None:
            return nothing
        return Scores.of(self.head(self.tower.unit_images(images, self.transform)).numpy())

    def check(self, prompts: Sequence[Prompt]) -> None:
        """No prompt is refused."""


def build_head(state: Mapping[str, Tensor], path: Path) -> AestheticHead:
    """The head of a state dict; `path` is named where it does not fit.

    Raises:
        ConfigError: tensors lack, are too many, or have another shape.
    """
    with torch.device("meta"):
        head = AestheticHead()
    clip_models.fill(head, state, path)
    return head


def aesthetic(*, device: str = "cpu", dtype: str = "float32") -> Reward:
    """The improved aesthetic predictor over OpenAI's ViT-L/14; the head runs in float32 on the CPU."""
    key = aesthetic.info.key
    path = weight_file(HEAD, reward=key)
    head = build_head(clip_models.read_tensors(path), path)
    tower = clip_models.openai_tower(key, device=device, dtype=dtype)
    return Aesthetic(tower, head, info=aesthetic.info)


aesthetic.info = RewardInfo(
    name="aesthetic",
    variant="",
    summary="improved aesthetic predictor (SAC, logos, AVA) on CLIP ViT-L/14, about 1 to 10",
    low=-12.76,  # of the published head: what no unit embedding falls below, or rises above
    high=23.24,
    weights=(HEAD.url, clip_models.VIT_L_14.url),
    files=(HEAD, clip_models.VIT_L_14),
    licence="Apache-2.0 (head), MIT (CLIP)",
    source="christophschuhmann/improved-aesthetic-predictor@6934dd8; NVlabs/DiffusionNFT@24af555"
    " flow_grpo/aesthetic_scorer.py",
)
