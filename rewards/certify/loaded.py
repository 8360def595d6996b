"""Rewards as users load them, by key, over weights that stand in for the published files.

Two sets of weights: `blank` ones are nothing but zeros and cost no memory, which is enough to see what a reward hands
to its network; `seeded` ones are rebuilt from the names of the parameters, as those of the golden numbers were.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rewards import load_reward
from rewards.base import Prompt
from rewards.certify.seeded import seeded_state
from rewards.certify.seeded.clip_networks import empty_state, remember, renamed
from rewards.clip import aesthetic, hpsv2
from rewards.clip import models as clip_models
from rewards.geneval import variants as geneval_variants
from rewards.vlm import imagereward
from rewards.vlm.blip import BlipReward, published
from rewards.weights.stand_ins import Maker, standing_in

State = Mapping[str, Tensor]
Fill = Callable[[State], State]
ANY = Prompt(id="any", text="a photo of a dog", target={"include": [{"class": "dog", "count": 1}]})


def blank(state: State) -> State:
    """Zeros that take no memory; CLIP's logit scale is the trained one's, ln 100."""
    return {
        name: torch.tensor(math.log(100.0) if name.endswith("logit_scale") else 0.0).expand(
            old.shape
        )
        if old.is_floating_point()
        else old
        for name, old in state.items()
    }


def _empty(make: Callable[[], nn.Module]) -> State:
    with torch.device("meta"):
        return make().state_dict()


def _blip() -> State:
    return {published(name): old for name, old in _empty(BlipReward).items()}


def makers(fill: Fill, *, open_clip_names: bool = False) -> dict[str, Maker | Path]:
    """What stands in for every file that a reward of torch pins.

    Args:
        fill: gives a network's parameters, of names and shapes.
        open_clip_names: ViT-L/14 is filled by open_clip's names, as GenEval's colours were.
    """

    def vit_l_14() -> State:
        if open_clip_names:
            return renamed(fill(empty_state("openai, open_clip's names")))
        return fill(empty_state("openai"))

    return {
        clip_models.VIT_L_14.name: vit_l_14,
        clip_models.PICKSCORE_V1.name: lambda: fill(empty_state("pickscore")),
        hpsv2.HPS_V2_1.name: lambda: {"state_dict": fill(empty_state("hpsv2"))},
        aesthetic.HEAD.name: lambda: fill(_empty(aesthetic.AestheticHead)),
        imagereward.INFO.files[0].name: lambda: fill(_blip()),
        imagereward.INFO.files[1].name: _vocabulary(),
    }


@cache
def _vocabulary() -> Path:
    """BERT's special tokens alone: the golden files hold token ids."""
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]"]
    path = Path(mkdtemp(prefix="nftbench-certify-"), "vocab.txt")
    path.write_text("\n".join(words), "utf-8")
    return path


@cache
def load_blank(key: str) -> Any:
    """A reward over blank weights; GenEval's detector has none."""
    with standing_in("blank", makers(blank) | no_detector()):
        return load_reward(key).reward


class NoDetector(nn.Module):
    """Stands where a detector's network does, and finds nothing: what is handed to it can be seen."""


def no_detector() -> dict[str, Maker]:
    """Stand-ins for both detectors' weights."""
    return dict.fromkeys((geneval_variants.MMDET.name, geneval_variants.META.name), NoDetector)


def load_seeded(key: str, seed: int, *, more: Mapping[str, Maker] | None = None, **how: Any) -> Any:
    """A reward over weights rebuilt from names; one network is held at a time, and looks at each input once.

    Args:
        key: full key.
        seed: see `rewards.certify.seeded.seeded`.
        more: stand-ins beside those of `makers`.
        how: see `makers`.
    """
    label = f"seeded {seed} {how}"
    with standing_in(label, makers(partial(seeded_state, seed=seed), **how) | dict(more or {})):
        network = (key.partition("@")[0].replace("aesthetic", "clipscore"), label)
        if _held and _held[0][0] != network:
            _held.clear()
        reward = load_reward(key).reward
        _held[:] = [(network, reward)]
    for tower in (
        getattr(reward, "tower", None),
        getattr(getattr(reward, "color_head", None), "tower", None),
    ):
        if tower is not None:
            remember(tower)
    return reward


_held: list[tuple[tuple[str, str], Any]] = []
"""The reward that was loaded last, with what names its network: two ViT-H/14 are 8 GB, and one is not rebuilt."""


# --- what a reward hands over ---------------------------------------------------------------------


def pixels_of(reward: Any, picture: np.ndarray) -> Tensor:
    """What a CLIP reward hands to its image encoder, float32 (3, side, side), for uint8 RGB (H, W, 3)."""
    tower, given = reward.tower, []

    def record(pixels: Tensor) -> Tensor:
        given.append(pixels)
        return torch.ones(len(pixels), 768)

    with replaced(
        tower, embed_images=record, embed_texts=lambda texts: torch.ones(len(texts), 768)
    ):
        reward.score(picture[None], [ANY])
    return given[0][0]


class replaced:
    """Within the block an object's attributes are others."""

    def __init__(self, thing: Any, **others: Any) -> None:
        self._thing, self._others = thing, others

    def __enter__(self) -> None:
        self._before = {name: self._thing.__dict__.get(name) for name in self._others}
        for name, other in self._others.items():
            setattr(self._thing, name, other)

    def __exit__(self, *_: object) -> None:
        for name, before in self._before.items():
            if before is None:
                delattr(self._thing, name)
            else:
                setattr(self._thing, name, before)
