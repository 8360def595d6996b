"""mmdet's Mask2Former checkpoints, renamed: from mmdet 2's names to mmdet 3's, and from those to transformers'.

Every tensor is a rename but Swin's patch merging, whose input channels mmdet orders as `nn.Unfold` does, and the
attention matrices that one of the two keeps in one piece.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rewards.base import ConfigError
from rewards.weights.stand_ins import content_of

State = Mapping[str, Tensor]

_V2_TO_V3 = (
    (r"(pixel_decoder\.encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.0\.", r"\1.cross_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.self_attn."),
    (r"(panoptic_head\..+\.layers\.\d+)\.ffns\.0\.", r"\1.ffn."),
)

_SWIN = "model.pixel_level_module.encoder"
_PIXELS = "model.pixel_level_module.decoder"
_QUERIES = "model.transformer_module"
_RENAMES = (
    # Swin
    (
        r"backbone\.patch_embed\.projection\.",
        rf"{_SWIN}.swin.embeddings.patch_embeddings.projection.",
    ),
    (r"backbone\.patch_embed\.norm\.", rf"{_SWIN}.swin.embeddings.norm."),
    (r"backbone\.stages\.(\d+)\.", rf"{_SWIN}.swin.encoder.layers.\1."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.w_msa\.proj\.", ".attention.o_proj."),
    (r"\.attn\.w_msa\.relative_", ".attention.relative_position_bias.relative_"),
    (r"(\.blocks\.\d+)\.ffn\.", r"\1.mlp."),
    # pixel decoder
    (r"panoptic_head\.pixel_decoder\.input_convs\.", f"{_PIXELS}.input_projections."),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.", f"{_PIXELS}.adapter_1."),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.", f"{_PIXELS}.layer_1."),
    (r"panoptic_head\.pixel_decoder\.level_encoding\.weight", f"{_PIXELS}.level_embed"),
    (r"panoptic_head\.pixel_decoder\.mask_feature\.", f"{_PIXELS}.mask_projection."),
    (r"panoptic_head\.pixel_decoder\.encoder\.", f"{_PIXELS}.encoder."),
    (r"(decoder\.encoder\.layers\.\d+)\.norms\.0\.", r"\1.self_attn_layer_norm."),
    (r"(decoder\.encoder\.layers\.\d+)\.norms\.1\.", r"\1.final_layer_norm."),
    (r"\.conv\.", ".0."),
    (r"\.gn\.", ".1."),
    # transformer decoder
    (r"panoptic_head\.transformer_decoder\.post_norm\.", f"{_QUERIES}.decoder.layernorm."),
    (r"panoptic_head\.transformer_decoder\.", f"{_QUERIES}.decoder."),
    (r"panoptic_head\.query_embed\.", f"{_QUERIES}.queries_embedder."),
    (r"panoptic_head\.query_feat\.", f"{_QUERIES}.queries_features."),
    (r"panoptic_head\.level_embed\.", f"{_QUERIES}.level_embed."),
    (r"panoptic_head\.cls_embed\.", "class_predictor."),
    (r"(_module\.decoder\.layers\.\d+)\.norms\.0\.", r"\1.cross_attn_layer_norm."),
    (r"(_module\.decoder\.layers\.\d+)\.norms\.1\.", r"\1.self_attn_layer_norm."),
    (r"(_module\.decoder\.layers\.\d+)\.norms\.2\.", r"\1.final_layer_norm."),
    (r"\.(cross|self)_attn\.attn\.", r".\1_attn."),
    (r"\.ffn\.", "."),
    (r"\.layers\.0\.0\.(weight|bias)$", r".fc1.\1"),
    (r"\.layers\.1\.(weight|bias)$", r".fc2.\1"),
)
_SPLITS = (
    (r"(.*)\.attn\.w_msa\.qkv\.(weight|bias)", r"\1.attention.{}_proj.\2"),
    (r"(.*transformer_decoder.*\.self_attn)\.attn\.in_proj_(weight|bias)", r"\1.{}_proj.\2"),
)
"""One tensor there, three (q, k, v) here."""


def to_v3(state: State) -> dict[str, Tensor]:
    """A state dict in mmdet 3's names; one that has them already comes back as it is.

    Source: open-mmlab/mmdetection@v2.28.2 and @v3.3.0 mmdet/models/layers/transformer.
    """
    return {_substituted(name, _V2_TO_V3): tensor for name, tensor in state.items()}


def to_transformers(state: State) -> dict[str, Tensor]:
    """An mmdet Mask2Former over a Swin, in the names and layout of `Mask2FormerForUniversalSegmentation`.

    Args:
        state: state dict by mmdet 2 or 3.

    Raises:
        ConfigError: a name that such a network does not have.

    Source: open-mmlab/mmdetection@v3.3.0 mmdet/models/utils/ckpt_convert.py (the order that is undone);
    huggingface/transformers@v5.23.0 models/mask2former, models/swin.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in to_v3(state).items():
        if name.endswith("relative_position_index"):
            continue  # a constant, which transformers computes
        for new, value in _split(name, tensor):
            out[_translated(new)] = value
    return out


