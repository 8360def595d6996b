"""`nftbench eval`, `nftbench score` and `nftbench benchmarks`: how good is a checkpoint, and at what?"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nftbench.cli import console, flags, names
from nftbench.parsing import whole_number
from rewards.base import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftbench.evaluation.alarms import Alarm
    from nftbench.runs.rows import Row

app = typer.Typer()

Rewards = Annotated[
    str | None,
    typer.Option(
        help="Rewards instead of the benchmark's own: ocr,pickscore@pocket; or FILE.py:NAME, which runs that file."
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option("--retry-failed/--no-retry-failed", help="Ask again for images without a score."),
]
MaxFailed = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of unscored images from which the exit code is 4."),
]
RewardDevice = Annotated[
    str | None, typer.Option(help="Where rewards run: cpu, cuda:1; the GPU where there is one.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images made and scored at once.")]


GUIDANCE = re.compile(r"(off|native)|(cfg|embedded):(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class SuiteFlags:
    """What is asked."""

    suite: Annotated[
        str | None,
        typer.Option(
            help="Suite or benchmark, or a suite's .toml; the checkpoint's own when left out."
        ),
    ] = None
    prompts: Annotated[
        Path | None,
        typer.Option(help="Your own prompts instead of a suite: .txt, .jsonl or .csv."),
    ] = None
    benchmark_path: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of your own benchmarks, see benchmarks/README.md."),
    ] = None

    def suite_name(self, rewards: str | None) -> str | None:
        """The suite's name, once everything of the user's own is known; None is the checkpoint's own.

        Args:
            rewards: rewards instead of the benchmark's own.

        Raises:
            ConfigError: what does not go together.
        """
        import rewards as registry
        from nftbench.benchmark import own, places

        for folder in self.benchmark_path or ():
            places.add(folder)
        if self.prompts is None:
            return self.suite
        if self.suite is not None:
            raise ConfigError("--suite and --prompts both say what is asked; leave out one")
        names.there(self.prompts, "a prompt file: .txt, .jsonl or .csv")
        if rewards is None:
            raise ConfigError("own prompts name no rewards; pass --rewards, such as ocr,jpeg")
        keys = [key.strip() for key in registry.add_files(rewards).split(",")]
        return own.add_benchmark(self.prompts.stem, own.read_prompts(self.prompts), keys)


@dataclass(frozen=True)
class ProtocolFlags:
    """How images are drawn, where it is not as the benchmark has it."""

    guidance_scale: Annotated[
        float | None,
        typer.Option(min=0, help="Scale of the model's own kind of guidance; 1 is none."),
    ] = None
    guidance: Annotated[
        str | None,
        typer.Option(help="off, cfg:S, embedded:S, or native: as the model has it."),
    ] = None
    size: Annotated[
        str | None, typer.Option(help="Pixels, as 1024 or HEIGHTxWIDTH; of the benchmark or model.")
    ] = None
    images_per_prompt: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Images of each prompt.")
    ] = None
    max_sequence_length: Annotated[
        int | None, typer.Option(min=0, help="Tokens of the long text encoder.")
    ] = None
    negative_prompt: Annotated[str | None, typer.Option(help="What guidance leads away from.")] = (
        None
    )
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None
    solver: Annotated[
        str | None,
        typer.Option(help="euler, dpm2, dpm++2, unipc or ddim; the model's own when left out."),
    ] = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many prompts: not publishable.")
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of all noise.")] = 0

    def settings(self) -> dict[str, Any]:
        """Protocol fields; None leaves one as the benchmark has it.

        Raises:
            ConfigError: a guidance or size that cannot be read.
        """
        return {
            **_guidance(self.guidance, self.guidance_scale),
            **_size(self.size),
            "images_per_prompt": self.images_per_prompt,
            "max_sequence_length": self.max_sequence_length,
            "negative_prompt": self.negative_prompt,
            "num_inference_steps": self.steps,
            "solver": self.solver,
            "limit": self.limit,
            "seed": self.seed,
        }


def _guidance(text: str | None, scale: float | None) -> dict[str, Any]:
    """`--guidance` and `--guidance-scale` as protocol fields."""
    if text is None:
        return {"guidance_scale": scale}
    if scale is not None:
        raise ConfigError("--guidance and --guidance-scale say the same; leave out one")
    found = GUIDANCE.fullmatch(text)
    if not found:
        raise ConfigError(
            f"--guidance {text}: expected off, native, cfg:S or embedded:S, such as cfg:4.5"
        )
    plain, kind, value = found.groups()
    return {"guidance": plain} if plain else {"guidance": kind, "guidance_scale": float(value)}


def _size(text: str | None) -> dict[str, Any]:
    """`--size` as protocol fields."""
    if text is None:
        return {}
    height, x, width = text.lower().partition("x")
    width = width if x else height
    if not (_pixels(height) and _pixels(width)):
        raise ConfigError(
            f"--size {text}: expected at least 8 pixels, such as 1024, or HEIGHTxWIDTH such as 768x1024"
        )
    return {"height": int(height), "width": int(width)}


def _pixels(text: str) -> bool:
    return (whole_number(text) or 0) >= 8


@app.command("eval")
@flags.grouped
def eval_(
    *,
    checkpoint: Annotated[str, typer.Argument(help=flags.CHECKPOINT)],
    what: SuiteFlags,
    protocol: ProtocolFlags,
    rewards: Rewards = None,
    batch_size: BatchSize = 16,
    loading: flags.Loading,
    machine: flags.FullMachine,
    reward_device: RewardDevice = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; under runs/ when left out.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Add the rows to leaderboards/.")
    ] = False,
    retry_failed: RetryFailed = True,
    max_failed: MaxFailed = 0.01,
    as_json: console.Json = False,
) -> None:
    """Generate from a checkpoint, judge the images, print a table with error bars."""
    if publish and protocol.limit:
        raise ConfigError("--publish takes whole runs only; leave out --limit")
    suite = what.suite_name(rewards)
    names.check(checkpoint=checkpoint, suite=suite, rewards=rewards, several=True)
    settings = protocol.settings()
    from nftbench import commands
    from nftbench.evaluation.alarms import run_alarms
    from nftbench.evaluation.planning import drawn_as
    from nftbench.reporting.leaderboard import board as leaderboard

    several = commands.seeds_to_evaluate(checkpoint, suite, out, console.line)
    if publish:
        _refuse_to_publish(suite, several=bool(several))
    alarms = []
    for trained, folder in several or [(checkpoint, out)]:
        with console.progress() as progress:
            run, rows = commands.evaluate_checkpoint(
                loading.named(trained),
                suite,
                settings,
                rewards=rewards,
                batch_size=batch_size,
                out=folder,
                progress=progress,
                allowed=loading.allowed,
                hardware=machine.hardware(),
                reward_device=reward_device,
                say=console.line,
                retry_failed=retry_failed,
            )
        for said in drawn_as(run.manifest):
            console.line(said)
        found = run_alarms(run)
        _show(rows, found, "run", run.folder)
        alarms += found
    if several:
        _show_seeds(run.folder.parent)
    for path in leaderboard.add(run) if publish and console.is_main() else ():
        console.line(f"published: {path}")
    _end(alarms, max_failed)


def _show_seeds(parent: Path) -> None:
    """The mean over the seeds that were evaluated."""
    from nftbench.reporting.results import read_result
    from nftbench.reporting.seed_rows import rows_of
    from nftbench.reporting.tables import summary_tables

    result = read_result(parent)
    console.show(summary_tables.scores(rows_of(result)))
    for note in result.notes:
        console.line(note)
    console.line(f"runs: {parent}, one folder a seed; the table is their mean")


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
        typer.Option(
            help="Where a list's scores go, .csv or .parquet; LIST.scores.parquet when left out."
        ),
    ] = None,
    reward_device: RewardDevice = None,
    retry_failed: RetryFailed = True,
    max_failed: MaxFailed = 0.01,
    as_json: console.Json = False,
) -> None:
    """Score images that exist: a run's, or any that a list names."""
    names.there(target, "a run folder or a list of images")
    names.check(rewards=rewards)
    from nftbench import commands
    from nftbench.evaluation.alarms import run_alarms
    from nftbench.runs.run_folder import Run

    with console.progress() as progress:
        if target.is_dir():
            if out:
                raise ConfigError("--out is for lists; a run's scores stay in its folder")
            rows = commands.score_run(
                target,
                rewards,
                progress,
                retry_failed=retry_failed,
                reward_device=reward_device,
            )
            alarms, written = run_alarms(Run(target)), target
        else:
            rows, alarms, written = commands.score_listed(
                target, rewards, batch_size, out, progress, reward_device=reward_device
            )
    _show(rows, alarms, "scores", written)
    _end(alarms, max_failed)


