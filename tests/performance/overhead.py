"""What `nftbench eval` costs beyond the pipeline and scorers that it calls: processor time and wall time, as ratios.

Bare: the pipeline is called for each batch, and each scorer for its images, in one process and nothing else. Harness:
the same images by `evaluate`, with all it writes, checks and reports; what it learns of a pipeline once (a dozen short
calls) is timed apart. Both in turns; the median of the rounds' ratios, for the machine may be shared, and the best of
each. Writing follows the drawing in a thread of its own, so wall time gains by a second core, processor time does not.

Run: python tests/performance/overhead.py [--prompts 4] [--rounds 3]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from nftbench.benchmark.registry import load_benchmark
from nftbench.evaluation.evaluate import evaluate
from nftbench.evaluation.planning import Work, fitted, plan
from nftbench.evaluation.scoring.loading import load_rewards, quiet
from nftbench.generation.checkpoint import LoadedModel, load_model
from nftbench.generation.sampling import call_arguments, to_uint8
from nftbench.runs.run_folder import Run

REWARDS = "geneval@pocket,clipscore@pocket,pickscore@pocket"


def bare(work: Work, model: LoadedModel) -> None:
    """Draw and score, keep nothing."""
    draw = model.pipeline
    for _, batch in work.batches():
        output = draw(**call_arguments(draw, batch, work.settings), output_type="np")
        pixels: np.ndarray = to_uint8(output.images)
        for reward in work.rewards.values():
            reward.score(pixels, [s.prompt for s in batch])


def harness(work: Work, model: LoadedModel) -> None:
    """The same by the engine, into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        evaluate(Run(Path(folder, "run")), [work], model, "overhead", lambda *_: None)


def seconds(what: Callable[[], object]) -> tuple[float, float]:
    """Processor time and wall time."""
    begun = time.process_time(), time.perf_counter()
    what()
    return time.process_time() - begun[0], time.perf_counter() - begun[1]


def best(found: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of several rounds."""
    return min(cpu for cpu, _ in found), min(wall for _, wall in found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    quiet()
    model = load_model("pocket")
    protocol = load_benchmark("geneval-pocket").protocol(limit=given.prompts)
    planned = plan([protocol], load_rewards(REWARDS), 16)
    learning: list[Work] = []
    learned = seconds(lambda: learning.extend(fitted(planned, model)))
    work = learning[0]
    bare(work, model)  # whatever is done once is done
    rounds = [(seconds(lambda: bare(work, model)), seconds(lambda: harness(work, model)))
              for _ in range(given.rounds)]  # fmt: skip
    (bare_cpu, bare_wall), (own_cpu, own_wall) = (best([r[i] for r in rounds]) for i in (0, 1))
    cpu, wall = (median(own[i] / bare[i] - 1 for bare, own in rounds) for i in (0, 1))
    print(
        f"{len(work.samples)} images, {work.protocol.num_inference_steps} steps, batches of 16, {REWARDS}, "
        f"{torch.get_num_threads()} thread(s)\n"
        f"bare pipeline and scorers: {bare_cpu:.2f} s of processor, {bare_wall:.2f} s\n"
        f"harness: {own_cpu:.2f} s of processor, {own_wall:.2f} s\n"
        f"overhead, best against best: processor {own_cpu / bare_cpu - 1:+.1%}, wall {own_wall / bare_wall - 1:+.1%}\n"
        f"overhead, median of {given.rounds} rounds: processor {cpu:+.1%}, wall {wall:+.1%}\n"
        f"learning the pipeline, once a run: {learned[0]:.2f} s of processor"
    )


if __name__ == "__main__":
    main()
