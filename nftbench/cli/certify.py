"""`nftbench certify`: do rewards equal their references?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewards.base import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from rewards.certify.run import Certificate

app = typer.Typer()


@app.command()
def certify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Rewards: pickscore, hpsv2@2024.")
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(help="Folder of the references' numbers; a checkout's tests/golden."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every reward that has checks.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Networks of full size as well: minutes, up to 5 GB.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where certificates go; the project's own when left out.")
    ] = None,
) -> None:
    """Compare rewards with numbers of their references' own code; write a certificate each."""
    import rewards
    from nftbench.evaluation.loading import quiet
    from nftbench.reporting.leaderboard.board import certificates
    from nftbench.runs.run_folder import write_atomic
    from rewards.certify import run

    if bool(names) == every:
        raise ConfigError("name rewards to certify, or --all, and not both")
    quiet()
    keys = list(dict.fromkeys(map(rewards.resolve, names))) if names else list(run.tables())
    failed = False
    for certificate in run.certify(keys, golden or _golden(), full=full, told=_note):
        path = (out or certificates()) / f"{certificate.reward}.json"
        write_atomic(path, certificate.encode())
        _show(certificate, path)
        failed |= not certificate.passed
    if failed:
        raise typer.Exit(1)


def _golden() -> Path:
    """The golden numbers of the checkout that this is installed from.

    Raises:
        ConfigError: it is no checkout.
    """
    folder = Path(__file__).parents[2] / "tests" / "golden"
    if not folder.is_dir():
        raise ConfigError("this is no checkout with golden numbers; name a folder with --golden")
    return folder


def _note(key: str) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        console.print(f"comparing {key} ...")


def _show(certificate: "Certificate", path: Path) -> None:
    import sys

    from rich.console import Console

    # Piped output is read by programs and logs: nothing is cut off there at 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(_table(certificate))
    rest = f" ({certificate.needs})" if certificate.needs else ""
    for line in (f"{certificate.reward}: {certificate.verdict}{rest}", f"certificate: {path}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(certificate: "Certificate") -> "Table":
    from rich.table import Table

    table = Table(title=certificate.reward, title_justify="left")
    for heading in ("compared", "with", "cases", "max error", "mean", "tolerance", "rank", ""):
        table.add_column(heading, justify="left" if heading in {"compared", "with"} else "right")
    for check in certificate.checks:
        rank = check.rank_correlation
        table.add_row(
            check.name,
            check.reference,
            str(check.cases),
            f"{check.max_error:.2g}",
            f"{check.mean_error:.2g}",
            f"{check.tolerance:g}{' relative' if check.relative else ''}",
            "" if rank is None else f"{rank:.4f}",
            "equal" if check.passed else "DIFFERS",
        )
    return table
