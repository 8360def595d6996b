"""`nftbench certify`: do rewards, algorithms and statistics equal their references?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import nftbench
from nftbench.certify import NAMES
from nftbench.cli import console
from nftbench.cli.names import there
from rewards.base import ConfigError

if TYPE_CHECKING:
    from nftbench.reporting.tables.grid import Grid
    from rewards.certify.run import Certificate

app = typer.Typer()


@app.command()
def certify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Rewards, or nft, flow-grpo, statistics.")
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
    """Compare rewards and algorithms with numbers of their references' own code; write a certificate each."""
    if bool(names) == every:
        raise ConfigError("name rewards to certify, or --all, and not both")
    if golden:
        there(golden, "the folder of the references' numbers")
    keys, algorithms = _chosen(names or [])
    from nftbench.evaluation.scoring.loading import quiet
    from nftbench.runs.io import write_atomic
    from rewards.certify import run, verdicts

    quiet()
    if every:
        keys, algorithms = list(run.tables()), list(NAMES)
    found = []
    with console.progress() as progress:
        for certificate in _made(keys, algorithms, golden or _golden(), full):
            path = verdicts.path(certificate.reward, out)
            kept = run.fuller(verdicts.read(certificate.reward, out), certificate)
            if not kept:
                write_atomic(path, certificate.encode())
            found.append((certificate, f"{path}{' (kept: it says more than this run)' * kept}"))
            progress("compared", len(found), len(keys) + len(algorithms))
    for certificate, place in found:
        _show(certificate, place)
    if not all(certificate.passed for certificate, _ in found):
        raise typer.Exit(console.FAILED)


def _chosen(chosen: list[str]) -> tuple[list[str], list[str]]:
    """Full keys of the rewards, and the algorithms, that names mean."""
    import rewards

    algorithms = [name for name in dict.fromkeys(chosen) if name in NAMES]
    keys = [rewards.resolve(name) for name in chosen if name not in NAMES]
    return list(dict.fromkeys(keys)), algorithms


def _made(
    keys: Sequence[str], algorithms: Sequence[str], golden: Path, full: bool
) -> "Iterator[Certificate]":
    from nftbench.certify import algorithms as of_algorithms
    from rewards.certify import run

    yield from run.certify(keys, golden, full=full)
    yield from of_algorithms.certify(algorithms, golden)


def _golden() -> Path:
    """The golden numbers of the checkout that this is installed from.

    Raises:
        ConfigError: there is none.
    """
    folder = Path(nftbench.__file__).parents[1] / "tests" / "golden"
    if not folder.is_dir():
        raise ConfigError(
            f"there are no golden numbers at {folder}; name their folder with --golden"
        )
    return folder


def _show(certificate: "Certificate", place: str) -> None:
    console.show([_checks(certificate)])
    rest = f" ({certificate.needs})" if certificate.needs else ""
    console.line(f"{certificate.reward}: {certificate.verdict}{rest}")
    console.line(f"certificate: {place}")


def _checks(certificate: "Certificate") -> "Grid":
    from nftbench.reporting.tables.grid import grid_of

    rows = [
        [
            check.name,
            check.reference,
            str(check.cases),
            f"{check.max_error:.2g}",
            f"{check.mean_error:.2g}",
            f"{check.tolerance:g}{' relative' if check.relative else ''}",
            "" if check.rank_correlation is None else f"{check.rank_correlation:.4f}",
            "equal" if check.passed else "DIFFERS",
        ]
        for check in certificate.checks
    ]
    headings = ("compared", "with", "cases", "max error", "mean", "tolerance", "rank", "")
    return grid_of(
        headings,
        rows,
        title=certificate.reward,
        words=2,
        prose=("compared", "with", ""),
        spare=("rank", "mean"),
    )
