"""How long `nftbench eval stable-diffusion-3.5-medium --suite table1` takes on one GPU, put together of measured parts.

The number of images comes from the suite; images a second are given, or read from what tests/gpu/sd35.py wrote. A part
that was not measured stands as not measured: it is not guessed, and the sum says that it is without it.

Run: python tests/performance/table1_estimate.py --gpu-results sd35.json
     python tests/performance/table1_estimate.py --images-per-second 4.1 --at-steps 40 [--rewards pickscore=60]
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from nftbench.benchmark.registry import load_benchmark, load_suite, protocols_of

NETWORK_CALLS = {"off": 1, "cfg": 2}
"""An image and step."""


@dataclass(frozen=True)
class Measured:
    """What a GPU did."""

    device: str
    images_per_second: float
    """At `steps` steps without guidance, 512 x 512."""
    steps: int
    rewards: dict[str, float]
    """Images a second, by key."""


def from_results(path: Path) -> Measured:
    """What tests/gpu/sd35.py wrote; refused where it was the small one, or did not finish."""
    found = json.loads(path.read_text("utf-8"))
    drawn = found["evaluation"]
    if found["small"] or isinstance(drawn, str):
        why = "made with --small: its speed is not the model's" if found["small"] else drawn
        raise SystemExit(f"{path}: {why}")
    return Measured(
        found["device"], drawn["images_per_second"], drawn["steps"], drawn["rewards_per_second"]
    )


def images_by_benchmark() -> dict[str, tuple[int, tuple[str, ...], int]]:
    """Images, rewards and steps of each benchmark of the suite."""
    found = {}
    for protocol, rewards in protocols_of(load_suite("table1")).items():
        benchmark = load_benchmark(protocol.benchmark)
        images = benchmark.count * protocol.images_per_prompt
        found[benchmark.name] = (images, rewards, protocol.num_inference_steps or 0)
    return found


def estimate(measured: Measured, guidance: str) -> str:
    """The estimate with all it rests on, in lines."""
    lines, hours, open_parts, images = [], 0.0, [], 0
    for name, (count, rewards, steps) in images_by_benchmark().items():
        rate = measured.images_per_second * measured.steps / steps / NETWORK_CALLS[guidance]
        drawing = count / rate / 3600
        hours, images = hours + drawing, images + count
        lines.append(
            f"{name}: {count} images of {steps} steps at {rate:.2f} a second: {drawing:.2f} h"
        )
        for key in rewards:
            speed = measured.rewards.get(key)
            if speed is None:
                open_parts.append(f"{key} ({count} images)")
                lines.append(f"  {key}: not measured")
            else:
                hours += count / speed / 3600
                lines.append(f"  {key}: {speed:.1f} images a second: {count / speed / 60:.1f} min")
    without = f", without {', '.join(open_parts)}" if open_parts else ""
    return "\n".join(
        [
            f"one {measured.device}, guidance {guidance}; measured: {measured.images_per_second:.2f} images a second "
            f"of {measured.steps} steps without guidance at 512 x 512",
            *lines,
            f"sum: {images} images, {hours:.2f} h{without}",
            "assumed: time grows with network calls alone (text encoders, decoder and files are within the measured "
            "rate); rewards follow the drawing, one after the other; loading is left out",
        ]
    )


def main() -> None:
    """Print the estimate without guidance and with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu-results", type=Path)
    parser.add_argument("--images-per-second", type=float)
    parser.add_argument("--at-steps", type=int, default=40)
    parser.add_argument("--device", default="GPU (as given)")
    parser.add_argument("--rewards", default="", help="key=images a second, comma-separated")
    given = parser.parse_args()
    if given.gpu_results:
        measured = from_results(given.gpu_results)
    elif given.images_per_second:
        pairs = [item.split("=") for item in given.rewards.split(",") if item]
        rates = {key: float(rate) for key, rate in pairs}
        measured = Measured(given.device, given.images_per_second, given.at_steps, rates)
    else:
        print("nothing was measured yet: pass --gpu-results or --images-per-second")
        for name, (count, rewards, steps) in images_by_benchmark().items():
            print(f"{name}: {count} images of {steps} steps, then {', '.join(rewards)}")
        return
    for guidance in NETWORK_CALLS:
        print(estimate(measured, guidance))


if __name__ == "__main__":
    main()