@app.command()
def benchmarks(as_json: console.Json = False) -> None:
    """List benchmarks and suites."""
    from nftbench.benchmark import registry
    from nftbench.reporting.tables import summary_tables

    benchmarks = [registry.load_benchmark(name) for name in registry.names()]
    suites = [registry.load_suite(name) for name in registry.suite_names()]
    console.answer(
        [summary_tables.benchmarks(benchmarks), summary_tables.suites(suites)],
        {
            "benchmarks": [benchmark.model_dump(mode="json") for benchmark in benchmarks],
            "suites": [suite.model_dump(mode="json") for suite in suites],
        },
    )


def _show(rows: "Sequence[Row]", alarms: "Sequence[Alarm]", what: str, where: Path) -> None:
    """What speaks against the numbers, the numbers, and where they are: in this order."""
    from nftbench.reporting.tables import summary_tables

    for alarm in alarms:
        console.line(str(alarm))
    records = [row.model_dump() for row in rows]
    console.answer(
        summary_tables.scores(rows), {what: str(where), "rows": records, "warnings": alarms}
    )
    console.line(f"{what}: {where}")


def _refuse_to_publish(suite: str | None, *, several: bool) -> None:
    """Refuse what could not be published in the end, before an image is drawn for it."""
    from nftbench.benchmark.registry import load_suite
    from nftbench.reporting.leaderboard.board import refuse_ahead

    if several:
        raise ConfigError("--publish takes one run; evaluate and publish one seed's folder")
    refuse_ahead(load_suite(suite).benchmarks if suite else ())


def _end(alarms: "Sequence[Alarm]", max_failed: float) -> None:
    if any(alarm.failed > max_failed for alarm in alarms):
        raise typer.Exit(console.UNSCORED)
