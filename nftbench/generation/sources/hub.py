"""A place on the hub, on this disk: one folder or file of one commit, and in plain words why it cannot be had."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import httpx2
import huggingface_hub.constants
from huggingface_hub import HfApi, get_session, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from nftbench.generation.sources.reference import HubPlace
from rewards.base import ConfigError

Wanted = Callable[[list[str]], Iterable[str]]
"""The files that are needed, of all there are; names as seen from the subfolder."""
UNREACHED = (httpx2.HTTPError, OSError, OfflineModeIsEnabled)


class NotOnHub(ConfigError):
    """No such repository, or none that can be reached from here."""


class NotInRepository(ConfigError):
    """The repository is there and holds no such file."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came from the hub."""

    path: Path
    commit: str
    """Of the whole repository; with the subfolder it is what was loaded."""
    place: HubPlace

    @property
    def digest(self) -> str:
        """Commit, and subfolder where there is one."""
        return f"{self.commit}:{self.place.subfolder}" if self.place.subfolder else self.commit


def fetch_file(place: HubPlace, name: str) -> Fetched:
    """One file below a place.

    Args:
        place: repository, revision and subfolder.
        name: as seen from the subfolder.

    Raises:
        ConfigError: it cannot be had; the line says whether it is gated, missing or out of reach.
    """
    inside = PurePosixPath(place.subfolder or "") / name
    try:
        path = Path(
            hf_hub_download(
                place.id,
                str(inside),
                revision=place.revision,
                local_files_only=_out_of_reach(place, str(inside)),
            )
        )
    except (HFValidationError, HfHubHTTPError, EntryNotFoundError, *UNREACHED) as error:
        raise _refusal(place, str(inside), error) from None
    commit = path.parents[len(inside.parts) - 1].name  # the cache names a snapshot by its commit
    return Fetched(path, commit, place)


def _out_of_reach(place: HubPlace, name: str) -> bool:
    """Whether the hub gives no answer at all, asked once: its client asks six times, with a line each, for 23 s."""
    url = hf_hub_url(place.id, name, revision=place.revision)
    try:
        get_session().head(
            url, timeout=huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT, follow_redirects=False
        )
    except UNREACHED:
        return True
    return False


def fetch_folder(
    place: HubPlace, known: str, wanted: Wanted, lacking: Callable[[Path], str]
) -> Fetched:
    """The files of a place that are needed, in one folder.

    Args:
        place: repository, revision and subfolder.
        known: a file that has to be there; it settles the commit, once.
        wanted: names of the files that are needed.
        lacking: what a folder of the cache lacks, in words; asked where the hub does not say what there is.

    Raises:
        ConfigError: it cannot be had; the line says whether it is gated, missing or out of reach.
    """
    first = fetch_file(place, known)
    folder = first.path.parents[len(PurePosixPath(known).parts) - 1]
    try:
        info = HfApi().model_info(place.id, revision=first.commit)
    except UNREACHED as error:
        if what := lacking(folder):
            raise ConfigError(
                f"the hub does not give {place.id}: it says not what there is ({_words(error)}), and the cache holds "
                f"a part of it alone, without {what}; run the same command once where there is a network"
                f"{' (unset HF_HUB_OFFLINE)' if huggingface_hub.constants.HF_HUB_OFFLINE else ''}"
            ) from None
        return Fetched(folder, first.commit, place)
    names = [file.rfilename for file in info.siblings or ()]
    inside = [n.removeprefix(_prefix(place)) for n in names if n.startswith(_prefix(place))]
    patterns = [_escaped(_prefix(place) + name) for name in wanted(inside)]
    try:
        snapshot_download(place.id, revision=first.commit, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, *UNREACHED) as error:
        raise _refusal(place, known, error) from None
    return Fetched(folder, first.commit, place)


def with_folder(place: HubPlace, name: str, known: str) -> HubPlace:
    """Where in a repository a part lies: where it says, at the root, or in a folder of its name as in a pipeline's.

    Args:
        place: repository, revision and perhaps subfolder.
        name: the part's.
        known: a file that it is never saved without.
    """
    if place.subfolder is None:
        try:
            fetch_file(place, known)
        except (NotInRepository, NotOnHub):  # offline nobody can tell which
            return replace(place, subfolder=name)
    return place


def fetch_listed(place: HubPlace, choose: Callable[[list[str]], str]) -> Fetched:
    """One file of a place whose name is not known before its files are listed.

    Args:
        place: repository, revision and subfolder.
        choose: the name of the wanted file, of all names as seen from the subfolder.

    Raises:
        ConfigError: it cannot be had.
    """
    api, prefix = HfApi(), _prefix(place)
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        names = [n for n in _cached(place) if n.startswith(prefix)]
        return fetch_file(place, choose([n.removeprefix(prefix) for n in names]))
    try:
        info = api.model_info(place.id, revision=place.revision)
    except (HFValidationError, HfHubHTTPError, *UNREACHED) as error:
        raise _refusal(place, prefix, error) from None
    names = [f.rfilename for f in info.siblings or () if f.rfilename.startswith(prefix)]
    # By the branch's name, so that the cache learns which commit it is and later work needs no network.
    return fetch_file(place, choose([n.removeprefix(prefix) for n in names]))


def _cached(place: HubPlace) -> list[str]:
    """Names of a repository's files in the cache, for work without a network; a part of them may be there."""
    folder = cached_folder(place)
    if folder is None:
        raise _refusal(place, "", LocalEntryNotFoundError("not in the cache"))
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]


def cached_folder(place: HubPlace) -> Path | None:
    """A repository's folder in the cache, with whole files alone, some or all; None where none of it is there."""
    home = Path(huggingface_hub.constants.HF_HUB_CACHE) / repo_folder_name(
        repo_id=place.id, repo_type="model"
    )
    revision = place.revision or "main"
    ref = home / "refs" / revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    folder = home / "snapshots" / commit
    return folder if folder.is_dir() else None


def _prefix(place: HubPlace) -> str:
    return f"{place.subfolder}/" if place.subfolder else ""


def _escaped(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _refusal(place: HubPlace, name: str, error: BaseException) -> ConfigError:
    """The error for the user: what was wanted, why it did not come, what to do."""
    at = f" at revision {place.revision}" if place.revision else ""
    page = f"{huggingface_hub.constants.ENDPOINT}/{place.id}"
    token = "log in with `hf auth login` or set HF_TOKEN"
    gated = f"it is gated: accept its licence at {page}, then {token}"
    reasons: dict[type, str] = {
        GatedRepoError: gated,
        DisabledRepoError: "its repository was disabled by the hub",
        RevisionNotFoundError: f"it has no revision {place.revision!r}; see the branches and tags of {page}",
        RepositoryNotFoundError: f"there is no such repository, or it is private: check the name, or {token}",
        LocalEntryNotFoundError: f"{name or 'it'} is not in the cache{at}, and the hub is out of reach (offline: unset "
        "HF_HUB_OFFLINE, or fetch it first where there is a network)",
        EntryNotFoundError: f"it holds no {name}{at}; expected owner/name@revision:subfolder",
    }
    said = _words(error)
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        reasons[HfHubHTTPError] = gated
    why = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), said)
    lost = isinstance(error, RepositoryNotFoundError | LocalEntryNotFoundError | HFValidationError)
    kind = NotOnHub if lost and not isinstance(error, GatedRepoError) else ConfigError
    if isinstance(error, EntryNotFoundError) and not lost:
        kind = NotInRepository
    return kind(f"the hub does not give {place.id}: {why}")


def _words(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
