"""ImageReward at full size with weights rebuilt from names: what speed and memory are measured on."""

from functools import cache

from rewards.certify.imagereward import seeded_network
from rewards.vlm.imagereward import INFO, ImageReward

SEEDED = {"imagereward": "rewards.certify.seeded.blip:seeded_imagereward"}
"""Key -> `module:function`."""


@cache
def seeded_imagereward(*, device: str = "cpu") -> ImageReward:
    """`imagereward`; a word is one token, as the vocabulary is not there."""
    return ImageReward(seeded_network(0), _one_a_word, info=INFO, device=device)


def _one_a_word(text: str) -> list[int]:
    return [101, *(1000 + len(word) for word in text.split()), 102]
