"""Whatever is done to a run, what is promised of it holds: a part of the suite always, all of it with `-m faults`."""

import json
import os
import subprocess
import sys

import pytest

from tests.faults.__main__ import DOCUMENT, MEASURED, page
from tests.helpers.paths import ROOT

QUICK = """
import sys
sys.argv = ["tests.faults", "--json", "--quick"]
from tests.faults.__main__ import main
sys.exit(main())
"""


def broken(code: int, out: str, err: str) -> dict[str, list[str]]:
    """Fault -> trials in which a promise did not hold, as the command says it."""
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines and code in (0, 1), err[-2000:]
    return {line["fault"]: line["broken"] for line in lines}


@pytest.mark.thorough
@pytest.mark.slow
def test_what_is_promised_holds_in_a_part_of_the_trials(start_code):
    found = broken(*start_code(QUICK).finish())
    assert len(found) >= 6 and not any(found.values()), found


@pytest.mark.faults
def test_what_is_promised_holds_in_all_trials():
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--json"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=3600,
    )
    found = broken(done.returncode, done.stdout, done.stderr)
    assert len(found) >= 15 and not any(found.values()), found


def test_the_page_shows_what_was_measured():
    assert DOCUMENT.read_text("utf-8") == page(json.loads(MEASURED.read_text("utf-8")))
