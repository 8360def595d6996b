"""What `nftbench eval` costs beyond the pipeline and scorers that it calls: processor time and wall time, as ratios.

Bare: the pipeline is called for each batch, and each scorer for its images, in one process and nothing else. Harness:
the same images by `evaluate`, with all it writes, checks and reports; what it learns of a pipeline once (a dozen short
calls) is timed apart. Which of the two comes first changes from round to round, for a shared machine gets slower and
faster by more than is looked for here; printed is the mean of the rounds' ratios with the half width of its 95%
t-interval. Beside it stands what is measured within the harness's own rounds and hardly depends on that: the share of
its time that it spent outside the pipeline and the scorers, as a ratio to the time inside. Writing follows the drawing
in a thread of its own, so wall time gains by a second core, processor time does not.

Run: python tests/performance/overhead.py [--prompts 4] [--rounds 3]
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from nftbench.benchmark.registry import load_benchmark
from nftbench.evaluation.evaluate import evaluate
from nftbench.evaluation.planning import Work, fitted, plan
from nftbench.evaluation.scoring.loading import load_rewards, quiet
from nftbench.generation.checkpoint import LoadedModel, load_model
from nftbench.generation.sampling import call_arguments, to_uint8
from nftbench.runs.run_folder import Run

REWARDS = "geneval@pocket,clipscore@pocket,pickscore@pocket"
Seconds = np.ndarray
"""Processor time and wall time."""


def bare(work: Work, model: LoadedModel) -> None:
    """Draw and score, keep nothing."""
    draw = model.pipeline
    for _, batch in work.batches():
        output = draw(**call_arguments(draw, batch, work.settings), output_type="np")
        pixels: np.ndarray = to_uint8(output.images)
        for reward in work.rewards.values():
            reward.score(pixels, [s.prompt for s in batch])


def harness(work: Work, model: LoadedModel, folder: Path) -> None:
    """The same by the engine, into a folder."""
    evaluate(Run(folder), [work], model, "overhead", lambda *_: None)


def seconds(what: Callable[[], object]) -> Seconds:
    """What it takes, from a tidied heap on: neither side pays for the other's garbage."""
    gc.collect()
    begun = _now(time.process_time)
    what()
    return _now(time.process_time) - begun


@contextmanager
def inside(work: Work, model: LoadedModel) -> Iterator[list[Seconds]]:
    """Time every call of the pipeline and of the scorers within the block, on the thread that makes it."""
    calls: list[Seconds] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begun = _now(time.thread_time)
            answer = call(*args, **kwargs)
            calls.append(_now(time.thread_time) - begun)
            return answer

        return run

    kind = type(model.pipeline)
    own = kind.__call__
    kind.__call__ = timed(own)
    for reward in work.rewards.values():
        reward.score = timed(reward.score)
    try:
        yield calls
    finally:
        kind.__call__ = own
        for reward in work.rewards.values():
            del reward.score


def _now(processor: Callable[[], float]) -> Seconds:
    return np.array([processor(), time.perf_counter()])


def said(name: str, ratios: Sequence[Seconds]) -> str:
    """A line on the rounds' ratios."""
    words = []
    for kind, values in zip(("processor", "wall"), np.transpose(ratios).tolist(), strict=True):
        error = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
        words.append(
            f"{kind} {statistics.fmean(values):+.1%} ± {error:.1%} (median {statistics.median(values):+.1%})"
        )
    return f"{name}: {', '.join(words)}"


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
    over, outside, took = [], [], []
    for number in range(given.rounds):
        with inside(work, model) as calls, tempfile.TemporaryDirectory() as folder:
            pair = [seconds(lambda: bare(work, model))] if number % 2 == 0 else []
            calls.clear()
            own = seconds(partial(harness, work, model, Path(folder, "run")))
            within = np.sum(calls, axis=0)
            plain = pair[0] if pair else seconds(lambda: bare(work, model))
        over.append(own / plain - 1)
        outside.append(own / within - 1)
        took.append([plain, own])
    (plain_cpu, plain_wall), (own_cpu, own_wall) = np.median(took, axis=0)
    print(
        f"{len(work.samples)} images, {work.protocol.num_inference_steps} steps, batches of 16, {REWARDS}, "
        f"{torch.get_num_threads()} thread(s), {given.rounds} rounds\n"
        f"bare pipeline and scorers: {plain_cpu:.2f} s of processor, {plain_wall:.2f} s (median)\n"
        f"harness: {own_cpu:.2f} s of processor, {own_wall:.2f} s (median)\n"
        f"{said('overhead', over)}\n"
        f"{said('outside the pipeline and the scorers', outside)}\n"
        f"learning the pipeline, once a run: {learned[0]:.2f} s of processor"
    )


if __name__ == "__main__":
    main()
