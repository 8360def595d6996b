"""The registered variants of GenEval: presets of explicit knobs over the same classes.

Who runs GenEval runs a different one: channels swapped or not, JPEG or not, QuickGELU or GELU in the colour check, the
official rule or DiffusionNFT's. Each variant says which.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from rewards.base import ConfigError, Reward, RewardInfo, Weight
from rewards.clip import models as clip_models
from rewards.clip.towers import Activation
from rewards.geneval import mask2former, mmdet
from rewards.geneval.colours import ColorHead, openai_color_head
from rewards.geneval.detector import Detector
from rewards.geneval.reward import GenEval
from rewards.shared import shared
from rewards.weights.pull import weight_file
from rewards.weights.stand_ins import content_of, stand_in

MMDET = Weight(
    name="mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth",
    url=(
        "https://download.openmmlab.com/mmdetection/v2.0/mask2former/"
        "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco/"
        "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
    ),
    sha256="743b7d99015f1224c6d57fd4b14d04b15cc8ec72ae7ee7831e7c71d8873b7a54",
    size=275_630_991,
    licence="Apache-2.0",
)
"""The detector that GenEval names; openmmlab writes the first digits of the sha256 into the file's name."""
META = Weight(
    name="mask2former-swin-small-coco-instance/pytorch_model.bin",
    url=(
        "hf://facebook/mask2former-swin-small-coco-instance"
        "@f77f179fc62b98f6734481ebbef5bceeb1e7f10b/pytorch_model.bin"
    ),
    sha256="",
    size=0,
    licence="other",
)
"""Meta's own training of the same architecture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Knobs:
    """In what one GenEval differs from another."""

    summary: str
    channel_order: mask2former.Channels = "rgb"
    """What the detector sees; the colour check always sees right colours."""
    jpeg_quality: int | None = None
    """0-100; None takes the pixels as they are."""
    activation: Activation = "quick_gelu"
    """Of the colour check's CLIP."""
    rule: Literal["official", "nft"] = "official"
    detector: Literal["converted", "mmdet", "hub"] = "converted"
    """Whose code and whose weights: mmdet's weights run by transformers or by mmdet, or Meta's by transformers."""


PRESETS = {
    "official": Knobs(summary="GenEval's official rule on lossless images, 0 or 1"),
    "nft": Knobs(
        summary="DiffusionNFT's partial GenEval reward: red and blue swapped for the detector, GELU; at most 1",
        channel_order="bgr",
        activation="gelu",
        rule="nft",
    ),
    "flowgrpo": Knobs(
        summary="Flow-GRPO's partial GenEval reward: as @nft, images through JPEG quality 75; at most 1",
        channel_order="bgr",
        activation="gelu",
        rule="nft",
        jpeg_quality=75,
    ),
    "promptrl": Knobs(
        summary="PromptRL's GenEval: as @flowgrpo with QuickGELU; at most 1",
        channel_order="bgr",
        rule="nft",
        jpeg_quality=75,
    ),
    "hf": Knobs(
        summary="GenEval's official rule over Meta's own detector: no parity with GenEval, 0 or 1",
        detector="hub",
    ),
    "mmdet": Knobs(
        summary="GenEval's official rule over mmdet 3.3 itself, 0 or 1", detector="mmdet"
    ),
}
"""Sources: djghosh13/geneval@af4902f evaluation/evaluate_images.py, environment.yml; NVlabs/DiffusionNFT@24af555
flow_grpo/gen_eval.py; yifan123/reward-server@92ac29f; G-U-N/UniRL@53c28c9."""


def assemble(variant: str, detector: Detector, color_head: ColorHead) -> GenEval:
    """A variant of a detector and a colour head that were made by its knobs.

    Args:
        variant: one of `PRESETS`.
        detector: see `detector_of`.
        color_head: see `openai_color_head`.
    """
    knobs = PRESETS[variant]
    return GenEval(
        detector,
        color_head,
        info=_info(variant, knobs),
        rule=knobs.rule,
        jpeg_quality=knobs.jpeg_quality,
    )


def detector_of(
    variant: str, network: Any, *, device: str = "cpu", dtype: str = "float32", **more: Any
) -> Detector:
    """The detector of a variant.

    Args:
        variant: one of `PRESETS`.
        network: `Mask2FormerForUniversalSegmentation`, for @mmdet what `rewards.geneval.mmdet.build` made.
        device: torch device.
        dtype: one of `rewards.clip.towers.DTYPES`.
        more: other arguments of the detector.

    Raises:
        ConfigError: mmdet in half precision.
    """
    knobs = PRESETS[variant]
    if knobs.detector != "mmdet":
        return mask2former.Mask2FormerDetector(
            network, channel_order=knobs.channel_order, device=device, dtype=dtype, **more
        )
    if dtype != "float32":
        raise ConfigError(f"geneval@mmdet runs in float32, got {dtype!r}.")
    return mmdet.MmdetDetector(network, channel_order=knobs.channel_order, **more)


@shared
def _network(kind: str, path: Path, device: str) -> Any:
    """One object a process while it is used; variants over the same weights share it."""
    other = content_of(path)
    if isinstance(other, nn.Module):
        return other
    if kind == "mmdet":
        return mmdet.load(path, device=device)
    load = mask2former.load_hub if kind == "hub" else mask2former.load_mmdet
    return load(path).to(device)


def _detector_weight(knobs: Knobs) -> Weight:
    return META if knobs.detector == "hub" else MMDET


def _info(variant: str, knobs: Knobs) -> RewardInfo:
    files = (_detector_weight(knobs), clip_models.VIT_L_14)
    return RewardInfo(
        name="geneval",
        variant=variant,
        summary=knobs.summary,
        low=0 if knobs.rule == "official" else -14,
        high=1,
        ends=(0, 1),  # the partial reward falls below 0 only where many objects too many are drawn
        needs="geneval metadata",
        weights=tuple(f"{file.url} sha256:{file.sha256 or 'not known'}" for file in files),
        files=files,
        licence="MIT (rules), Apache-2.0 (detector), MIT (CLIP)"
        if knobs.detector != "hub"
        else "MIT (rules), Meta's licence (detector), MIT (CLIP)",
        source=(
            "djghosh13/geneval@af4902f evaluation/evaluate_images.py"
            if knobs.rule == "official"
            else "NVlabs/DiffusionNFT@24af555 flow_grpo/gen_eval.py"
        ),
    )


def _variant(variant: str) -> Callable[..., Reward]:
    """Factory of one variant, with its `info`."""
    knobs = PRESETS[variant]
    info = _info(variant, knobs)

    def factory(*, device: str = "cpu", dtype: str = "float32") -> Reward:
        if knobs.detector == "mmdet" and not stand_in(_detector_weight(knobs).name):
            mmdet.import_mmdet()  # a missing package is named before missing weights
        path = weight_file(_detector_weight(knobs), reward=info.key)
        network = _network(knobs.detector, path, device)
        detector = detector_of(variant, network, device=device, dtype=dtype)
        head = openai_color_head(info.key, activation=knobs.activation, device=device, dtype=dtype)
        return assemble(variant, detector, head)

    factory.info = info  # type: ignore[attr-defined]
    return factory


official = _variant("official")
nft = _variant("nft")
flowgrpo = _variant("flowgrpo")
promptrl = _variant("promptrl")
hf = _variant("hf")
with_mmdet = _variant("mmdet")
