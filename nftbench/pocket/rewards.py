"""The pocket world's rewards: the classes of the real ones around small models that are shipped."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation, clip_boxes_to_image, nms
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from nftbench.pocket.networks import TEXT_LENGTH
from nftbench.pocket.world.scenes import SHAPES, SIZE
from rewards.base import MissingWeights, RewardInfo
from rewards.clip.clipscore import ClipScore
from rewards.clip.pickscore import TRAIN_SCALE, PickScore
from rewards.clip.towers import load_clip
from rewards.geneval.colours import ClipColorHead
from rewards.geneval.detector import Detections
from rewards.geneval.reward import GenEval
from rewards.images import preprocess
from rewards.weights.pull import verified

WEIGHTS = Path(__file__).parent / "weights" / "rewards"
REMEDY = "run `nftbench pocket build`, or install nftbench again"
BATCH_SIZE = 64
OVERLAP = 0.5
"""Intersection over union above which two boxes are one object; drawn things never touch."""
FLOOR = 0.05
"""Detections with a lower score are not reported."""

# --- models ---------------------------------------------------------------------------------------


class Backbone(nn.Sequential):
    """A small ResNet: (B, 3, 64, 64) to (B, 64, 8, 8)."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__(
            Conv2dNormActivation(3, 24, 3, stride=2),
            BasicBlock(24, 48, 2, _project(24, 48)),
            BasicBlock(48, 48),
            BasicBlock(48, 80, 2, _project(48, 80)),
            BasicBlock(80, 80),
            Conv2dNormActivation(80, self.out_channels, 1),
        )


def _project(channels: int, out_channels: int) -> nn.Module:
    return Conv2dNormActivation(channels, out_channels, 1, stride=2, activation_layer=None)


