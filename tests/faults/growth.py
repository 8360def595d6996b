"""Runs that become large: what the bookkeeping of a batch costs at their start and at their end."""

import json
import time
from dataclasses import replace

import numpy as np
import psutil

from tests.faults.bench import Bench, Observed, fault

IMAGES, BATCH, SIDE = 100_000, 64, 8
LARGER = 1.5
"""Times as long as the first batches the last ones may take."""
MEMORY = 400.0
"""MiB that a run of so many images may need beyond what it began with: its names, digests and one table."""


@fault(
    "processor time a batch at the end is that of the start, memory stays within 400 MiB",
    quick=False,
)
def growth(bench: Bench) -> Observed:
    """eval of 100,000 images whose pixels cost nothing (a pipeline of the suite's own)."""
    noted = bench.new("noted")
    policy, work = bench.policy, bench.works[0]
    prompt = work.prompts[0]
    work = replace(
        work,
        prompts=[
            replace(prompt, id=f"{i:05d}", text=f"{prompt.text} {i}") for i in range(IMAGES // 2)
        ],
        batch_size=BATCH,
        rewards={"jpeg": work.rewards["jpeg"]},
    )

    def run() -> None:
        from nftbench.evaluation import images
        from nftbench.evaluation.evaluate import evaluate
        from nftbench.runs.run_folder import Run

        images.generate_each = lambda pipeline, batch, settings: np.zeros(
            (len(batch), SIDE, SIDE, 3), dtype=np.uint8
        )
        images.refuse_other_steps = lambda pipeline, settings: None  # it takes none
        me, moments = psutil.Process(), []

        def progress(stage: str, done: int, total: int) -> None:
            moments.append((stage, time.process_time(), me.memory_info().rss / 2**20))

        evaluate(Run(bench.new("large")), [work], policy, "growth", progress)
        moments.append(("table", time.process_time(), me.memory_info().rss / 2**20))
        noted.write_text(json.dumps(moments))

    ended = bench.fork(run).wait()
    wrong = ended.fault(0)
    if wrong:
        return Observed(1, (wrong,))
    moments, broken, notes = json.loads(noted.read_text()), [], []
    for stage in dict.fromkeys(m[0] for m in moments[:-1]):
        mine = np.diff([m[1] for m in moments if m[0] == stage])
        part = len(mine) // 10
        first, last = mine[:part].mean(), mine[-part:].mean()
        notes.append(
            f"{stage} {first * 1e3:.0f} ms a batch of {BATCH} at the start, {last * 1e3:.0f} ms at the end"
        )
        broken += [notes[-1]] * bool(last > LARGER * first)
    grown = max(m[2] for m in moments) - moments[0][2]
    notes.append(
        f"{grown:.0f} MiB more at the most, {moments[-1][1] - moments[-2][1]:.0f} s for the table"
    )
    broken += [notes[-1]] * (grown > MEMORY)
    return Observed(1, tuple(broken), "; ".join(notes))
