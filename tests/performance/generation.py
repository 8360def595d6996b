"""Images a second of the pocket policy in batches of 16, against making the same images one by one.

Run: python tests/performance/generation.py
"""

import time

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import samples
from nftbench.generation.checkpoint import load_model, own_settings
from nftbench.generation.sampling import generate

STEPS, IMAGES = 10, 64


def images_per_second(pipeline, everything, protocol, batch_size: int) -> float:
    """Best of three passes over all images."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        for start in range(0, len(everything), batch_size):
            generate(pipeline, everything[start : start + batch_size], protocol)
        seconds.append(time.perf_counter() - begun)
    return len(everything) / min(seconds)


def main() -> None:
    """Measure and print."""
    benchmark = load_benchmark("geneval-pocket")
    everything = samples(benchmark.load(), 1)[:IMAGES]
    pipeline = load_model("pocket").pipeline
    for guidance in (1.0, 4.5):
        protocol = benchmark.protocol(num_inference_steps=STEPS, guidance_scale=guidance).filled(
            own_settings("pocket")
        )
        many, one = (images_per_second(pipeline, everything, protocol, n) for n in (16, 1))
        print(
            f"guidance {guidance}, {STEPS} steps: batch 16 {many:.1f} images/s, "
            f"batch 1 {one:.1f} images/s, ratio {many / one:.2f}"
        )


if __name__ == "__main__":
    main()
