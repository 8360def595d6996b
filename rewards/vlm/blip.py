"""ImageReward's network: BLIP's image encoder, its text encoder looking at the image, five linear layers.

Source: THUDM/ImageReward@c1392c6 ImageReward/ImageReward.py `ImageReward`, ImageReward/models/BLIP.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from rewards.clip.towers import refuse_misfits

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the last layer's output over ImageReward's own validation data."""
VISION = BlipVisionConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=224,
    patch_size=16,
    layer_norm_eps=1e-6,
)
TEXT = BlipTextConfig(
    vocab_size=30524,
    hidden_size=768,
    encoder_hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=512,
    layer_norm_eps=1e-12,
)
UNUSED = frozenset(
    {
        "blip.text_encoder.embeddings.position_ids",  # whole numbers 0, 1, ...
        "blip.text_proj.bias",
        "blip.text_proj.weight",
        "blip.vision_proj.bias",
        "blip.vision_proj.weight",
    }
)
"""What the published file holds beside the parameters that a score depends on."""

_WIDTHS = (1024, 128, 64, 16, 1)
_PLACES = ("0", "2", "4", "6", "7")
"""Names of the linear layers; dropout stood between them in training."""
_PUBLISHED = (
    (r"^vision\.embeddings\.class_embedding$", "blip.visual_encoder.cls_token"),
    (r"^vision\.embeddings\.position_embedding$", "blip.visual_encoder.pos_embed"),
    (r"^vision\.embeddings\.patch_embedding\.", "blip.visual_encoder.patch_embed.proj."),
    (r"^vision\.post_layernorm\.", "blip.visual_encoder.norm."),
    (r"^vision\.encoder\.layers\.", "blip.visual_encoder.blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.projection\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
    (r"^text\.", "blip.text_encoder."),
    (r"^mlp\.", "mlp.layers."),
)


class BlipReward(nn.Module):
    """How well an image suits a text, as people would say."""

    def __init__(self, vision: BlipVisionConfig = VISION, text: BlipTextConfig = TEXT) -> None:
        """The network with random weights.

        Args:
            vision: shape of the image encoder.
            text: shape of the text encoder; its `encoder_hidden_size` is the image encoder's `hidden_size`.
        """
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        widths = zip((text.hidden_size, *_WIDTHS), _WIDTHS, strict=False)
        layers = zip(_PLACES, widths, strict=True)
        self.mlp = nn.Sequential(OrderedDict((name, nn.Linear(*both)) for name, both in layers))

    @property
    def image_size(self) -> int:
        """Side of the image encoder's square input, in pixels."""
        side = self.vision.config.image_size
        assert isinstance(side, int)
        return side

    def look(self, pixels: Tensor) -> Tensor:
        """What the text encoder sees of images.

        Args:
            pixels: (N, 3, image_size, image_size), CLIP-normalised.

        Returns:
            (N, 1 + patches, D), in the encoder's own dtype.
        """
        return self.vision(pixel_values=pixels.to(self.vision.dtype)).last_hidden_state

    def read(self, seen: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Rewards of images for texts, pair by pair.

        The linear layers run in float32, whatever the encoders' dtype, as in the reference.

        Args:
            seen: result of `look`, (N, 1 + patches, D).
            ids: tokens of N texts, (N, L).
            mask: 1 for a token and 0 for padding, (N, L).

        Returns:
            float32 (N,), native units: about a standard normal over the reference's validation data.
        """
        attended = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=seen.new_ones(seen.shape[:2], dtype=torch.long),
        )
        raw = self.mlp(attended.last_hidden_state[:, 0].float())
        return (raw[:, 0] - MEAN) / STD

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """`read` of what `look` saw."""
        return self.read(self.look(pixels), ids, mask)


def published(name: str) -> str:
    """Name in `ImageReward.pt` of one of `BlipReward`'s parameters."""
    for ours, theirs in _PUBLISHED:
        name = re.sub(ours, theirs, name)
    return name


def blip_reward(
    state: Mapping[str, Tensor],
    path: Path,
    vision: BlipVisionConfig = VISION,
    text: BlipTextConfig = TEXT,
) -> BlipReward:
    """The network around given weights, which are used in place, not copied.

    Args:
        state: name -> tensor, in the published spelling; names of `UNUSED` may be there or not.
        path: of the weights, named where they do not fit.
        vision: see `BlipReward`.
        text: see `BlipReward`.

    Raises:
        ConfigError: a tensor is missing, of another shape, or not known.
    """
    with torch.device("meta"):
        net = BlipReward(vision, text)
    wanted = {published(name): (name, old.shape) for name, old in net.state_dict().items()}
    both = wanted.keys() & state.keys()
    misfits = {
        "missing": wanted.keys() - state.keys(),
        "unexpected": state.keys() - wanted.keys() - UNUSED,
        "other shape": [name for name in both if state[name].shape != wanted[name][1]],
    }
    refuse_misfits(path, misfits)
    net.load_state_dict({ours: state[name] for name, (ours, _) in wanted.items()}, assign=True)
    places = torch.arange(text.max_position_embeddings)[None]
    net.text.embeddings.position_ids = places  # no parameter: it would stay on the meta device  # pyright: ignore[reportAttributeAccessIssue]
    return net.float()
