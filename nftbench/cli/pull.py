"""Fetching files: what `nftbench rewards pull` and `nftbench data pull` share."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nftbench.cli import console
from rewards.base import ConfigError, Weight

if TYPE_CHECKING:
    from rewards.weights.pull import Pulled

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
    from nftbench.reporting.reward_tables import pulled

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
