"""Contact sheets: what a person looks at before believing a number."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from nftbench.generation.sampling import Sample
from nftbench.runs.io import write_atomic
from nftbench.runs.run_folder import Run
from rewards.images.pixels import ImageError, read_picture

COLUMNS = 8
GAP = 2


def contact_sheet(run: Run, benchmark: str, samples: list[Sample]) -> None:
    """Write `contact.png`: a row a task, in each the first image of up to eight prompts, evenly chosen.

    Args:
        run: the run.
        benchmark: whose images.
        samples: all of them, in order; images that cannot be read are left white.
    """
    rows: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.index == 0:
            rows.setdefault(sample.prompt.tag, []).append(sample)
    chosen = [_evenly(row) for row in rows.values()]
    tiles = [[_pixels(run, benchmark, s) for s in row] for row in chosen]
    write_atomic(run.folder / benchmark / "contact.png", sheet(tiles))


def sheet(tiles: Sequence[Sequence[np.ndarray]]) -> bytes:
    """Rows of images, uint8 RGB (H, W, 3) each, as one PNG on white."""
    height, width = (max(t.shape[axis] for row in tiles for t in row) for axis in (0, 1))
    columns = max(map(len, tiles))
    page = np.full((len(tiles) * (height + GAP), columns * (width + GAP), 3), 255, dtype=np.uint8)
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    buffer = io.BytesIO()
    Image.fromarray(page).save(buffer, format="PNG")
    return buffer.getvalue()


def _evenly(samples: list[Sample]) -> list[Sample]:
    count = min(COLUMNS, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def _pixels(run: Run, benchmark: str, sample: Sample) -> np.ndarray:
    try:
        return read_picture(run.image_path(benchmark, sample)).pixels
    except ImageError:
        return np.full((1, 1, 3), 255, dtype=np.uint8)
