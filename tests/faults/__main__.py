"""Do the faults, print what was observed, write it down: `python -m tests.faults [--quick] [--count N] [NAME...]`."""

import argparse
import datetime
import importlib
import json
import os
import platform
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
    "nftbench.commands",
    "nftbench.evaluation.verify",
    "nftbench.reporting.compare",
    "nftbench.reporting.html_report.build",
    "nftbench.reporting.leaderboard.board",
    "nftbench.reporting.tables.summary_tables",
)
"""What every process that is forked needs."""
INTRODUCTION = """# Faults

What was done to runs on purpose, what is promised, and what was observed. `make faults` does all of it again and writes
this page; `python -m tests.faults NAME` does one kind. "n of m" are trials in which the promise held. A trial ends in
no traceback and in no number but the true one.

| fault | promise | observed | seconds | day |
|---|---|---|---|---|
"""


def main() -> int:
    """Every fault that was asked for; 1 where a promise did not hold."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="functions of tests/faults; all when left out")
    parser.add_argument("--quick", action="store_true", help="the part that the ordinary tests do")
    parser.add_argument("--count", type=int, default=20, help="random kills of each kind")
    parser.add_argument("--width", type=int, default=2, help="trials at once")
    parser.add_argument("--json", action="store_true", help="a line of JSON each, nothing written")
    asked = parser.parse_args()
    faults = _faults(asked.names, quick=asked.quick)
    held = True
    with tempfile.TemporaryDirectory(prefix="nftbench-faults-") as folder:
        bench = _bench(Path(folder), asked)
        for fault in faults:
            begun = time.monotonic()
            observed = fault.trial(bench)
            seconds = round(time.monotonic() - begun, 1)
            held &= not observed.broken
            _say(fault, observed, seconds, as_json=asked.json)
            if not (asked.json or asked.quick):
                _note(fault, observed, seconds)
    return 0 if held else 1


def _faults(names: list[str], *, quick: bool) -> list:
    from tests.faults import damage, disk, growth, kills, servers, starts  # noqa: F401  (they list themselves)
    from tests.faults.bench import FAULTS

    known = {f.trial.__name__ for f in FAULTS}
    if set(names) - known:
        sys.exit(f"expected some of {', '.join(sorted(known))}")
    return [
        f for f in FAULTS if (f.trial.__name__ in names or not names) and (f.quick or not quick)
    ]


def _bench(folder: Path, asked: argparse.Namespace):
    for name in PRELOADED:
        importlib.import_module(name)
    from tests.faults.bench import Bench

    count = 2 if asked.quick else asked.count
    return Bench(folder, quick=asked.quick, count=count, width=asked.width)


def _say(fault, observed, seconds: float, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"fault": fault.trial.__name__, "broken": list(observed.broken)})
    else:
        line = f"{fault.name} | {fault.promise} | {observed} | {seconds} s"
    sys.stdout.write(f"{line}\n")
    for broken in observed.broken:
        sys.stderr.write(f"{fault.trial.__name__}: {broken}\n")
    sys.stdout.flush()


def _note(fault, observed, seconds: float) -> None:
    """Keep what was observed, and write the page of all that is known."""
    known = json.loads(MEASURED.read_text("utf-8")) if MEASURED.is_file() else {}
    known[fault.trial.__name__] = {
        "observed": str(observed),
        "seconds": seconds,
        "day": datetime.date.today().isoformat(),
        "python": platform.python_version(),
    }
    MEASURED.write_text(f"{json.dumps(known, indent=2, sort_keys=True)}\n", "utf-8")
    DOCUMENT.write_text(page(known), "utf-8")


def page(known: dict) -> str:
    """The page, in the order of the suite; what was never measured is not on it."""
    lines = [
        f"| {f.name} | {f.promise} | {m['observed']} | {m['seconds']:g} | {m['day']} |\n"
        for f in _faults([], quick=False)
        if (m := known.get(f.trial.__name__))
    ]
    return INTRODUCTION + "".join(lines) + found.table()


if __name__ == "__main__":
    sys.exit(main())
