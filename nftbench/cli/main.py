"""The command line: parse, call, exit. The only module that prints.

Nothing heavy is imported before a command runs.
"""

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nftbench.cli import certify as cli_certify
from nftbench.cli import data as cli_data
from nftbench.cli import leaderboard as cli_leaderboard
from nftbench.cli import report as cli_report
from nftbench.cli import rewards as cli_rewards
from nftbench.cli import stress as cli_stress
from nftbench.cli import table as cli_table
from nftbench.training import Interrupted, TrainingFailed
from rewards.base import ConfigError

if TYPE_CHECKING:
    from rich.progress import TaskID

app = typer.Typer(
    help="Evaluate and train text-to-image models with rewards whose numbers can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
pocket = typer.Typer(
    help="The pocket world: a text-to-image model that fits into the repository.",
    no_args_is_help=True,
)
app.add_typer(pocket, name="pocket")
app.add_typer(cli_rewards.app, name="rewards")
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_leaderboard.app, name="leaderboard")
app.add_typer(cli_table.app)
app.add_typer(cli_report.app)
app.add_typer(cli_stress.app)
app.add_typer(cli_certify.app)

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

INTERRUPTED = 130
FAILED = 3
"""A training that stopped itself: a guard, a loss that is no number, nothing that could be scored."""

Rewards = Annotated[
    str | None, typer.Option(help="Rewards instead of the benchmark's own: ocr,pickscore@pocket.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images made and scored at once.")]


@app.command("eval")
def eval_(
    checkpoint: Annotated[
        str, typer.Argument(help="pocket, a diffusers folder or a hub id; +lora=PATH adds a LoRA.")
    ],
    suite: Annotated[
        str | None, typer.Option(help="Suite or benchmark; the checkpoint's own when left out.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(min=0, help="Classifier-free guidance; 1 is none.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many prompts: not publishable.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all noise.")] = 0,
    rewards: Rewards = None,
    batch_size: BatchSize = 16,
    out: Annotated[Path | None, typer.Option(help="Run folder; under runs/ when left out.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Add the rows to leaderboards/.")
    ] = False,
) -> None:
    """Generate from a checkpoint, judge the images, print a table with error bars."""
    if publish and limit:
        raise ConfigError("--publish takes whole runs only; leave out --limit")
    from nftbench.cli import commands as session
    from nftbench.reporting import summary_tables as table
    from nftbench.reporting.leaderboard import board as leaderboard

    settings = {
        "guidance_scale": guidance_scale,
        "num_inference_steps": steps,
        "limit": limit,
        "seed": seed,
    }
    with _progress() as report:
        run, rows = session.evaluate_checkpoint(
            checkpoint,
            suite,
            settings,
            rewards=rewards,
            batch_size=batch_size,
            out=out,
            progress=report,
        )
    _print(*table.terminal(rows))
    print(f"run: {run.folder}")
    for path in leaderboard.add(run) if publish else ():
        print(f"published: {path}")


@app.command()
def score(
    target: Annotated[
        Path, typer.Argument(help="A run folder, or a list images.jsonl of {image, prompt} lines.")
    ],
    rewards: Rewards = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images of a list scored at once; a run keeps its own.")
    ] = 16,
    out: Annotated[
        Path | None,
        typer.Option(help="Where a list's scores go; LIST.scores.parquet when left out."),
    ] = None,
) -> None:
    """Score images that exist: a run's, or any that a list names."""
    from nftbench.cli import commands as session
    from nftbench.reporting import summary_tables as table

    with _progress() as report:
        if target.is_dir():
            if out:
                raise ConfigError("--out is for lists; a run's scores stay in its folder")
            rows, written = session.score_run(target, rewards, report), target
        else:
            rows, written = session.score_list(target, rewards, batch_size, out, report)
    _print(*table.terminal(rows))
    print(f"scores: {written}")


@app.command()
def train(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Where to start; the recipe's own when left out.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A shipped recipe or a .toml file; pocket's when left out.")
    ] = None,
    rewards: Annotated[
        str | None, typer.Option(help="Rewards of every stage, with weights: ocr,pickscore:0.5.")
    ] = None,
    algorithm: Annotated[str | None, typer.Option(help="nft, or the baseline flow-grpo.")] = None,
    combine: Annotated[
        str | None, typer.Option(help="sum of rewards, or advantages, each normalised on its own.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Iterations of every stage.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, as often as wanted.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; under runs/ when left out.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on from the last checkpoint of this run folder.")
    ] = None,
) -> None:
    """Train a checkpoint on rewards; print what it gained on held-out prompts."""
    from nftbench.cli import commands as session
    from nftbench.reporting import summary_tables as table

    flags = {"rewards": rewards, "combine": combine, "iterations": iterations}
    settings = [f"stages.{k}={v}" for k, v in flags.items() if v is not None]
    with _progress() as report:
        folder, changes = session.train_checkpoint(
            recipe,
            [*settings, *(set_ or [])],
            {"checkpoint": checkpoint, "algorithm": algorithm, "seed": seed},
            out=out,
            resume=resume,
            progress=report,
            say=lambda text: print(text, flush=True),
        )
    _print(*table.changes(changes))
    print(f"run: {folder}; evaluate it with: nftbench eval {folder}")


