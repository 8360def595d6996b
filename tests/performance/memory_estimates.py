"""The memory that `nftbench inspect` estimates, against what a process takes: drawing, and training, of pocket.

Each measurement is a process of its own. It does the work once in little, which imports all that is imported; then once
in full: the growth of its resident memory is what was measured. So that freed memory is given back, as large models'
is, glibc maps blocks from 128 kB on; without that (`--heap`) it keeps freed blocks of pocket's size for itself.

Run: python tests/performance/memory_estimates.py [--images 64] [--heap]
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.helpers.paths import ROOT

KINDS = ("draw", "train LoRA", "train LoRA, checkpointing", "train full")
MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024), "MALLOC_TRIM_THRESHOLD_": str(128 * 1024)}


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def grown(work: Callable[[int], object], images: int) -> int:
    """Bytes by which this process grows at the worst moment of work for so many images."""
    work(1)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # forget the peak so far
    before = resident("VmRSS")
    work(images)
    return resident("VmHWM") - before


def policy(kind: str) -> dict[str, object]:
    """The recipe's settings of a policy."""
    method = "full" if "full" in kind else "lora"
    return {"method": method, "gradient_checkpointing": "checkpointing" in kind}


def draw(images: int) -> None:
    """Load pocket and draw so many images at once."""
    from nftbench.benchmark.schema import SamplingParameters
    from nftbench.generation.checkpoint import load_model
    from nftbench.generation.sampling import Sample, generate
    from nftbench.generation.settings.effective import PROBE, learn_settings
    from rewards.base import Prompt

    model = load_model("pocket")
    settings = learn_settings(model.pipeline, SamplingParameters(**model.own))
    batch = [Sample(Prompt(id="memory", text=PROBE), i) for i in range(images)]
    generate(model.pipeline, batch, settings.at(num_inference_steps=4))


def train(kind: str, images: int) -> None:
    """Two iterations of one group, drawn and trained at once: in the second the optimiser remembers."""
    from nftbench.training.config.overrides import load_recipe
    from nftbench.training.run import train as run
    from tests.helpers.runs.trainings import short

    settings = [f"policy.{k}={str(v).lower()}" for k, v in policy(kind).items()]
    settings += ["stages.iterations=2", "stages.groups=1", f"stages.group_size={max(images, 2)}"]
    settings += [f"rollout.batch_size={images}", "stages.updates=1"]
    settings += ["policy.rank=32"] * ("policy.method=full" not in settings)
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe("pocket", short(*settings))
        out = Path(folder, "run")
        run(recipe, out, resume=False, progress=lambda *_: None, say=lambda line: None)


def estimated(kind: str, images: int) -> int:
    """What `nftbench inspect` says of it, bytes."""
    from nftbench.benchmark.schema import SamplingParameters
    from nftbench.generation.checkpoint import load_model
    from nftbench.generation.machine.memory import drawing_memory
    from nftbench.generation.settings.effective import learn_settings
    from nftbench.training.config.recipe import PolicyConfig
    from nftbench.training.policy.memory import update_memory

    model = load_model("pocket")
    settings = learn_settings(model.pipeline, SamplingParameters(**model.own))
    drawing = drawing_memory(model.pipeline, settings)
    if kind == "draw":
        return drawing.peak(images, encoders_leave=False)
    update = update_memory(model.pipeline, settings, PolicyConfig(**policy(kind)))
    return drawing.weights + update.with_rollout(images, drawing)


def measured(kind: str, images: int, *, heap: bool = False) -> tuple[int, int]:
    """Estimate and measurement, bytes, by a process of its own."""
    command = [sys.executable, "-m", "tests.performance.memory_estimates", "--measure", kind]
    environment = os.environ | ({} if heap else MAPPED)
    done = subprocess.run(
        [*command, "--images", str(images)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=ROOT,
    )
    estimate, grew = json.loads(done.stdout.splitlines()[-1])
    return estimate, grew


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--heap", action="store_true")
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if kind := given.measure:
        work = draw if kind == "draw" else lambda images: train(kind, images)
        grew = grown(work, given.images)
        print(json.dumps([estimated(kind, given.images), grew]))
        return
    for kind in KINDS:
        estimate, grew = measured(kind, given.images, heap=given.heap)
        print(
            f"{kind}, {given.images} images at once: estimated {estimate / 1e6:.0f} MB, measured {grew / 1e6:.0f} MB, "
            f"ratio {estimate / grew:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
