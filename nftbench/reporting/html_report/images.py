"""Images of a report: checked, copied or made smaller, under names of the report's own."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rewards.images.pixels import ImageError, read_picture

SMALL = 256
"""Pixels: an image whose sides are no longer is its own thumbnail."""
WHOLE = 400_000
"""Bytes: a PNG up to this size is copied as it is, a larger one becomes a JPEG."""
QUALITY = {"image": 92, "thumbnail": 80}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportImage:
    """One image in the report's folder, or why there is none."""

    file: str = ""
    """Path from the report's page."""
    thumbnail: str = ""
    """The same where the image is small."""
    width: int = 0
    """Pixels of the image that was scored."""
    height: int = 0
    fault: str = ""


def place_all(
    sources: Sequence[str], folder: Path, out: Path, under: str, digests: Sequence[str] = ()
) -> Iterator[ReportImage]:
    """Put images into the report, several at once, in order.

    Args:
        sources: paths from `folder`.
        folder: no image outside it is read.
        out: the report's folder.
        under: subfolder of `out`; files in it are numbered.
        digests: sha256 of each as it was scored; where none is known any image is shown.
    """
    (out / under).mkdir(parents=True, exist_ok=True)
    known = digests or [""] * len(sources)
    jobs = [
        (folder, source, out, f"{under}/{i:05d}", digest)
        for i, (source, digest) in enumerate(zip(sources, known, strict=True))
    ]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda job: place(*job), jobs)


def place(folder: Path, source: str, out: Path, stem: str, digest: str = "") -> ReportImage:
    """Put one image into the report.

    Args:
        folder: no image outside it is read.
        source: path from it.
        out: the report's folder.
        stem: path from it, without the ending.
        digest: sha256 of the file as it was scored; empty where it is not known.
    """
    try:
        path = inside(folder, source)
        pixels, data = read_picture(path).pixels, path.read_bytes()
    except (OSError, ImageError) as error:
        return ReportImage(fault=getattr(error, "strerror", None) or str(error))
    if digest and hashlib.sha256(data).hexdigest() != digest:
        return ReportImage(fault="changed since it was scored")
    height, width = pixels.shape[:2]
    keep = data.startswith(b"\x89PNG") and len(data) <= WHOLE
    file = f"{stem}.png" if keep else f"{stem}.jpg"
    (out / file).write_bytes(data if keep else _jpeg(pixels, max(width, height), "image"))
    thumbnail = file
    if max(width, height) > SMALL:
        thumbnail = f"{stem}.small.jpg"
        (out / thumbnail).write_bytes(_jpeg(pixels, SMALL, "thumbnail"))
    return ReportImage(file=file, thumbnail=thumbnail, width=width, height=height)


def inside(folder: Path, source: str) -> Path:
    """A path that does not leave a folder, links followed.

    Raises:
        OSError: it does, or cannot be a path.
    """
    if "\0" in source:
        raise OSError("the path holds a null byte")
    path = (folder / source).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise OSError("the path leaves the run folder")
    return path


def _jpeg(pixels: np.ndarray, side: int, kind: str) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=QUALITY[kind], subsampling=0)
    return buffer.getvalue()
