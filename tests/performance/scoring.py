"""Images a second and peak memory of each reward at full size with made-up weights, each in a process of its own.

CLIPScore, Aesthetic and GenEval's colours are measured together as well: once sharing ViT-L/14 in
one process, once apart. Speed and memory do not depend on what the weights are.

Run: python tests/performance/scoring.py [NAME...]
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

PICTURES, SIDE = 4, 512
SHARING = ("clipscore", "aesthetic", "geneval colours")

Judge = Callable[[np.ndarray], object]
"""Judges uint8 RGB (N, H, W, 3)."""

# --- the rows -------------------------------------------------------------------------------------


def judged_by(name: str) -> Callable[[], Judge]:
    """A builder: each picture with a prompt of its own, by a function of `clip_seeded`."""

    def build() -> Judge:
        from rewards.base import Prompt
        from rewards.certify.seeded import clip as clip_seeded

        reward = getattr(clip_seeded, name)()
        return lambda images: reward.score(
            images, [Prompt(id=str(i), text=f"{i} red cats") for i in range(len(images))]
        )

    return build


def geneval_colours() -> Judge:
    """GenEval's colour head: one crop an image."""
    from rewards.certify.seeded.clip import seeded_color_head
    from rewards.geneval.colours import Crop

    head = seeded_color_head()
    return lambda images: head.classify([Crop(name="car", pixels=image) for image in images])


def imagereward() -> Judge:
    """BLIP."""
    from rewards.base import Prompt
    from rewards.certify.seeded.blip import seeded_imagereward

    reward = seeded_imagereward()
    return lambda images: reward.score(images, [Prompt(id="0", text="red cats")] * len(images))


def together() -> Judge:
    """The rewards of `SHARING`, one after the other in one process."""
    judges = [ROWS[name]() for name in SHARING]
    return lambda images: [judge(images) for judge in judges]


def nothing() -> Judge:
    """A process that imports what the others import and judges nothing."""
    from rewards.certify.seeded import clip as clip_seeded
    from rewards.certify.seeded.clip_networks import empty_state

    empty_state("openai"), empty_state("hpsv2")
    return lambda images: (clip_seeded, images)


ROWS: dict[str, Callable[[], Judge]] = {
    "nothing": nothing,
    "clipscore": judged_by("seeded_clipscore_nft"),
    "aesthetic": judged_by("seeded_aesthetic"),
    "geneval colours": geneval_colours,
    "pickscore": judged_by("seeded_pickscore"),
    "hpsv2": judged_by("seeded_hpsv2_nft"),
    "imagereward": imagereward,
    "three together": together,
}
"""Name -> what builds it; a further reward is one more line."""

# --- measuring ------------------------------------------------------------------------------------


def measure(name: str) -> dict[str, float]:
    """Seconds to build, seconds and CPU seconds for the pictures after a first one, peak memory in GB."""
    from rewards.measuring.cost import peak_memory

    images = np.random.default_rng(0).integers(0, 256, (PICTURES, SIDE, SIDE, 3), dtype=np.uint8)
    begun = time.perf_counter()
    judge = ROWS[name]()
    built = time.perf_counter()
    judge(images[:1])
    warm, worked = time.perf_counter(), time.process_time()
    judge(images)
    ended, done = time.perf_counter(), time.process_time()
    peak = peak_memory() / 1e9
    return {"build": built - begun, "seconds": ended - warm, "cpu": done - worked, "peak": peak}


def in_its_own_process(name: str) -> dict[str, float]:
    """`measure`, in a new interpreter."""
    command = [sys.executable, "-P", __file__, "--row", name]  # or this file would be `rewards`
    out = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    return json.loads(out.splitlines()[-1])


def main(names: list[str]) -> None:
    """Measure and print."""
    found = {}
    for name in names or ROWS:
        row = found[name] = in_its_own_process(name)
        speed = (
            f"{PICTURES / row['seconds']:.2f} images/s ({row['cpu'] / PICTURES:.2f} CPU s each), "
        )
        print(
            f"{name:16} {speed if name != 'nothing' else ''}peak {row['peak']:.2f} GB, built in {row['build']:.0f} s",
            flush=True,
        )
    if not {"nothing", "three together", *SHARING} <= found.keys():
        return
    base, shared = found["nothing"]["peak"], found["three together"]
    for what, unit in (("seconds", "s"), ("cpu", "CPU s"), ("peak", "GB")):
        less = base if what == "peak" else 0.0
        apart, one = sum(found[n][what] - less for n in SHARING), shared[what] - less
        above = " above a process that judges nothing" if less else ""
        print(
            f"three apart {apart:.2f} {unit}, together {one:.2f} {unit}{above}: ratio {apart / one:.2f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(sys.argv[1:])