@app.command()
def benchmarks() -> None:
    """List benchmarks and suites."""
    from nftbench.benchmark import registry as benchmark
    from nftbench.reporting import summary_tables as table

    _print(table.benchmarks([benchmark.load_benchmark(n) for n in benchmark.names()]))
    _print(table.suites([benchmark.load_suite(n) for n in benchmark.suite_names()]))


@app.command()
def doctor() -> None:
    """Say what is installed, what works, and the command for what does not."""
    from nftbench.cli.doctor import examine
    from nftbench.evaluation.loading import quiet

    quiet()
    broken = 0
    for finding in examine():
        broken += finding.state == "broken"
        print(f"{finding.state:<7} {finding.what:<28} {finding.detail}")
    if broken:
        raise typer.Exit(1)


@pocket.command()
def build(
    work: Annotated[
        Path, typer.Option(help="Checkpoints of the training; goes on where it stopped.")
    ] = Path("pocket-build"),
    out: Annotated[Path, typer.Option(help="Where the finished weights go.")] = Path(
        "pocket-weights"
    ),
    start: Annotated[
        str | None, typer.Option(help="Train this pocket checkpoint's policy further; judges stay.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Train the pocket policy and its judges from nothing."""
    from nftbench.generation.checkpoint import local_folder
    from nftbench.pocket.train.build import build_all

    with _progress() as report:
        build_all(work, out, threads, report, start=local_folder(start) if start else None)
    print(f"weights: {out}")


def main() -> None:
    """Run the command line; errors of the user are one line and exit code 2."""
    try:
        code = app(standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except typer.TyperException as error:
        _fail(f"{error.format_message()} (see nftbench --help)", 2)
    except ConfigError as error:
        _fail(str(error), 2)
    except Interrupted as error:
        _fail(str(error), INTERRUPTED)
    except TrainingFailed as error:
        _fail(str(error), FAILED)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = error.filename or "a file"
        _fail(
            f"cannot write {where}: {error.strerror}; mend that and run the same command again", 2
        )
    if code == INTERRUPTED:  # typer makes Ctrl-C this code, without a word
        _fail("stopped; the same command goes on from here", code)
    sys.exit(code)


def _fail(message: str, code: int) -> None:
    print(f"nftbench: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _print(*parts: object) -> None:
    from rich.console import Console

    # Piped output is read by programs and logs: never cut a number off at 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    for part in parts:
        console.print(part)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar with rate and time left; the function inside is told (stage, done, total)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    rate = TextColumn("{task.fields[rate]}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        rate,
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Into a file or a pipe go only our own lines: rich would add an empty one.
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total, rate="")
            speed = progress.tasks[tasks[stage]].speed
            progress.update(
                tasks[stage], completed=done, total=total, rate=f"{speed:.1f}/s" if speed else ""
            )

        yield report
