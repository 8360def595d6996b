"""Contact sheets: what a person looks at before believing a number; under each image its task, score and prompt."""

import functools
import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from nftbench.benchmark.samples import Sample
from nftbench.runs.io import write_atomic
from nftbench.runs.run_folder import QUICK, Run
from rewards.images.pixels import ImageError, read_picture

COLUMNS = 8
GAP = 2
READABLE = 160
"""Pixels that a captioned image is wide at least: smaller ones are enlarged by a whole number, for the text's sake."""
FONT, LINE, HEADING_LINES, PROMPT_LINES = 11, 13, 2, 3


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of a sheet."""

    pixels: np.ndarray
    """uint8 RGB (H, W, 3)."""
    heading: str = ""
    """Task and score."""
    prompt: str = ""


def heading(task: str, metric: str, score: float) -> str:
    """`two object: 0.50 by geneval`; what is not known is left out, a score that failed is said so."""
    known = f"{score:.2f} by {metric}" if math.isfinite(score) else f"not scored by {metric}"
    return ": ".join(part for part in (task.replace("_", " "), known if metric else "") if part)


def contact_sheet(run: Run, benchmark: str, samples: list[Sample], table: pd.DataFrame) -> None:
    """Write `contact.png`: a row a task, in each the first image of up to eight prompts, evenly chosen.

    Args:
        run: the run.
        benchmark: whose images.
        samples: all of them, in order; images that cannot be read are left white.
        table: one row a sample, with `key` and the rewards' columns; the first reward's score is shown.
    """
    rows: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.index == 0:
            rows.setdefault(sample.prompt.tag, []).append(sample)
    metric = next((key for key in run.manifest["rewards"][benchmark] if key in table), "")
    scores = dict(zip(table["key"], table[metric], strict=True)) if metric else {}
    tiles = [
        [
            Tile(
                _pixels(run, benchmark, one),
                heading(one.prompt.tag, metric, float(scores.get(one.key, math.nan))),
                one.prompt.text,
            )
            for one in _evenly(row)
        ]
        for row in rows.values()
    ]
    write_atomic(run.folder / benchmark / "contact.png", sheet(tiles))


def sheet(tiles: Sequence[Sequence[Tile]]) -> bytes:
    """Rows of images as one PNG on white."""
    every = [tile for row in tiles for tile in row]
    height, width = (max(t.pixels.shape[axis] for t in every) for axis in (0, 1))
    captioned = any(tile.heading or tile.prompt for tile in every)
    scale = max(1, math.ceil(READABLE / width)) if captioned else 1
    text = LINE * (HEADING_LINES + PROMPT_LINES) + 4 if captioned else 0
    cell = (scale * width + GAP, scale * height + text + GAP)
    page = Image.new("RGB", (max(map(len, tiles)) * cell[0], len(tiles) * cell[1]), "white")
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            _put(page, tile, (j * cell[0], i * cell[1]), scale, (scale * width, scale * height))
    buffer = io.BytesIO()
    page.save(buffer, format="PNG", compress_level=QUICK)
    return buffer.getvalue()


def _put(
    page: Image.Image, tile: Tile, place: tuple[int, int], scale: int, size: tuple[int, int]
) -> None:
    image = Image.fromarray(tile.pixels)
    page.paste(
        image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST), place
    )
    if not (tile.heading or tile.prompt):
        return
    draw, font = ImageDraw.Draw(page), _font()
    letters = max(8, int(size[0] / font.getlength("n")))
    parts = ((tile.heading, HEADING_LINES, "black"), (tile.prompt, PROMPT_LINES, "#505860"))
    texts = [
        (line, colour)
        for text, most, colour in parts
        for line in textwrap.wrap(text, letters, max_lines=most, placeholder=" ...")
    ]
    for number, (line, colour) in enumerate(texts):
        draw.text((place[0] + 1, place[1] + size[1] + 2 + LINE * number), line, colour, font)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu, which matplotlib brings along: Pillow's own knows few letters beside English ones."""
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT)


def _evenly(samples: list[Sample]) -> list[Sample]:
    count = min(COLUMNS, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def _pixels(run: Run, benchmark: str, sample: Sample) -> np.ndarray:
    try:
        return read_picture(run.image_path(benchmark, sample)).pixels
    except ImageError:
        return np.full((1, 1, 3), 255, dtype=np.uint8)
