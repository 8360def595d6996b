"""The command line in this process: the same `main`, without a new interpreter's imports."""

import contextlib
import io
import os
import sys
import traceback
from pathlib import Path

from nftbench.benchmark import places
from nftbench.cli.main import main

UNCAUGHT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What may end a command with a traceback; anything else ends the test itself."""


def run_here(cwd: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and all that `nftbench ARGUMENTS` printed; 1 and the traceback of what it did not catch."""
    said, before = io.StringIO(), (sys.argv, Path.cwd(), list(places._added))
    sys.argv = ["nftbench", *arguments]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except UNCAUGHT:
        said.write(traceback.format_exc())
        code = 1
    finally:
        sys.argv = before[0]
        os.chdir(before[1])
        places._added[:] = before[2]  # of a command's own `--suite FILE` nothing stays behind
    return code, said.getvalue()
