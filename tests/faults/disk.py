"""Disks that are full or cannot be written, and memory that does not do."""

import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.bench import Bench, Observed, fault
from tests.faults.compared import differences, files, weights


def small_disk(size: int) -> Callable[[], None]:
    """No file can become larger than so many bytes: to a program, a full disk in the middle of a file."""

    def arrange() -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    return arrange


@fault(
    "one line with the file and the remedy; with room again, the same command ends with the same bytes"
)
def full_disk_in_eval(bench: Bench) -> Observed:
    """A disk that is full at some size of file, in eval and score."""
    whole = bench.whole

    def trial(size: int) -> list[str]:
        run = bench.new("full")
        ended = bench.do(*bench.eval_command, "--out", run, before=small_disk(size))
        again = bench.do(*bench.eval_command, "--out", run)
        wrong = [ended.fault(0, 2), again.fault(0), differences(files(run), files(whole))]
        scored = bench.do("score", run, "--rewards", "pickscore@pocket", before=small_disk(size))
        lost = b"compressibility" not in (run / "rows.csv").read_bytes()
        return [*wrong, scored.fault(0, 2), *["score lost old rows"] * lost]

    sizes = bench.some((0, 200, 1000, 2500, 4000, 7000), 3)
    return Observed(len(sizes), bench.each(sizes, trial))


@fault(
    "one line with the file; the old report and the old list of scores stay as they were",
    quick=False,
)
def full_disk_in_report(bench: Bench) -> Observed:
    """A disk that is full at some size of file, in report and score LIST."""
    whole, other, first = bench.whole, bench.other, bench.new("report")
    assert bench.do("report", whole, "--out", first).code == 0

    def trial(size: int) -> list[str]:
        out = Path(shutil.copytree(first, bench.new("report")))
        ended = bench.do("report", other, "--out", out, before=small_disk(size))
        kept = differences(files(out), files(first)) if ended.code else ""
        return [ended.fault(0, 2), kept]

    sizes = bench.some((0, 1000, 5000, 20000, 60000), 2)
    return Observed(len(sizes), bench.each(sizes, trial))


@fault("one line; a whole checkpoint is kept, and resume ends with the uncut weights", quick=False)
def full_disk_in_training(bench: Bench) -> Observed:
    """A disk that is full at some size of file, in a training."""
    whole = bench.trained

    def trial(size: int) -> list[str]:
        run = bench.new("full")
        ended = bench.train(run, before=small_disk(size)).wait()
        again = bench.train(run).wait()
        same = differences(weights(run), weights(whole)) if again.code == 0 else ""
        return [ended.fault(0, 2, 3), again.fault(0), same]

    sizes = (0, 300, 3000, 50_000, 200_000, 500_000)
    return Observed(len(sizes), bench.each(sizes, trial))
