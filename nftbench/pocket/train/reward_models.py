"""Training of the pocket world's rewards: a detector, a CLIP and a preference model."""

import json
import math
from functools import reduce
from hashlib import sha256
from operator import add
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.ops import box_iou

from nftbench.pocket.networks import make_tokenizer
from nftbench.pocket.rewards import ShapeDetector, make_clip, make_detector
from nftbench.pocket.train.loop import Job, averaged, muon_and_adamw
from nftbench.pocket.world import training_data
from nftbench.pocket.world.scenes import COLORS, SHAPES
from nftbench.pocket.world.training_data import ClipBatch, PreferencePairs
from rewards.images.preprocess import CLIP_MEAN, CLIP_STD

DETECTOR_STEPS, DETECTOR_BATCH = 4500, 64
CLIP_STEPS, CLIP_SCENES, CLIP_CROPS, CLIP_DAMAGED = 2200, 48, 16, 24
DETECTOR_SEED, CLIP_SEED, PICKSCORE_SEED = 50_000_000, 60_000_000, 70_000_000
CALIBRATION_SEED, CALIBRATION_BATCHES = 80_000_000, 30
PICKSCORE_STEPS, PICKSCORE_PAIRS = 900, 45
LARGEST_SCALE = 100.0
"""CLIP's bound on exp(logit_scale)."""


def half() -> torch.autocast:
    """bfloat16 autocast: the rewards are trained on the CPU."""
    return torch.autocast("cpu", torch.bfloat16)


def detector_job(steps: int = DETECTOR_STEPS) -> Job:
    """The detector, with FCOS's own losses."""
    torch.manual_seed(0)
    model = make_detector()

    def loss(step: int) -> Tensor:
        images, targets = training_data.detector_batch(DETECTOR_SEED + step, DETECTOR_BATCH)
        with half():
            outputs, anchors = model.raw(images)
        outputs = {k: v.float() for k, v in outputs.items()}
        losses = model.compute_loss(targets, outputs, anchors, [anchors[0].shape[0]])
        return reduce(add, losses.values())

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01)
    return Job(
        name="detector", model=model, loss=loss, optimizers=[optimizer], steps=steps, ema=0.995
    )


class ClipLearner(nn.Module):
    """A CLIP with two helpers that are thrown away: what stands where, read from each patch."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = make_tokenizer()
        self.clip = make_clip(self.tokenizer)
        width = self.clip.vision_model.config.hidden_size
        self.shape = nn.Linear(width, 1 + len(SHAPES))
        self.color = nn.Linear(width, 1 + len(COLORS))

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (B, D) and patch features (B, 64, C) of images (B, 3, 64, 64) in 0-1."""
        with half(), sdpa_kernel(SDPBackend.MATH):
            output = self.clip.vision_model(pixel_values=normalised(images))
            embeds = self.clip.visual_projection(output.pooler_output)
        return F.normalize(embeds.float(), dim=-1), output.last_hidden_state[:, 1:]

    def read(self, captions: list[str]) -> Tensor:
        """Unit embeddings (N, D) of captions."""
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        )
        with half(), sdpa_kernel(SDPBackend.MATH):
            embeds = self.clip.get_text_features(**tokens).pooler_output  # pyright: ignore[reportAttributeAccessIssue]
        assert embeds is not None
        return F.normalize(embeds.float(), dim=-1)

    @property
    def scale(self) -> Tensor:
        """Factor on the cosine."""
        return self.clip.logit_scale.exp().clamp(max=LARGEST_SCALE)


