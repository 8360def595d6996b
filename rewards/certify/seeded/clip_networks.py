"""CLIPs of full size whose weights are rebuilt from the names of their parameters."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.clip import hpsv2
from rewards.clip import models as clip_models
from rewards.clip.towers import ClipTower, OpenClipTower, Tower

PATH = Path("weights rebuilt from names")
"""Stands for the file that these weights do not come from."""


@dataclass(frozen=True, slots=True)
class Network:
    """How to make a network, and a tower of its weights."""

    empty: Callable[[], nn.Module]
    """Names and shapes as in the published checkpoint."""
    tower: Callable[..., Tower]
    """Of a state dict, and of a device if it is not the CPU."""


def _empty_clip(config: Callable[[], Any]) -> nn.Module:
    from transformers import CLIPModel

    return CLIPModel(config())


def _clip_tower(
    config: Callable[[], Any], state: Mapping[str, Tensor], device: str = "cpu"
) -> ClipTower:
    model = clip_models.build_clip(config(), state, PATH)
    return ClipTower(model, clip_models.clip_tokenizer(), device=device)


def _empty_open_clip(name: str) -> nn.Module:
    import open_clip

    return open_clip.CLIP(**hpsv2.open_clip_config(name))


def _hps_tower(state: Mapping[str, Tensor], device: str = "cpu") -> OpenClipTower:
    from open_clip import SimpleTokenizer

    model = hpsv2.build_open_clip(hpsv2.vit_h_14(), state, PATH)
    return OpenClipTower(model, SimpleTokenizer(), device=device)


def _renamed_tower(state: Mapping[str, Tensor], device: str = "cpu") -> ClipTower:
    return _clip_tower(clip_models.vit_l_14_config, renamed(state), device)


NETWORKS = {
    "openai": Network(
        partial(_empty_clip, clip_models.vit_l_14_config),
        partial(_clip_tower, clip_models.vit_l_14_config),
    ),
    "openai, open_clip's names": Network(partial(_empty_open_clip, "ViT-L-14"), _renamed_tower),
    "pickscore": Network(
        partial(_empty_clip, clip_models.vit_h_14_config),
        partial(_clip_tower, clip_models.vit_h_14_config),
    ),
    "hpsv2": Network(partial(_empty_open_clip, "ViT-H-14"), _hps_tower),
}


def empty_state(name: str) -> dict[str, Tensor]:
    """Names and shapes of a network of `NETWORKS`; the tensors hold nothing."""
    with torch.device("meta"):
        return NETWORKS[name].empty().state_dict()


def remember(tower: Tower) -> None:
    """Let a tower look at each input once; it remembers what it saw."""
    if "embed_images" not in vars(tower):
        tower.embed_images = _once(tower.embed_images, lambda pixels: pixels.numpy().tobytes())  # pyright: ignore[reportAttributeAccessIssue]
        tower.embed_texts = _once(tower.embed_texts, str)  # pyright: ignore[reportAttributeAccessIssue]


def _once(
    embed: Callable[[Any], Tensor], key: Callable[[Any], Hashable]
) -> Callable[[Any], Tensor]:
    """`embed`, called with no item twice."""
    known: dict[Hashable, Tensor] = {}

    def remembered(items: Any) -> Tensor:
        keys = [key(item) for item in items]
        new = {k: item for k, item in zip(keys, items, strict=True) if k not in known}
        if new:
            inputs = list(new.values())
            found = embed(torch.stack(inputs) if isinstance(items, Tensor) else inputs)
            known.update(zip(new, found, strict=True))
        return torch.stack([known[k] for k in keys])

    return remembered


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An open_clip state dict of a CLIP under transformers' names."""
    ends = {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "logit_scale": "logit_scale",
    }
    new = {ends[name]: value for name, value in state.items() if name in ends}
    new["text_projection.weight"] = state["text_projection"].T
    new["visual_projection.weight"] = state["visual.proj"].T
    for name, value in state.items():
        if ".resblocks." in name:
            new |= _renamed_block(name, value)
        elif "ln_" in name:
            place, _, kind = name.rpartition(".")
            norms = {
                "ln_final": "text_model.final_layer_norm",
                "visual.ln_pre": "vision_model.pre_layrnorm",
                "visual.ln_post": "vision_model.post_layernorm",
            }
            new[f"{norms[place]}.{kind}"] = value
    return new


def _renamed_block(name: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor of a transformer block; attention's joint input is cut into query, key and value."""
    tower, _, rest = name.partition("transformer.resblocks.")
    number, _, part = rest.partition(".")
    start = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        pieces = zip("qkv", value.chunk(3), strict=True)
        return {f"{start}.self_attn.{letter}_proj.{kind}": piece for letter, piece in pieces}
    for theirs, ours in {
        "attn.": "self_attn.",
        "ln_": "layer_norm",
        "c_fc": "fc1",
        "c_proj": "fc2",
    }.items():
        part = part.replace(theirs, ours)
    return {f"{start}.{part}": value}
