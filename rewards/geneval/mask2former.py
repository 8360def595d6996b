"""GenEval's detector in pure torch: mmdet's Mask2Former over Swin-S, run by transformers.

Source: open-mmlab/mmdetection@v2.28.2 configs/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from rewards.base import ConfigError
from rewards.clip.towers import DTYPES
from rewards.geneval.classes import CLASSES
from rewards.geneval.convert import read_checkpoint, to_transformers
from rewards.geneval.detector import Detections
from rewards.geneval.instances import Instances, Size, instances

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Of red, green and blue, 0-255."""
SCALE = (1333, 800)
"""A picture is resized to the largest size of which the longer side is at most the one, the shorter the other."""
DIVISOR = 32
PAD = 128
"""Grey level, 0-255, of what is added at the right and the bottom."""
FLOOR = 0.05
"""Objects with a lower score are not reported; the rules look at those above 0.3."""
UNUSED = ("criterion.empty_weight", "encoder.swin.layernorm.weight", "encoder.swin.layernorm.bias")
"""Ends of names of transformers' tensors that no output depends on."""

Channels = Literal["rgb", "bgr"]
Pipeline = Literal["mmdet2", "mmdet3"]


def swin_s_config(**changes: Any) -> Any:
    """Hyper-parameters of the published network, as a `Mask2FormerConfig`.

    Args:
        changes: other values for `Mask2FormerConfig`'s arguments; those of `backbone_config`, a dict, change single
            arguments of `SwinConfig`.
    """
    from transformers import Mask2FormerConfig, SwinConfig

    swin: dict[str, Any] = {
        "embed_dim": 96,
        "depths": [2, 2, 18, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    } | changes.pop("backbone_config", {})
    changes = {"num_labels": len(CLASSES)} | changes
    return Mask2FormerConfig(backbone_config=SwinConfig(**swin), **changes)


def converted(state: Mapping[str, Tensor], config: Any | None = None) -> Any:
    """The network of an mmdet state dict, as a `Mask2FormerForUniversalSegmentation`.

    Args:
        state: in mmdet 2's or 3's names.
        config: its hyper-parameters, those of the published network when left out.

    Raises:
        ConfigError: tensors are missing, unknown or of another shape.
    """
    return _filled(to_transformers(state), config or swin_s_config())


def load_mmdet(path: Path) -> Any:
    """The network of mmdet's published checkpoint; see `converted`."""
    return converted(read_checkpoint(path))


def load_hub(path: Path, config: Any | None = None) -> Any:
    """The network of Meta's checkpoint on the hub, whose names transformers knows.

    Args:
        path: file of `torch.save`.
        config: its hyper-parameters, those of the published network when left out.

    Raises:
        ConfigError: tensors are missing or unknown, or the file holds other objects.
    """
    return _filled(read_checkpoint(path), config or swin_s_config())


def _filled(state: Mapping[str, Tensor], config: Any) -> Any:
    """A network of transformers with these tensors.

    Raises:
        ConfigError: tensors are missing, unknown or of another shape.
    """
    from transformers import Mask2FormerForUniversalSegmentation
    from transformers.utils import logging

    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is named below
    try:
        loaded: Any = Mask2FormerForUniversalSegmentation.from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True
        )
    except RuntimeError as error:
        raise ConfigError(f"weights do not fit a Mask2Former over Swin-S: {error}") from error
    finally:
        logging.set_verbosity(loud)
    model, report = loaded
    wrong = {
        kind: sorted(name for name in map(str, names) if not name.endswith(UNUSED))
        for kind, names in report.items()
    }
    if any(wrong.values()):
        raise ConfigError(f"weights are not those of a Mask2Former over Swin-S: {wrong}.")
    return model


