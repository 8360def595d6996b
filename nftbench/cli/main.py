"""The command line: parse, call, exit. Nothing heavy is imported before a command runs."""

import errno
import sys

import typer

from nftbench.cli import (
    certify,
    data,
    doctor,
    evaluate,
    leaderboard,
    report,
    rewards,
    stress,
    train,
)
from nftbench.cli.console import INTERRUPTED, REFUSED, STOPPED, fail
from nftbench.training import Interrupted, TrainingFailed
from rewards.base import ConfigError

app = typer.Typer(
    help="Evaluate and train text-to-image models with rewards whose numbers can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (evaluate, train, report, stress, certify, doctor):
    app.add_typer(group.app)
app.add_typer(rewards.app, name="rewards")
app.add_typer(data.app, name="data")
app.add_typer(leaderboard.app, name="leaderboard")
app.add_typer(train.pocket, name="pocket")

UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)
"""What the user's disk or path can do to a write; any other OSError is our own fault."""


def main() -> None:
    """Run the command line; errors of the user are one line and exit code 2."""
    try:
        code = app(standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except typer.TyperException as error:
        fail(f"{error.format_message()} (see nftbench --help)", REFUSED)
    except ConfigError as error:
        fail(str(error), REFUSED)
    except Interrupted as error:
        fail(str(error), INTERRUPTED)
    except TrainingFailed as error:
        fail(str(error), STOPPED)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        fail(
            f"cannot write {error.filename or 'a file'}: {error.strerror}; "
            "mend that and run the same command again",
            REFUSED,
        )
    if code == INTERRUPTED:  # typer makes Ctrl-C this code, without a word
        fail("stopped; run the same command again to resume", code)
    sys.exit(code)
