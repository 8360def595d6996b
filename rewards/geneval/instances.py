"""From a Mask2Former's logits to objects, as mmdet does it; transformers' own post-processing is another one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rewards.geneval.detector import Detections

MAX_INSTANCES = 100
"""Pairs of query and class that are kept, of all 100 x 80."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instances:
    """Objects of one image, highest class probability first."""

    labels: Tensor
    """int64 (n,), index of the class."""
    scores: Tensor
    """float32 (n,), 0-1."""
    boxes: Tensor
    """float32 (n, 4) [x1, y1, x2, y2]: pixels, x2 and y2 exclusive; zeros where the mask is empty."""
    masks: Tensor
    """bool (n, H, W)."""

    def detections(self, classes: Sequence[str], *, floor: float) -> Detections:
        """The same by class.

        Args:
            classes: name of each label.
            floor: objects with a lower score are left out, 0-1.
        """
        rows = torch.cat([self.boxes, self.scores[:, None]], dim=1).cpu()
        reported = self.scores.cpu() >= floor
        places = {name: reported & (self.labels.cpu() == i) for i, name in enumerate(classes)}
        found = {name: place for name, place in places.items() if place.any()}
        return Detections(
            boxes={name: rows[place].numpy() for name, place in found.items()},
            masks={
                name: self.masks[place.to(self.masks.device)].cpu().numpy()
                for name, place in found.items()
            },
        )


def instances(
    class_logits: Tensor, mask_logits: Tensor, *, padded: Size, resized: Size, original: Size
) -> Instances:
    """Objects of one image.

    The best `MAX_INSTANCES` pairs of query and class count, so one query may give several classes. A score is the
    class probability times the mean probability inside the mask.

    Args:
        class_logits: (Q, classes + 1), the last column being "nothing".
        mask_logits: (Q, h, w), a quarter of the network's input.
        padded: size of the network's input.
        resized: size of the picture in it, at the top left.
        original: size of the picture as it was given, and of the masks.

    Source: open-mmlab/mmdetection@v3.3.0 mmdet/models/seg_heads/panoptic_fusion_heads/maskformer_fusion_head.py
    `instance_postprocess`, `predict`; mmdet/structures/mask/utils.py `mask2bbox`.
    Differs: highest probability first, where mmdet leaves the order open.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    count = min(MAX_INSTANCES, probabilities.numel())
    chances, places = probabilities.flatten().topk(count)
    queries, labels = places // probabilities.shape[1], places % probabilities.shape[1]
    named, row = queries.unique(return_inverse=True)
    logits = _resized(mask_logits[named].float(), padded)[:, : resized[0], : resized[1]]
    logits = _resized(logits, original)
    masks = logits > 0
    inside = masks.flatten(1).float()
    certainty = (logits.sigmoid().flatten(1) * inside).sum(1) / (inside.sum(1) + 1e-6)
    return Instances(
        labels=labels,
        scores=chances * certainty[row],
        boxes=tight_boxes(masks)[row],
        masks=masks[row],
    )


def _resized(logits: Tensor, size: Size) -> Tensor:
    return interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def tight_boxes(masks: Tensor) -> Tensor:
    """Smallest box around each mask.

    Args:
        masks: bool (n, H, W).

    Returns:
        float32 (n, 4) [x1, y1, x2, y2], x2 and y2 one past the last pixel; zeros for an empty mask.
    """
    edges = []
    for hit in (masks.any(1), masks.any(2)):  # columns, rows
        length = hit.shape[1]
        first = hit.int().argmax(1)
        past = length - hit.flip(1).int().argmax(1)
        edges += [first, torch.where(hit.any(1), past, 0)]
    x1, x2, y1, y2 = edges
    return torch.stack([x1, y1, x2, y2], dim=1).float()
