"""The one way to the terminal: output, progress, and the line that a failed command ends with.

Nothing heavy is imported before something is shown.
"""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from nftbench.parsing import plain
from nftbench.runs.launched import launched

if TYPE_CHECKING:
    from nftbench.reporting.tables.grid import Grid
    from rewards.base import Progress

FAILED = 1
"""What was checked does not hold: a reward differs, a run cannot be verified, an installation is broken."""
REFUSED = 2
"""The user asked for what cannot be; nothing was done."""
STOPPED = 3
"""A training that stopped itself: a guard, a loss that is no number, nothing that could be scored."""
UNSCORED = 4
"""All was done, and more images than `--max-failed` allows have no score."""
INTERRUPTED = 130
TORCHRUNS_FILE = "TORCHELASTIC_ERROR_FILE"
"""Variable by which torchrun names a file for why a process failed. It shows that beside the process's exit code, and
ends with 1 itself."""
LOG = logging.getLogger("nftbench")
"""Its level is how much is said beside a result: ERROR shows no progress, DEBUG passes on what libraries say."""


def is_main() -> bool:
    """Whether this is the only process, or the first of those that torchrun started: it alone talks and publishes."""
    return launched()[0] == 0


_answers: dict[str, Any] = {"in_json": False, "output": None, "beside": None}
"""How the command that runs answers; and where, and where all else that is printed goes, when the two are apart."""


def answer_in_json(wanted: bool) -> bool:
    """From here on standard output takes JSON alone, or everything.

    What rewards and pipelines of the user's own print goes to standard error beside JSON, too.
    """
    if wanted and not _answers["in_json"]:
        _answers.update(output=sys.stdout, beside=sys.stderr)
        sys.stdout = sys.stderr
    elif _answers["in_json"] and not wanted and sys.stdout is _answers["beside"]:
        sys.stdout = _answers["output"]
    _answers["in_json"] = wanted
    return wanted


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=answer_in_json,
        help="Print the result as JSON and nothing else; what else is said goes to standard error.",
    ),
]
"""The flag of every command whose result is a table or a fact."""


def answer(grids: "Sequence[Grid]", result: Any) -> None:
    """Print a command's result: its tables, or with `--json` what they are made of.

    Args:
        grids: the tables.
        result: mappings, sequences, data classes and plain values; a number that is not finite becomes null.
    """
    if _answers["in_json"]:
        write(json.dumps(plain(result), indent=2, default=str) + "\n")
    else:
        show(grids)


def write(text: str) -> None:
    """Text for standard output, as it is."""
    if is_main():
        output = _answers["output"] if _answers["in_json"] else sys.stdout
        output.write(text)
        output.flush()


def line(text: str) -> None:
    """One line for standard output, however long it is; beside JSON for standard error."""
    if not _answers["in_json"]:
        write(f"{text}\n")
    elif is_main():
        sys.stderr.write(f"{text}\n")


def show(grids: "Sequence[Grid]") -> None:
    """Print tables: as wide as the terminal, and into a file or a pipe as `--out FILE.txt` writes them."""
    from rich.console import Console

    from nftbench.reporting.tables import text_tables

    if sys.stdout.isatty() and is_main():
        text_tables.show(Console(file=sys.stdout), grids)
    else:
        line(text_tables.render("terminal", grids, []).removesuffix("\n"))


def fail(message: str, code: int) -> NoReturn:
    """End the command: one line to standard error, and an exit code."""
    if code == INTERRUPTED and not is_main():
        sys.exit(code)  # all were asked to stop, and the first one says so
    line = f"nftbench: {' '.join(message.split())}"
    if _is_first_to_say(line):
        sys.stderr.write(f"{line}\n")
    if told := os.environ.get(TORCHRUNS_FILE):
        with suppress(OSError):
            about = {"message": line, "timestamp": int(time.time())}
            Path(told).write_text(json.dumps(about), encoding="utf-8")
    sys.exit(code)


def _is_first_to_say(line: str) -> bool:
    """Whether none of the processes that torchrun started on this machine has said a line; alone, always."""
    if not (told := os.environ.get(TORCHRUNS_FILE)):
        return True
    mark = hashlib.sha256(line.encode("utf-8", "replace")).hexdigest()[:16]
    beside = Path(told).parent  # each process has a folder of its own, all of them in one
    try:
        beside.with_name(f"said-{mark}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def progress(*, in_bytes: bool = False) -> "Iterator[Progress]":
    """A bar for each stage with rate and time left, on a terminal alone.

    Args:
        in_bytes: what is counted are bytes and not images, prompts or steps.
    """
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    quiet = LOG.getEffectiveLevel() >= logging.ERROR or not is_main()
    disable = quiet or not console.is_terminal
    # Into a file or a pipe go only our own lines: rich would add an empty one.
    with Progress(*columns, console=console, disable=disable) as bar:
        stages: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=None, rate="")
            speed = bar.tasks[stages[stage]].speed or 0.0
            rate = decimal(int(speed)) if in_bytes else f"{speed:.1f}"
            bar.update(
                stages[stage],
                completed=done,
                total=total or None,
                rate=f"{rate}/s" if speed else "",
            )

        yield report
