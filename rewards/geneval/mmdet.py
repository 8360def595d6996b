"""GenEval's detector by mmdet 3.3 itself, with nothing compiled: the oracle of the converted one.

mmdet wants mmcv's compiled operators at import. A stand-in takes their place, and mmcv's own fallback in pure torch
does the one operator that a Mask2Former needs.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from rewards.base import ConfigError, MissingExtra
from rewards.geneval.classes import CLASSES
from rewards.geneval.convert import State, read_checkpoint, to_v3
from rewards.geneval.detector import Detections
from rewards.geneval.instances import Instances
from rewards.geneval.mask2former import FLOOR, Channels

CONFIG = ".mim/configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"
"""Within the mmdet package."""


class _Operators(ModuleType):
    """`mmcv._ext` without operators: there is one of every name, and calling it is an error."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: object, **__: object) -> NoReturn:
            raise NotImplementedError(f"mmcv's operator {name!r} is not compiled here")

        return missing


def import_mmdet() -> ModuleType:
    """mmdet, on its fallback in pure torch where mmcv's operators were not compiled.

    Raises:
        MissingExtra: mmdet or a package it needs is not installed.

    Differs: with compiled operators they are used, which is what mmdet does on its own.
    """
    missing = [name for name in ("mmdet", "mmengine", "mmcv") if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"geneval@mmdet needs {missing[0]}; pip install 'nftbench[mmdet]'.")
    if "mmcv._ext" not in sys.modules and find_spec("mmcv._ext") is None:
        stand_in = _Operators("mmcv._ext")
        stand_in.__spec__ = ModuleSpec("mmcv._ext", None)
        sys.modules["mmcv._ext"] = stand_in
    import mmdet.apis
    from mmcv.ops import multi_scale_deform_attn

    if isinstance(sys.modules["mmcv._ext"], _Operators):
        multi_scale_deform_attn.IS_CUDA_AVAILABLE = False  # so that it falls back on a GPU too
    return mmdet


def build(state: State, *, device: str = "cpu", changes: dict[str, Any] | None = None) -> Any:
    """A Mask2Former over Swin-S by mmdet, ready for `mmdet.apis.inference_detector`.

    Args:
        state: its tensors, in mmdet 2's or 3's names.
        device: torch device.
        changes: of the published config, `dotted.key -> value`.

    Raises:
        ConfigError: tensors are missing, unknown or of another shape.
        MissingExtra: see `import_mmdet`.
    """
    mmdet = import_mmdet()
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    config = Config.fromfile(Path(mmdet.__path__[0]) / CONFIG)
    config.model.backbone.init_cfg = None  # its weights are in the checkpoint
    config.merge_from_dict(changes or {})
    init_default_scope("mmdet")
    model = mmdet.registry.MODELS.build(config.model)
    constants = {k: v for k, v in model.state_dict().items() if k.endswith("position_index")}
    try:
        model.load_state_dict(constants | to_v3(state))
    except RuntimeError as error:
        raise ConfigError(f"checkpoint does not fit mmdet's network: {error}") from error
    model.cfg = config
    return model.to(device).eval().requires_grad_(False)


class MmdetDetector:
    """`rewards.geneval.detector.Detector` over mmdet's own pipeline.

    Differs from `Mask2FormerDetector`, as mmdet 3 from mmdet 2: pictures are resized in float32, and one that is not
    square is filled up with 0 after it was normalised.
    """

    classes: Sequence[str] = CLASSES

    def __init__(
        self, model: Any, *, channel_order: Channels = "rgb", floor: float = FLOOR
    ) -> None:
        """Wrap a network.

        Args:
            model: made by `build`.
            channel_order: see `Mask2FormerDetector`.
            floor: objects with a lower score are not reported, 0-1.
        """
        self._model = model
        self._channel_order = channel_order
        self._floor = floor

    def detect(self, images: np.ndarray) -> list[Detections]:
        """Find objects: see `Detector.detect`."""
        return [
            self.instances(image).detections(self.classes, floor=self._floor) for image in images
        ]

    def instances(self, image: np.ndarray) -> Instances:
        """Every object of one picture, uint8 RGB (H, W, 3), however faint."""
        from mmdet.apis import inference_detector

        # mmdet takes an array for blue, green, red and swaps it before the network
        given = image[..., ::-1] if self._channel_order == "rgb" else image
        found = inference_detector(self._model, np.ascontiguousarray(given)).pred_instances
        return Instances(
            labels=found.labels, scores=found.scores, boxes=found.bboxes, masks=found.masks
        )


def load(path: Path, *, device: str = "cpu") -> Any:
    """The network of a checkpoint file by mmdet 2 or 3: see `build`."""
    return build(read_checkpoint(path), device=device)
