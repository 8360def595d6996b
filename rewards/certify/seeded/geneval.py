"""GenEval at full size with made-up weights: what speed and memory are measured on.

Such a detector finds hardly anything, so the colour check is loaded and seldom asked.
"""

from functools import cache, partial
from typing import Any

import torch

from rewards.certify.seeded.clip import seeded_color_head
from rewards.geneval import mask2former, variants
from rewards.geneval.reward import GenEval

HERE = "rewards.certify.seeded.geneval"
CONVERTED = ("official", "nft", "flowgrpo", "promptrl", "hf")
"""Variants whose detector runs in transformers."""
SEEDED = {f"geneval@{variant}": f"{HERE}:seeded_{variant}" for variant in CONVERTED}
"""Key -> `module:function`."""


@cache
def _network(device: str) -> Any:
    """Mask2Former over Swin-S with the weights that it is initialised with."""
    from transformers import Mask2FormerForUniversalSegmentation

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Mask2FormerForUniversalSegmentation(mask2former.swin_s_config()).to(device)  # pyright: ignore[reportArgumentType]


def _seeded(variant: str, *, device: str = "cpu") -> GenEval:
    detector = variants.detector_of(variant, _network(device), device=device)
    activation = variants.PRESETS[variant].activation
    head = seeded_color_head(activation=activation, device=device)
    return variants.assemble(variant, detector, head)


seeded_official = partial(_seeded, "official")
seeded_nft = partial(_seeded, "nft")
seeded_flowgrpo = partial(_seeded, "flowgrpo")
seeded_promptrl = partial(_seeded, "promptrl")
seeded_hf = partial(_seeded, "hf")
