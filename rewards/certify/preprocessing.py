"""Preprocessing against the references, picture by picture."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rewards.certify import Check, Checks, compare
from rewards.geneval.colours import cut_out
from rewards.images.preprocess import CLIP_MEAN, CLIP_STD, Preprocess

_opened: set[Path] = set()


def golden_file(folder: Path, name: str) -> Path:
    """The place of a golden file, which `opened` remembers."""
    _opened.add(folder / name)
    return folder / name


@contextmanager
def opened() -> Iterator[set[Path]]:
    """The golden files that are asked for within the block."""
    _opened.clear()
    yield _opened


def read_golden(folder: Path, name: str) -> dict[str, Any]:
    """A golden file of JSON."""
    return json.loads(golden_file(folder, name).read_text("utf-8"))


def pictures_of(folder: Path) -> dict[str, np.ndarray]:
    """The golden pictures that a folder holds, uint8 RGB (H, W, 3)."""
    with np.load(golden_file(folder, "preprocessing.npz")) as arrays:
        return {k.removeprefix("image/"): arrays[k] for k in arrays if k.startswith("image/")}


def mask_of(kind: str, shape: tuple[int, int], box: np.ndarray) -> np.ndarray | None:
    """One of the golden masks, bool (H, W).

    Args:
        kind: `none`, `empty`, `checker` or `ellipse`.
        shape: height and width of the picture.
        box: [x1, y1, x2, y2, ...] in pixels, float32.
    """
    y, x = np.mgrid[: shape[0], : shape[1]]
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    rx, ry = max((box[2] - box[0]) / 2, 1), max((box[3] - box[1]) / 2, 1)
    return {
        "none": None,
        "empty": np.zeros(shape, dtype=bool),
        "checker": (x // 8 + y // 8) % 2 == 0,
        "ellipse": ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1,
    }[kind]


def crop_of(picture: np.ndarray, golden: Mapping[str, Any]) -> np.ndarray:
    """What GenEval cuts out, uint8 RGB (h, w, 3)."""
    box = np.array(golden["box_xyxy_score"], dtype=np.float32)
    crop = cut_out(picture, box, mask_of(golden["mask"], picture.shape[:2], box))
    assert crop is not None, "golden boxes are not empty"
    return crop


def preprocessing(
    theirs: str, transform: Preprocess, *, tolerance: float, reference: str
) -> Checks:
    """A check of one transform of `preprocessing.json`, over the pictures that the folder holds.

    Args:
        theirs: its name there.
        transform: ours.
        tolerance: of the network's input; pictures of the reference that were uint8 before they were
            normalised must be equal to the bit besides.
        reference: see `Check`.
    """

    def check(folder: Path) -> Iterator[Check]:
        golden, pictures = read_golden(folder, "preprocessing.json"), pictures_of(folder)
        stored = np.load(golden_file(folder, "preprocessing.npz"))
        ours, wanted, wrong = [], [], []
        for name, facts in golden["transforms"][theirs].items():
            if facts.get("image", name) not in pictures:
                continue
            picture = pictures[facts.get("image", name)]
            picture = crop_of(picture, facts) if "mask" in facts else picture
            pixels = _inner(transform(picture, 224), facts["shape"])
            step = golden["stride"]
            ours += [pixels[:, ::step, ::step].ravel(), _summary(pixels)]
            wanted += [stored[f"{theirs}/{name}"].ravel(), [facts[k] for k in _SUMMARY]]
            if "uint8_hwc_sha256" in facts:
                wrong.append(_digest(pixels) != facts["uint8_hwc_sha256"])
        about = {"tolerance": tolerance, "reference": reference}
        yield compare(
            f"preprocessing {theirs}", np.concatenate(ours), np.concatenate(wanted), **about
        )
        if wrong:
            about["tolerance"] = 0
            name = f"preprocessing {theirs}: pictures unequal before normalisation"
            yield compare(name, wrong, np.zeros(len(wrong)), **about)

    return check


_SUMMARY = ("mean", "std", "min", "max")


def _summary(pixels: np.ndarray) -> list[float]:
    return [float(getattr(pixels.astype(np.float64), name)()) for name in _SUMMARY]


def _inner(pixels: Tensor, shape: Iterable[int]) -> np.ndarray:
    """The middle (3, h, w): HPSv2's reference leaves out the black beside some pictures."""
    _, height, width = shape
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width].numpy()


def _digest(pixels: np.ndarray) -> str:
    """sha256 of the uint8 picture (H, W, 3) before it was normalised."""
    mean, std = (np.array(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    picture = np.rint((pixels.astype(np.float64) * std + mean) * 255).astype(np.uint8)
    return hashlib.sha256(np.ascontiguousarray(picture.transpose(1, 2, 0))).hexdigest()  # pyright: ignore[reportArgumentType]