class Mask2FormerDetector:
    """`rewards.geneval.detector.Detector` over a converted network.

    Differs: images go through the network one by one, so that an answer never depends on its batch.
    """

    classes: Sequence[str] = CLASSES

    def __init__(
        self,
        model: Any,
        *,
        channel_order: Channels = "rgb",
        pipeline: Pipeline = "mmdet2",
        scale: tuple[int, int] = SCALE,
        floor: float = FLOOR,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        """Wrap a network.

        Args:
            model: `Mask2FormerForUniversalSegmentation` with one label a class.
            channel_order: `bgr` shows it red and blue swapped, as everyone who gives mmdet an RGB array does.
            pipeline: whose preprocessing; see `network_input`.
            scale: longer and shorter side that pictures are fitted into, pixels.
            floor: objects with a lower score are not reported, 0-1.
            device: torch device to run on.
            dtype: one of `rewards.clip.towers.DTYPES`; weights stay in float32, half precision is autocast.

        Raises:
            ConfigError: unknown precision.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"precision {dtype!r} is none of {', '.join(DTYPES)}.")
        self._model = model.to(device).float().eval().requires_grad_(False)
        self._channel_order = channel_order
        self._pipeline: Pipeline = pipeline
        self._scale = scale
        self._floor = floor
        self._device = torch.device(device)
        self._dtype = DTYPES[dtype]

    def detect(self, images: np.ndarray) -> list[Detections]:
        """Find objects: see `Detector.detect`."""
        return [
            self.instances(image).detections(self.classes, floor=self._floor) for image in images
        ]

    def instances(self, image: np.ndarray) -> Instances:
        """Every object of one picture, uint8 RGB (H, W, 3), however faint."""
        seen = image[..., ::-1] if self._channel_order == "bgr" else image
        pixels, resized = network_input(seen, self._pipeline, self._scale)
        classes, masks = self.logits(pixels)
        height, width = pixels.shape[-2:]
        return instances(
            classes[0],
            masks[0],
            padded=(height, width),
            resized=resized,
            original=image.shape[:2],
        )

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What the network says.

        Args:
            pixels: float32 (B, 3, H, W), normalised, sides divisible by 32.

        Returns:
            class logits (B, Q, classes + 1) and mask logits (B, Q, H / 4, W / 4), on the network's device.
        """
        half = self._dtype != torch.float32
        with torch.autocast(
            self._device.type, self._dtype if half else torch.bfloat16, enabled=half
        ):
            out = self._model(pixel_values=pixels.to(self._device))
        return out.class_queries_logits, out.masks_queries_logits


def network_input(
    image: np.ndarray, pipeline: Pipeline = "mmdet2", scale: tuple[int, int] = SCALE
) -> tuple[Tensor, Size]:
    """A picture as the network takes it: resized (bilinear, no antialias), padded, normalised.

    `mmdet2` resizes in uint8 and pads with grey 128 before it normalises; `mmdet3` resizes in float32 and pads
    with 0 after. A square picture is not padded.

    Args:
        image: uint8 (H, W, 3) in the order of channels that the network shall see.
        pipeline: generation of mmdet.
        scale: longer and shorter side to fit into, pixels.

    Returns:
        float32 (1, 3, h, w) with h and w divisible by 32, and the size of the picture in it.

    Source: open-mmlab/mmdetection@v2.28.2 configs/mask2former/mask2former_r50_lsj_8x2_50e_coco.py `test_pipeline`;
    @v3.3.0 configs/mask2former/mask2former_r50_8xb2-lsj-50e_coco.py; open-mmlab/mmcv@v1.7.2 mmcv/image/geometric.py.
    """
    height, width = image.shape[:2]
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    size = int(height * factor + 0.5), int(width * factor + 0.5)
    below, right = (-side % DIVISOR for side in size)
    given = np.ascontiguousarray(image if pipeline == "mmdet2" else image.astype(np.float32))
    resized = cv2.resize(given, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
    fill = (PAD,) * 3 if pipeline == "mmdet2" else MEAN
    padded = cv2.copyMakeBorder(resized, 0, below, 0, right, cv2.BORDER_CONSTANT, value=fill)
    pixels = torch.from_numpy((padded - np.float32(MEAN)) / np.float32(STD))  # pyright: ignore[reportArgumentType]
    return pixels.permute(2, 0, 1)[None].contiguous(), size