class ShapeDetector(FCOS):
    """torchvision's FCOS with a small backbone and one level of stride 8, for the eight shapes.

    Source: arXiv:1904.01355.
    """

    def __init__(self) -> None:
        backbone = Backbone()
        super().__init__(
            backbone,
            num_classes=len(SHAPES),
            anchor_generator=AnchorGenerator(((8,),), ((1.0,),)),
            head=FCOSHead(backbone.out_channels, 1, len(SHAPES), num_convs=2),
        )

    def raw(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Head outputs and anchors of images (B, 3, 64, 64) in [0, 1]."""
        features = [self.backbone(images * 4 - 2)]
        sizes = [(SIZE, SIZE)] * len(images)
        return self.head(features), self.anchor_generator(ImageList(images, sizes), features)

    @torch.no_grad()
    def candidates(self, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes (n, 4), class logits (n,) and labels (n,) of each image, best first.

        Of two boxes that overlap the better one stays, whatever the classes.

        Args:
            images: (B, 3, 64, 64) in [0, 1].

        Differs: FCOS multiplies the class score by centre-ness, which no calibration could undo.
        """
        outputs, anchors = self.raw(images)
        boxes = self.box_coder.decode(outputs["bbox_regression"], torch.stack(anchors))
        boxes = clip_boxes_to_image(boxes, (SIZE, SIZE))
        logits, labels = outputs["cls_logits"].max(-1)
        kept = [nms(b, s, OVERLAP) for b, s in zip(boxes, logits, strict=True)]
        return [(boxes[i, k], logits[i, k], labels[i, k]) for i, k in enumerate(kept)]


def make_detector() -> ShapeDetector:
    """The detector with random weights."""
    return ShapeDetector()


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A small CLIP with random weights: 64x64 pixels in patches of 8, `TEXT_LENGTH` tokens."""
    vision = {
        "image_size": SIZE,
        "patch_size": 8,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TEXT_LENGTH,
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=96))


class PocketDetector:
    """`rewards.geneval.detector.Detector` over a trained `ShapeDetector`.

    A score is sigmoid(slope * logit + offset), fitted so that of the detections with score s about
    a share s is right.
    """

    classes: Sequence[str] = SHAPES

    def __init__(
        self, model: ShapeDetector, *, slope: float, offset: float, device: str = "cpu"
    ) -> None:
        """Wrap a network.

        Args:
            model: the trained network.
            slope: of the calibration, > 0.
            offset: of the calibration.
            device: torch device to run on.
        """
        self._model = model.to(device).float().eval().requires_grad_(False)
        self._calibration = (slope, offset)
        self._device = device

    def detect(self, images: np.ndarray) -> list[Detections]:
        """Find objects: see `Detector.detect`. Images of another size are brought to 64x64."""
        height, width = images.shape[1:3]
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        if (height, width) != (SIZE, SIZE):
            pixels = interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
        stretch = torch.tensor([width, height, width, height]) / SIZE
        batches = [self._model.candidates(b.to(self._device)) for b in pixels.split(BATCH_SIZE)]
        return [
            self._detections(b.cpu() * stretch, *more) for batch in batches for b, *more in batch
        ]

    def _detections(self, boxes: Tensor, logits: Tensor, labels: Tensor) -> Detections:
        slope, offset = self._calibration
        scores = torch.sigmoid(slope * logits.cpu() + offset)
        rows = torch.cat([boxes, scores[:, None]], 1)
        places = {shape: (labels.cpu() == i) & (scores > FLOOR) for i, shape in enumerate(SHAPES)}
        return Detections(boxes={k: rows[p].numpy() for k, p in places.items() if p.any()})


# --- weights --------------------------------------------------------------------------------------


def checked(folder: str) -> Path:
    """A folder of shipped weights, every file in it verified against the manifest.

    Raises:
        MissingWeights: the manifest or a file is not there.
        ConfigError: a file holds something else.
    """
    manifest = _manifest()
    files = [name for name in manifest if name.startswith(f"{folder}/")]
    if not files:
        raise MissingWeights(f"no weights of {folder!r} under {WEIGHTS}; {REMEDY}.")
    for name in files:
        verified(WEIGHTS / name, manifest[name], remedy=REMEDY)
    return WEIGHTS / folder


def _manifest() -> dict[str, str]:
    """File below `WEIGHTS` -> sha256; empty before the first build."""
    path = WEIGHTS / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _shipped(*folders: str) -> tuple[str, ...]:
    return tuple(
        f"nftbench/pocket/weights/rewards/{name} sha256:{digest}"
        for name, digest in _manifest().items()
        if name.partition("/")[0] in folders and name.endswith(".safetensors")
    )


def load_detector(device: str = "cpu") -> PocketDetector:
    """The shipped detector."""
    folder = checked("detector")
    model = make_detector()
    model.load_state_dict(load_file(folder / "detector.safetensors"))  # copied into float32
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return PocketDetector(model, device=device, **config["calibration"])


def load_color_head(device: str = "cpu") -> ClipColorHead:
    """GenEval's colour check through the shipped CLIP, with all ten colours to choose from."""
    return ClipColorHead(load_clip(checked("clip"), device))


# --- rewards --------------------------------------------------------------------------------------


def geneval(*, device: str = "cpu") -> GenEval:
    """GenEval by the official rule."""
    return GenEval(load_detector(device), load_color_head(device), info=geneval.info)


def geneval_nft(*, device: str = "cpu") -> GenEval:
    """GenEval with DiffusionNFT's partial reward."""
    detector, head = load_detector(device), load_color_head(device)
    return GenEval(detector, head, info=geneval_nft.info, rule="nft")


def geneval_strict(*, device: str = "cpu") -> GenEval:
    """GenEval with DiffusionNFT's strict rule."""
    detector, head = load_detector(device), load_color_head(device)
    return GenEval(detector, head, info=geneval_strict.info, rule="strict")


def clipscore(*, device: str = "cpu") -> ClipScore:
    """CLIPScore."""
    tower = load_clip(checked("clip"), device)
    return ClipScore(tower, transform=preprocess.clipscore_nft, info=clipscore.info)


def pickscore(*, device: str = "cpu") -> PickScore:
    """PickScore."""
    return PickScore(load_clip(checked("pickscore"), device), info=pickscore.info)


geneval.info = RewardInfo(
    name="geneval",
    variant="pocket",
    summary="GenEval's official rule on the pocket world, 0 or 1",
    low=0,
    high=1,
    ends=(0, 1),
    needs="geneval metadata",
    weights=_shipped("detector", "clip"),
    licence="Apache-2.0",
    source="djghosh13/geneval@af4902f evaluation/evaluate_images.py; detector, CLIP: pocket world",
)
geneval_nft.info = RewardInfo(
    name="geneval",
    variant="pocket-nft",
    summary="DiffusionNFT's partial GenEval reward on the pocket world, at most 1",
    low=-14,
    high=1,
    ends=(0, 1),
    needs="geneval metadata",
    weights=_shipped("detector", "clip"),
    licence="Apache-2.0",
    source="NVlabs/DiffusionNFT@24af555 flow_grpo/gen_eval.py; detector and CLIP: pocket world",
)
geneval_strict.info = RewardInfo(
    name="geneval",
    variant="pocket-strict",
    summary="DiffusionNFT's strict rule on the pocket world, 0 or 1: exactly as many objects as asked for",
    low=0,
    high=1,
    ends=(0, 1),
    needs="geneval metadata",
    weights=_shipped("detector", "clip"),
    licence="Apache-2.0",
    source="NVlabs/DiffusionNFT@24af555 flow_grpo/gen_eval.py; detector and CLIP: pocket world",
)
clipscore.info = RewardInfo(
    name="clipscore",
    variant="pocket",
    summary="cosine of image and caption in the pocket world's CLIP",
    low=-1,
    high=1,
    weights=_shipped("clip"),
    licence="Apache-2.0",
    source="NVlabs/DiffusionNFT@24af555 flow_grpo/clip_scorer.py, with the pocket world's CLIP",
)
pickscore.info = RewardInfo(
    name="pickscore",
    variant="pocket",
    summary="preference model of the pocket world: exp(logit_scale) times the cosine",
    low=-100,
    high=100,
    train_scale=TRAIN_SCALE,
    weights=_shipped("pickscore"),
    licence="Apache-2.0",
    source="arXiv:2305.01569 Sec. 3, trained on the pocket world's own preferences",
)