def normalised(images: Tensor) -> Tensor:
    """CLIP's normalisation of images (B, 3, H, W) in [0, 1]."""
    return (images - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def clip_loss(learner: ClipLearner, batch: ClipBatch) -> Tensor:
    """Symmetric contrast with hard negatives on both sides, and what stands where; scalar.

    An image picks its caption among all captions and all near misses; a caption picks its image
    among all images and all damaged ones. Other captions that fit an image are no choice of it.

    Source: arXiv:2103.00020 Sec. 2.3; hard negatives as in arXiv:2210.01936 Sec. 4.
    """
    count = len(batch.images)
    seen, features = learner.see(torch.cat([batch.images, batch.damaged]))
    texts = batch.captions + batch.wrong
    also = torch.tensor([[t in fits for t in texts] for fits in batch.fitting])
    also[range(count), range(count)] = False
    logits = learner.scale * seen @ learner.read(texts).T
    of_image = logits[:count].masked_fill(also, -torch.inf)
    damaged = logits[count:, :count]
    of_text = torch.cat([of_image[:, :count], damaged]).T
    own = torch.arange(count)
    contrast = F.cross_entropy(of_image, own) + F.cross_entropy(of_text, own)
    with half():
        what, tint = (h(features[:count]).flatten(0, 1) for h in (learner.shape, learner.color))
    target = batch.patches.flatten(0, 1)
    places = F.cross_entropy(what.float(), target[:, 0]) + F.cross_entropy(
        tint.float(), target[:, 1]
    )
    return contrast / 2 + places / 2


def clip_job(steps: int = CLIP_STEPS) -> Job:
    """The CLIP on scenes and on crops of objects."""
    torch.manual_seed(0)
    learner = ClipLearner()

    def loss(step: int) -> Tensor:
        batch = training_data.clip_batch(CLIP_SEED + step, CLIP_SCENES, CLIP_CROPS, CLIP_DAMAGED)
        return clip_loss(learner, batch)

    optimizers = _optimizers(learner)
    return Job(name="clip", model=learner, loss=loss, optimizers=optimizers, steps=steps, ema=0.995)


def pickscore_job(folder: Path, steps: int = PICKSCORE_STEPS) -> Job:
    """The preference model, from the trained CLIP in `folder` on; its logit scale is learnt too.

    Source: arXiv:2305.01569 Sec. 3: softmax over the two images' exp(logit_scale)*cos.
    """
    learner = averaged("clip", ClipLearner(), folder).train()

    def loss(step: int) -> Tensor:
        shown = training_data.preference_pairs(PICKSCORE_SEED + step, PICKSCORE_PAIRS)
        margin = preference(learner, shown)
        return -F.logsigmoid(margin).mean()

    return Job(
        name="pickscore",
        model=learner,
        loss=loss,
        optimizers=_optimizers(learner, factor=0.3),
        steps=steps,
        warmup=50,
        ema=0.99,
    )


def preference(learner: ClipLearner, shown: PreferencePairs) -> Tensor:
    """By how much the better picture scores higher, (B,); its sigmoid is the softmax of the two."""
    seen, _ = learner.see(torch.cat([shown.better, shown.worse]))
    better, worse = (seen * learner.read(shown.captions).repeat(2, 1)).sum(-1).chunk(2)
    return learner.scale * (better - worse)


def _optimizers(learner: nn.Module, factor: float = 1.0) -> list[torch.optim.Optimizer]:
    def is_block(name: str) -> bool:
        return "encoder.layers" in name

    return muon_and_adamw(learner, is_block, muon=3e-3 * factor, adamw=1.5e-3 * factor)


# --- export ---------------------------------------------------------------------------------------


def export_rewards(folder: Path, out: Path) -> None:
    """Write the trained rewards of `folder` as the rewards load them, in float16, and a manifest.

    Raises:
        FileNotFoundError: one of the three was never trained.
    """
    export_detector(folder, out / "detector")
    export_clip(averaged("clip", ClipLearner(), folder), out / "clip")
    export_clip(averaged("pickscore", ClipLearner(), folder), out / "pickscore")
    write_manifest(out)


def export_detector(folder: Path, out: Path) -> None:
    """The detector's weights and its calibration, fitted on fresh scenes."""
    out.mkdir(parents=True, exist_ok=True)
    model = averaged("detector", make_detector(), folder)
    slope, offset = calibrate(model, CALIBRATION_BATCHES)
    fit = {"slope": round(slope, 4), "offset": round(offset, 4)}
    config = {"classes": SHAPES, "calibration": fit}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, out / "detector.safetensors")


def export_clip(learner: ClipLearner, out: Path) -> None:
    """A CLIP and its tokenizer, in transformers' layout; the helpers stay behind."""
    with torch.no_grad():
        learner.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
    learner.clip.half().save_pretrained(out)
    learner.tokenizer.save_pretrained(out)


def write_manifest(out: Path) -> None:
    """sha256 of every file below `out`, into `manifest.json`."""
    paths = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "manifest.json")
    digests = {p.relative_to(out).as_posix(): sha256(p.read_bytes()).hexdigest() for p in paths}
    (out / "manifest.json").write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def calibrate(model: ShapeDetector, count: int) -> tuple[float, float]:
    """Slope and offset that make a score the share of right detections.

    Args:
        model: the trained detector.
        count: number of batches of 64 pictures, whole, spoilt and ruined ones.

    Source: Platt 1999, logistic regression on the logit.
    """
    logits, right = [], []
    for index in range(count):
        images, targets = training_data.detector_batch(CALIBRATION_SEED + index, 64)
        for (boxes, found, labels), target in zip(model.candidates(images), targets, strict=True):
            logits.append(found)
            right.append(matches(boxes, labels, target))
    x, y = (torch.cat(v).double().numpy() for v in (logits, right))

    def cost(fit: np.ndarray) -> float:
        z = fit[0] * x + fit[1]
        return float((np.logaddexp(0, z) - y * z).mean())

    slope, offset = minimize(cost, (1.0, 0.0), method="Nelder-Mead").x
    return float(slope), float(offset)


def matches(boxes: Tensor, labels: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Which detections are right, bool (n,): same class, IoU >= 0.5, each object found once.

    Args:
        boxes: (n, 4), best first.
        labels: (n,) class indices.
        target: torchvision's target.
    """
    right = torch.zeros(len(boxes), dtype=torch.bool)
    fits = box_iou(boxes, target["boxes"]) * (labels[:, None] == target["labels"])
    for index in range(len(boxes)):
        best, where = fits[index].max(0) if fits.shape[1] else (torch.tensor(0.0), None)
        if best >= 0.5:
            right[index] = True
            fits[:, where] = 0
    return right
