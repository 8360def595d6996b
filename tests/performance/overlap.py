"""What a GPU gains by having its images read while it draws the next: wall time with and without, in one run.

The checkpoint is Stable Diffusion 3.5 Medium's shape with random weights (tests/gpu/sd35.py), the reward OCR, which a
CPU computes. Without: the same command, but that scoring waits until all is drawn. Both write the same bytes; that is
checked. `--small` runs it in little on a CPU, where both are shown to be the same and nothing is gained.

Run: python -m tests.performance.overlap [--images 16] [--steps 40] [--small]
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from nftbench.commands import evaluate_checkpoint
from nftbench.evaluation import evaluate
from nftbench.evaluation.scoring.loading import quiet
from nftbench.generation.checkpoint import LoadedModel
from tests.gpu.sd35 import build

SUITE = "ocr-pocket"


def _silent(stage: str, done: int, total: int) -> None:
    """Nobody looks on."""


def timed(model: LoadedModel, settings: dict, folder: Path, early: bool) -> float:
    """Seconds of the command."""
    begun = time.perf_counter()
    with mock.patch.object(evaluate, "draws_elsewhere", lambda policy: early):
        evaluate_checkpoint(
            model, SUITE, settings, rewards="ocr", batch_size=8, out=folder, progress=_silent
        )
    return time.perf_counter() - begun


def scores(folder: Path) -> dict[str, bytes]:
    """What was scored, file by file."""
    found = sorted((folder / SUITE / "scores").rglob("*.parquet"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = build(given.small, device)
    pipeline.set_progress_bar_config(disable=True)
    model = LoadedModel(name="random-sd3.5-m", digest="random", pipeline=pipeline)
    side = 64 if given.small else 512
    settings = {"height": side, "width": side, "guidance_scale": 1.0, "images_per_prompt": 1}
    settings |= {"limit": given.images, "num_inference_steps": given.steps}
    with tempfile.TemporaryDirectory() as folder:
        warm_up = settings | {"limit": 8, "num_inference_steps": 2}
        timed(model, warm_up, Path(folder, "warm-up"), True)
        for number in range(given.rounds):
            runs = {name: Path(folder, f"{name}-{number}") for name in ("after", "while")}
            took = {
                name: timed(model, settings, out, name == "while") for name, out in runs.items()
            }
            same = scores(runs["after"]) == scores(runs["while"]) != {}
            print(
                f"{given.images} images of {given.steps} steps: scored afterwards {took['after']:.1f} s, while drawing "
                f"{took['while']:.1f} s, ratio {took['while'] / took['after']:.2f}; scores equal: {same}",
                flush=True,
            )


if __name__ == "__main__":
    main()
