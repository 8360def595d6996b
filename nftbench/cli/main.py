"""The command line: parse, call, exit. Nothing heavy is imported before a command runs."""

import errno
import io
import logging
import shutil
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer
import typer.core

import nftbench
from nftbench.cli import console
from nftbench.cli.console import INTERRUPTED, REFUSED, STOPPED, fail
from nftbench.cli.results import leaderboard, report, view
from nftbench.cli.running import evaluate, import_, inspect, stress, train
from nftbench.cli.supplies import certify, data, doctor, pull, recipes, rewards
from nftbench.runs.launched import OthersEnded, launched
from nftbench.training import Interrupted, TrainingFailed
from rewards.base import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (
    evaluate,
    import_,
    inspect,
    train,
    recipes,
    pull,
    report,
    view,
    stress,
    certify,
    doctor,
):
    app.add_typer(group.app)
app.add_typer(rewards.app, name="rewards")
app.add_typer(data.app, name="data")
app.add_typer(leaderboard.app, name="leaderboard")
app.add_typer(train.pocket, name="pocket")


def _show_version(wanted: bool) -> None:
    if wanted:
        console.line(f"nftbench {nftbench.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and stop.", is_eager=True, callback=_show_version
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bars; tables and errors alone.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the libraries say, too.")
    ] = False,
) -> None:
    """Evaluate and train text-to-image models with rewards whose numbers can be trusted."""
    console.answer_in_json(False)
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose exclude each other; leave out one")
    if quiet or verbose:
        console.LOG.setLevel(logging.ERROR if quiet else logging.DEBUG)


ROOMY = 100
"""Columns from which on help stands in boxes, which cut off names of flags in fewer; plain help breaks its lines."""
UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)
"""What the user's disk or path can do to a write; any other OSError is our own fault."""


def _write_in_any_locale() -> None:
    """Where the terminal has no "±", show "?": the command still ends well."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main() -> None:
    """Run the command line; errors of the user are one line and exit code 2."""
    _write_in_any_locale()
    typer.core.HAS_RICH = shutil.get_terminal_size().columns >= ROOMY
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = app(standalone_mode=False, prog_name="nftbench") or 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except typer.TyperException as error:
        fail(f"{error.format_message()} (see {_command(error)} --help)", REFUSED)
    except ConfigError as error:
        fail(f"{error} (see {_command_named(sys.argv[1:])} --help)", REFUSED)
    except Interrupted as error:
        fail(str(error), INTERRUPTED)
    except OthersEnded as error:
        fail(f"{error}; what was done is kept: run the same command again", INTERRUPTED)
    except TrainingFailed as error:
        fail(str(error), STOPPED)
    except (OSError, MemoryError, RuntimeError) as error:
        said = _unwritable(error) if isinstance(error, OSError) else _out_of_memory(error)
        if not said:
            raise
        fail(said, REFUSED)
    finally:
        console.answer_in_json(False)
    if code == INTERRUPTED:  # typer makes Ctrl-C this code, without a word
        fail(f"stopped{_by_whom()}; run the same command again to resume", code)
    sys.exit(code)


def _by_whom() -> str:
    """A launcher ends its other processes in the same way where it is stopped and where one of them failed."""
    if launched()[1] == 1:
        return ""
    return ", as the launcher was or as another process failed, which says why above or below"


def _out_of_memory(error: MemoryError | RuntimeError) -> str:
    """What did not fit where no batch could be halved, such as a network that is loaded; empty of any other error."""
    torch = sys.modules.get("torch")  # who has not loaded it has not filled a GPU
    on_gpu = torch and isinstance(error, torch.OutOfMemoryError)
    # torch's own words; it has no kind of error for it
    on_cpu = "can't allocate memory" in str(error)
    if not (on_gpu or on_cpu or isinstance(error, MemoryError)):
        return ""
    said = str(error).rpartition("memory: you ")[2]  # behind where in torch it was
    smaller = "a smaller --dtype, --offload model"
    if _command_named(sys.argv[1:]) == "nftbench train":  # which has no such flags
        smaller = "a lower policy.rank, rollout.batch_size or policy.dtype by --set"
    return (
        f"out of memory: {said.partition('.')[0] or 'no more was there'}; take fewer --rewards, {smaller}, or a larger "
        "machine"
    )


def _unwritable(error: OSError) -> str:
    """What the disk refused, empty where it is our own fault; too long a name is refused to who reads, too."""
    if error.errno not in UNWRITABLE:
        return ""
    named = str(error.filename or "a file")
    if error.errno == errno.ENAMETOOLONG:
        return (
            f"too long a name: {named[:80]}… of {len(named.encode())} bytes; expected at most 255 a file or folder and "
            "4095 a path; choose a shorter one"
        )
    return f"cannot write {named}: {error.strerror}; mend that and run the same command again"


def _command(error: typer.TyperException) -> str:
    """The command that was written wrongly, as the user would write it to ask for help."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else ""
    return path or "nftbench"


def _command_named(words: Sequence[str]) -> str:
    """The command that a command line means, as far as it names one."""
    command, path = typer.main.get_command(app), ["nftbench"]
    for word in (w for w in words if w not in ("-q", "--quiet", "-v", "--verbose")):
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        path.append(word)
    return " ".join(path)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM is Ctrl-C: what was done is kept, and the same command resumes."""
    raise KeyboardInterrupt
