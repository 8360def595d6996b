"""HPSv2.1: a CLIP ViT-H/14 trained on people's preferences among images of one prompt."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards.base import ConfigError, Prompt, Reward, RewardInfo, Scores, Weight
from rewards.clip.models import fill, read_tensors
from rewards.clip.towers import OpenClipTower, Tower, cosine_scores, precision_of
from rewards.images import preprocess
from rewards.images.preprocess import Preprocess
from rewards.shared import shared
from rewards.weights.pull import weight_file

HPS_V2_1 = Weight(
    name="HPSv2/HPS_v2.1_compressed.pt",
    url="hf://xswu/HPSv2@697403c78157020a1ae59d23f111aa58ced35b0a/HPS_v2.1_compressed.pt",
    sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
    size=1_972_490_005,
    licence="Apache-2.0",
)


class HpsV2:
    """Cosine of image and text embedding, about 0.14 to 0.36 for HPS v2.1.

    Variants differ in the transform (`preprocess.hpsv2_nft`, the paper's; `preprocess.hpsv2_2024`,
    of which HPSv2's own table comes) and in autocast.

    Source: tgxs002/HPSv2@866735e hpsv2/img_score.py; NVlabs/DiffusionNFT@24af555
    flow_grpo/hpsv2_scorer.py.
    Differs: native units, where HPSv2's tables print 100 times the cosine; the last product is taken
    in float32, where upstream's autocast rounds the score itself to float16 (up to 1.2e-4); TF32 is
    left as torch has it, where NFT allows it.
    """

    def __init__(self, tower: Tower, *, transform: Preprocess, info: RewardInfo) -> None:
        self.info = info
        self.tower = tower
        self.transform = transform

    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`."""
        return cosine_scores(self.tower, images, prompts, transform=self.transform)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any text can be scored; past the text encoder's length it is cut, which the part `truncated` counts."""


def vit_h_14() -> dict[str, Any]:
    """open_clip's configuration of ViT-H-14, with plain GELU."""
    return open_clip_config("ViT-H-14")


def open_clip_config(name: str) -> dict[str, Any]:
    """The configuration of one of open_clip's networks."""
    import open_clip

    config = open_clip.get_model_config(name)
    assert config is not None, f"open_clip has no {name}"
    return config


def build_open_clip(config: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> Any:
    """An `open_clip.CLIP` in float32 of a state dict; `path` is named where it does not fit.

    Raises:
        ConfigError: tensors lack, are too many, or have another shape.
    """
    import open_clip

    with torch.device("meta"):  # to draw random weights first takes longer than to read the file
        model = open_clip.CLIP(**config)
    fill(model, state, path)
    mask = model.get_buffer("attn_mask")
    model.attn_mask = torch.full(mask.shape, -torch.inf).triu_(1)  # not in a state dict
    return model.float()


@shared
def load_open_clip(
    path: Path, device: str, dtype: str, config: Callable[[], Mapping[str, Any]] = vit_h_14
) -> Any:
    """The network of a file with `state_dict` in it; one object a process, device and precision while it is used.

    Args:
        path: of the file.
        device: torch device.
        dtype: one of `rewards.clip.towers.DTYPES`.
        config: makes open_clip's configuration.

    Raises:
        ConfigError: the file holds anything else, or the precision is unknown.
    """
    precision = precision_of(dtype)
    content = read_tensors(path)
    if not isinstance(content.get("state_dict"), Mapping):
        raise ConfigError(
            f"weights {path} hold {', '.join(map(str, content))}; expected state_dict."
        )
    model = build_open_clip(config(), content["state_dict"], path)
    return model.to(device=device, dtype=precision)


def _variant(
    name: str, transform: Preprocess, pixels: str, *, autocast: bool
) -> Callable[..., Reward]:
    """Factory of one variant, with its `info`."""
    info = RewardInfo(
        name="hpsv2",
        variant=name,
        summary=f"HPS v2.1: cosine in a CLIP ViT-H/14 of people's preferences, pixels resized {pixels}",
        low=-1.0,
        high=1.0,
        weights=(HPS_V2_1.url,),
        files=(HPS_V2_1,),
        licence="Apache-2.0",
        source="arXiv:2306.09341; tgxs002/HPSv2@866735e; NVlabs/DiffusionNFT@24af555 flow_grpo/hpsv2_scorer.py",
    )

    def factory(*, device: str = "cpu", dtype: str = "float32") -> Reward:
        from open_clip import SimpleTokenizer

        model = load_open_clip(weight_file(HPS_V2_1, reward=info.key), device, dtype)
        tower = OpenClipTower(
            model, SimpleTokenizer(), device=device, dtype=dtype, autocast=autocast
        )
        return HpsV2(tower, transform=transform, info=info)

    factory.info = info  # type: ignore[attr-defined]
    return factory


nft = _variant("nft", preprocess.hpsv2_nft, "with antialiasing", autocast=False)
y2024 = _variant(
    "2024", preprocess.hpsv2_2024, "without antialiasing, float16 autocast on a GPU", autocast=True
)
