"""Do the faults, print what was observed, write it down: `python -m tests.faults [--quick] [--count N] [NAME...]`."""

import argparse
import datetime
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import found
from tests.helpers.paths import ROOT

os.environ.update(HF_HUB_OFFLINE="1", PYTHONUTF8="1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

DOCUMENT = ROOT / "nftbench" / "runs" / "FAULTS.md"
MEASURED = ROOT / "tests" / "faults" / "measured.json"
PRELOADED = (
    "matplotlib.backend_bases",
    "matplotlib.figure",
    "nftbench.commands",
    "nftbench.evaluation.verify",
    "nftbench.reporting.compare",
    "nftbench.reporting.html_report.build",
    "nftbench.reporting.leaderboard.board",
    "nftbench.reporting.tables.summary_tables",
    "nftbench.reporting.tables.text_tables",
    "nftbench.training.algorithms.diffusion_nft",
    "nftbench.training.algorithms.solvers",
)
"""What every process that is forked needs."""
INTRODUCTION = """# Faults

What was done to runs on purpose, what is promised, and what was observed. `make faults` does all of it again and writes
this page; `python -m tests.faults NAME` does one kind and writes its row. "n of m" are trials in which the promise
held. A trial ends in no traceback and in no number but the true one. Seconds are on the clock of a machine that did
other work too, and of the processor.

"""
HEAD = """
| fault | promise | observed | seconds | of the processor | commit |
|---|---|---|---|---|---|
"""


def main() -> int:
    """Every fault that was asked for; 1 where a promise did not hold."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="functions of tests/faults; all when left out")
    parser.add_argument("--quick", action="store_true", help="the part that the ordinary tests do")
    parser.add_argument("--count", type=int, default=20, help="random kills of each kind")
    parser.add_argument("--width", type=int, default=2, help="trials at once")
    parser.add_argument("--json", action="store_true", help="a line of JSON each, nothing written")
    arguments = parser.parse_args()
    faults = _faults(arguments.names, quick=arguments.quick)
    held = True
    with tempfile.TemporaryDirectory(prefix="nftbench-faults-") as folder:
        bench = _bench(Path(folder), arguments)
        for fault in faults:
            begun, used = time.monotonic(), _processor()
            observed = fault.trial(bench)
            seconds = round(time.monotonic() - begun, 1)
            held &= not observed.broken
            _say(fault, observed, seconds, as_json=arguments.json)
            if not (arguments.json or arguments.quick):
                _note(fault, observed, seconds, round(_processor() - used, 1))
    return 0 if held else 1


def _processor() -> float:
    """Seconds of the processor that this process and the trials which ended have used."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _faults(names: list[str], *, quick: bool) -> list:
    from tests.faults import damage, disk, growth, kills, servers, starts  # noqa: F401  (they list themselves)
    from tests.faults.bench import FAULTS

    known = {f.trial.__name__ for f in FAULTS}
    if set(names) - known:
        sys.exit(f"expected some of {', '.join(sorted(known))}")
    return [
        f for f in FAULTS if (f.trial.__name__ in names or not names) and (f.quick or not quick)
    ]


def _bench(folder: Path, arguments: argparse.Namespace):
    for name in PRELOADED:
        importlib.import_module(name)
    from tests.faults.bench import Bench

    count = 2 if arguments.quick else arguments.count
    return Bench(folder, quick=arguments.quick, count=count, width=arguments.width)


def _say(fault, observed, seconds: float, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"fault": fault.trial.__name__, "broken": list(observed.broken)})
    else:
        line = f"{fault.name} | {fault.promise} | {observed} | {seconds} s"
    sys.stdout.write(f"{line}\n")
    for broken in observed.broken:
        sys.stderr.write(f"{fault.trial.__name__}: {broken}\n")
    sys.stdout.flush()


def _note(fault, observed, seconds: float, processor: float) -> None:
    """Keep what was observed, and write the page of all that is known."""
    known = json.loads(MEASURED.read_text("utf-8")) if MEASURED.is_file() else {}
    known[fault.trial.__name__] = {
        "commit": _commit(),
        "day": datetime.date.today().isoformat(),
        "observed": str(observed),
        "processor": processor,
        "python": platform.python_version(),
        "seconds": seconds,
        "trials": observed.trials,
    }
    MEASURED.write_text(f"{json.dumps(known, indent=2, sort_keys=True)}\n", "utf-8")
    DOCUMENT.write_text(page(known), "utf-8")


def _commit() -> str:
    """What is measured; `measured.json` and the page, which this run writes, do not make it another one."""
    asked = ["git", "describe", "--always", "--exclude=*", "--dirty", "--abbrev=7"]
    paths = ["git", "status", "--porcelain", "--untracked-files=no"]
    said, changed = (
        subprocess.run(one, cwd=ROOT, capture_output=True, text=True).stdout.strip()
        for one in (asked, paths)
    )
    own = all(line.endswith((MEASURED.name, DOCUMENT.name)) for line in changed.splitlines())
    return (said.removesuffix("-dirty") if own else said) or "unknown"


def page(known: dict) -> str:
    """The page, in the order of the suite; what was never measured is not on it."""
    faults = _faults([], quick=False)
    measured = [(f, known[f.trial.__name__]) for f in faults if f.trial.__name__ in known]
    lines = []
    for f, m in measured:
        used = "not noted" if m["processor"] is None else f"{m['processor']:.0f}"
        cells = (f.name, f.promise, m["observed"], f"{m['seconds']:.0f}", used, m["commit"])
        lines.append(f"| {' | '.join(cells)} |\n")
    trials, seconds = (sum(m[name] for _, m in measured) for name in ("trials", "seconds"))
    about = f"{len(measured)} of {len(faults)} kinds, {trials} trials, {seconds / 60:.0f} minutes on the clock.\n"
    return INTRODUCTION + about + HEAD + "".join(lines) + found.table()


if __name__ == "__main__":
    sys.exit(main())
