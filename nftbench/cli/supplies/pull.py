"""`nftbench pull`: all that a suite needs, at once; and the fetching that `rewards pull` and `data pull` share."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nftbench.cli import console
from nftbench.cli import names as check_names
from rewards.base import ConfigError, Weight

if TYPE_CHECKING:
    from nftbench.evaluation.needs import Need
    from nftbench.reporting.tables.grid import Grid
    from rewards.weights.pull import Pulled

app = typer.Typer()

Mirror = Annotated[
    list[str] | None,
    typer.Option(help="Folder, file:// or http(s):// that holds the files; asked first."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Stay off the network.")]
AcceptDigest = Annotated[
    list[str] | None,
    typer.Option(help="Take this file as it comes, though no digest of it is known."),
]


def pull_files(
    files: Mapping[str, Weight],
    pull: "Callable[..., Pulled]",
    *,
    mirror: Sequence[str] | None,
    offline: bool,
    accept_digest: Sequence[str] | None,
) -> "list[Pulled]":
    """Fetch files one by one, with a bar, and print what came.

    Args:
        files: by name.
        pull: fetches one, as `rewards.weights.pull.pull` does.
        mirror: as the flag of that name.
        offline: the same.
        accept_digest: the same.

    Raises:
        ConfigError: `accept_digest` names none of the files, or a file cannot be had.
    """
    from nftbench.reporting.tables.reward_tables import pulled

    accepted = set(accept_digest or ())
    unknown = accepted - set(files)
    if unknown:
        raise ConfigError(
            f"--accept-digest {min(unknown)} is none of the files: {', '.join(files) or 'none'}"
        )
    sources = {"offline": offline, "mirrors": mirror or ()}
    done = []
    with console.progress(in_bytes=True) as progress:
        for name, file in files.items():
            done.append(pull(file, accept=name in accepted, progress=progress, **sources))
    if done:
        console.show([pulled(files, done)])
    return done


@app.command("pull")
def pull_everything(
    names: Annotated[list[str], typer.Argument(help="Suites or benchmarks: table1, pocket, ...")],
    mirror: Mirror = None,
    offline: Offline = False,
    accept_digest: AcceptDigest = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is here and what is missing.")
    ] = False,
    as_json: console.Json = False,
) -> None:
    """Fetch all that suites need, prompts and weights; say what else is missing, and how to get it."""
    for name in names:
        check_names.check(suite=name)
    from nftbench.benchmark import data_cache
    from nftbench.evaluation.needs import needs
    from nftbench.evaluation.scoring.loading import quiet
    from nftbench.reporting.tables.reward_tables import size
    from rewards.weights import pull as weights

    quiet()
    wanted = needs(names)
    console.answer([_listing(wanted)], wanted)
    missing = [need for need in wanted if not need.here and need.file]
    total = size(sum(need.size for need in missing))
    if dry_run:
        console.line(f"{len(missing)} files to fetch, {total}: nftbench pull {' '.join(names)}")
        return
    for kind, pull in (("prompts", data_cache.pull), ("weights", weights.pull)):
        files = {n.name: n.file for n in missing if n.kind == kind and n.file}
        accepted = [name for name in accept_digest or () if name in files]
        pull_files(files, pull, mirror=mirror, offline=offline, accept_digest=accepted)
    console.line(f"{len(missing)} files fetched, {total}")


def _listing(wanted: "Sequence[Need]") -> "Grid":
    from nftbench.reporting.tables.grid import grid_of
    from nftbench.reporting.tables.reward_tables import size

    rows = [
        (
            need.kind,
            need.name,
            "here" if need.here else "missing",
            size(need.size) if need.size else "",
            "" if need.here else need.remedy,
        )
        for need in wanted
    ]
    headings = ("needed", "name", "state", "size", "remedy")
    return grid_of(headings, rows, prose=("name", "remedy"), spare=("remedy",))
