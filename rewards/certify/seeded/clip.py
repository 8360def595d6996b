"""The CLIP family at full size with weights rebuilt from names: what speed and memory are measured on.

What is made here is held for the rest of the process, and shared as the real ones are.
"""

from functools import cache

import torch

from rewards.base import Reward
from rewards.certify.seeded import seeded_state
from rewards.certify.seeded.clip_networks import NETWORKS, PATH, empty_state
from rewards.clip import clipscore, hpsv2
from rewards.clip.aesthetic import Aesthetic, AestheticHead, aesthetic, build_head
from rewards.clip.pickscore import PickScore, pickscore
from rewards.clip.towers import Activation, Tower
from rewards.geneval.colours import ClipColorHead
from rewards.images import preprocess

HERE = "rewards.certify.seeded.clip"
SEEDED = {
    "aesthetic": f"{HERE}:seeded_aesthetic",
    "clipscore@nft": f"{HERE}:seeded_clipscore_nft",
    "clipscore@openai": f"{HERE}:seeded_clipscore_openai",
    "hpsv2@2024": f"{HERE}:seeded_hpsv2_2024",
    "hpsv2@nft": f"{HERE}:seeded_hpsv2_nft",
    "pickscore": f"{HERE}:seeded_pickscore",
}
"""Key -> `module:function`."""


@cache
def _tower(name: str, device: str) -> Tower:
    return NETWORKS[name].tower(seeded_state(empty_state(name), 0), device)


def seeded_clipscore_nft(*, device: str = "cpu") -> Reward:
    """`clipscore@nft`."""
    transform, info = preprocess.clipscore_nft, clipscore.nft.info
    return clipscore.ClipScore(_tower("openai", device), transform=transform, info=info)


def seeded_clipscore_openai(*, device: str = "cpu") -> Reward:
    """`clipscore@openai`."""
    transform, info = preprocess.clipscore_openai, clipscore.openai.info
    return clipscore.ClipScore(_tower("openai", device), transform=transform, info=info)


def seeded_aesthetic(*, device: str = "cpu") -> Reward:
    """`aesthetic`."""
    with torch.device("meta"):
        state = AestheticHead().state_dict()
    head = build_head(seeded_state(state, 0), PATH)
    return Aesthetic(_tower("openai", device), head, info=aesthetic.info)


def seeded_color_head(
    *, activation: Activation = "quick_gelu", device: str = "cpu"
) -> ClipColorHead:
    """GenEval's colour head: no reward by itself."""
    return ClipColorHead(_tower("openai", device).with_activation(activation))  # pyright: ignore[reportAttributeAccessIssue]


def seeded_pickscore(*, device: str = "cpu") -> Reward:
    """`pickscore`."""
    return PickScore(_tower("pickscore", device), info=pickscore.info)


def seeded_hpsv2_nft(*, device: str = "cpu") -> Reward:
    """`hpsv2@nft`."""
    transform, info = preprocess.hpsv2_nft, hpsv2.nft.info
    return hpsv2.HpsV2(_tower("hpsv2", device), transform=transform, info=info)


def seeded_hpsv2_2024(*, device: str = "cpu") -> Reward:
    """`hpsv2@2024`; on a GPU without the autocast of the real one."""
    transform, info = preprocess.hpsv2_2024, hpsv2.y2024.info
    return hpsv2.HpsV2(_tower("hpsv2", device), transform=transform, info=info)
