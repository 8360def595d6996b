"""Seconds and memory of `nftbench report` on 2,000 and on 20,000 images, each command a process of its own.

Seconds are given twice: on the clock, and of the processor (which other work beside it does not move).

The images are small pictures that all differ, imported and scored as a user would. The ratio says how the report grows;
ten times the images should take at most ten times as long.

Run: python tests/performance/report.py [IMAGES...]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZES, PER_PROMPT, SIDE = (2_000, 20_000), 4, 64


def write_list(folder: Path, count: int) -> Path:
    """`count` images and the list that names their prompts, `PER_PROMPT` images each."""
    rng, lines = np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        name = f"images/{number:05d}.png"
        Image.fromarray(coarse.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)).save(folder / name)
        lines.append({"image": name, "prompt": f"a photo of thing {number // PER_PROMPT}"})
    (folder / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "images.jsonl"


def nftbench(*arguments: str | Path) -> tuple[float, float, float]:
    """Seconds on the clock, of the processor, and peak resident MiB of one command.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command, began = [sys.executable, "-m", "nftbench", *map(str, arguments)], time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    clock, processor = time.perf_counter() - began, used.ru_utime + used.ru_stime
    return clock, processor, used.ru_maxrss / 1024


def measure(count: int) -> float:
    """Print a line a command; returns the report's seconds."""
    with tempfile.TemporaryDirectory() as temporary:
        images, run = write_list(Path(temporary) / "given", count), Path(temporary) / "run"
        for name, arguments in {
            "import": (
                "import",
                images,
                "--name",
                "given",
                "--rewards",
                "jpeg@compressibility",
                "--out",
                run,
            ),
            "score": ("score", run),
            "report": ("report", run),
        }.items():
            clock, seconds, peak = nftbench(*arguments)
            print(
                f"{count:>7,} images  {name:<7} {clock:6.1f} s, {seconds:6.1f} CPU s, {peak:6.0f} MiB",
                flush=True,
            )
    return seconds


def main() -> None:
    """Each size, and the ratio of the last to the first."""
    sizes = [int(size) for size in sys.argv[1:]] or list(SIZES)
    seconds = [measure(size) for size in sizes]
    print(
        f"report: {seconds[-1] / seconds[0]:.1f} times the seconds of {sizes[0]:,} images for "
        f"{sizes[-1] / sizes[0]:.1f} times the images"
    )


if __name__ == "__main__":
    main()