def _split(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    for pattern, template in _SPLITS:
        match = re.fullmatch(pattern, name)
        if match:
            names = [match.expand(template.format(part)) for part in "qkv"]
            return list(zip(names, tensor.chunk(3), strict=True))
    if ".downsample." in name:
        return [(name, from_unfold_order(tensor))]
    return [(name, tensor)]


def from_unfold_order(tensor: Tensor) -> Tensor:
    """The last axis of a patch merging's weight, from `nn.Unfold`'s order to Swin's own.

    Args:
        tensor: (..., 4C); channel-major, the 2x2 places of a channel row by row.

    Returns:
        (..., 4C); place-major, places column by column.
    """
    by_channel = tensor.unflatten(-1, (-1, 4))
    return by_channel[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2).contiguous()


def _translated(name: str) -> str:
    stage_norm = re.fullmatch(r"backbone\.norm(\d)\.(\w+)", name)
    if stage_norm:
        return f"{_SWIN}.hidden_states_norms.stage{int(stage_norm[1]) + 1}.{stage_norm[2]}"
    mask_layer = re.fullmatch(r"panoptic_head\.mask_embed\.([024])\.(\w+)", name)
    if mask_layer:
        number = int(mask_layer[1]) // 2
        return f"{_QUERIES}.decoder.mask_predictor.mask_embedder.{number}.0.{mask_layer[2]}"
    new = _substituted(name, _RENAMES)
    if not new.startswith(("model.", "class_predictor.")):
        raise ConfigError(
            f"tensor {name!r} is none of mmdet's Mask2Former over a Swin; expected a checkpoint of such a network."
        )
    return new


def _substituted(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


# --- files ----------------------------------------------------------------------------------------


class _Ignored:
    """Stands for training history in a checkpoint's metadata, which nobody reads here."""

    def __init__(self, *_: object) -> None:
        pass


_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
_LOOKUPS = ("builtins.getattr", "__builtin__.getattr")
"""How a buffer's methods are pickled; read as nothing, and never looked up."""


def _numpy_names() -> list[tuple[Callable[..., object], str]]:
    """What numpy arrays and numbers are pickled with, by numpy 1 and 2."""
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"}
    core = np._core.multiarray  # pyright: ignore[reportAttributeAccessIssue]
    made = [(getattr(core, part), part) for part in ("_reconstruct", "scalar")]
    return [
        *(
            (made_by, f"numpy.{root}.multiarray.{part}")
            for root in ("core", "_core")
            for made_by, part in made
        ),
        (np.ndarray, "numpy.ndarray"),
        (np.dtype, "numpy.dtype"),
        *((dtype, f"numpy.dtypes.{dtype.__name__}") for dtype in dtypes),
    ]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in an mmdet checkpoint, read without running anything that the file asks for.

    Of the metadata only numbers, texts, numpy arrays and mmengine's training history are let through.

    Args:
        path: `.pth` file: a dict with the key `state_dict`, or a bare state dict.

    Raises:
        ConfigError: the file is no such checkpoint, or holds other objects.
    """
    other = content_of(path)
    if other is not None:
        return other
    allowed = [*_numpy_names(), *((_Ignored, name) for name in (_HISTORY, *_LOOKUPS))]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if "Unsupported" in line), lines[0])
        raise ConfigError(
            f"{path} cannot be read as a checkpoint of tensors: {reason}; fetch it again."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"{path} holds no state dict; expected mmdet's checkpoint, a dict with `state_dict`."
        )
    return dict(state)
