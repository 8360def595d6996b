"""Where weights come from. A file is used only after its sha256 was found right.

Beside a file in the cache may lie `NAME.part`, a download to go on with; `NAME.wrong`, what came with another digest;
`NAME.sha256`, the whole digest of a file whose pin gives none or only its beginning (`sha256sum -c` reads it).
"""

import functools
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rewards.base import ConfigError, MissingWeights, Progress, Weight
from rewards.weights.sources import (
    CHUNK,
    BrokenError,
    Source,
    UnavailableError,
    known_digest,
    opened,
    shown,
    sources,
)
from rewards.weights.stand_ins import stand_in

ATTEMPTS = 5
"""Connections in a row that may bring nothing new before a source is given up."""
PAUSE = 0.2
"""Seconds of waiting after the first of them; doubled with each."""


@functools.cache
def verified(path: Path, sha256: str, *, remedy: str) -> Path:
    """A local file, once its digest was checked; checked once a process.

    Args:
        path: file of weights.
        sha256: expected digest, hexadecimal, or how it begins.
        remedy: what to do when the file is missing or another one, such as a command.

    Raises:
        MissingWeights: there is no such file.
        ConfigError: it holds something else, or no digest is known.
    """
    if not path.is_file():
        raise MissingWeights(f"weights {path} are missing; {remedy}.")
    if not sha256:
        raise ConfigError(f"weights {path} have no known sha256 to be checked by; {remedy}.")
    found = _sha256(path)
    if not found.startswith(sha256):
        raise ConfigError(f"weights {path} have sha256 {found}, expected {sha256}; {remedy}.")
    return path


def packaged(package: str, name: str, sha256: str, *, remedy: str = "") -> Path:
    """A file of weights that an installed package ships.

    Args:
        package: import name, such as `rapidocr`; it is located, not imported.
        name: path of the file inside the package, such as `models/det.onnx`.
        sha256: expected digest, hexadecimal.
        remedy: as in `verified`; reinstalling the package when empty.

    Raises:
        MissingWeights: the package or the file is not there.
        ConfigError: the file holds something else.
    """
    remedy = remedy or f"pip install --force-reinstall {package.partition('.')[0]}"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingWeights(
            f"package {package!r}, which ships {name}, is not installed; {remedy}."
        )
    return verified(Path(spec.submodule_search_locations[0]) / name, sha256, remedy=remedy)


def cache() -> Path:
    """Where fetched weights lie: `NFTBENCH_CACHE`, else `nftbench` under the hub's own cache."""
    if os.environ.get("NFTBENCH_CACHE"):
        return Path(os.environ["NFTBENCH_CACHE"]).expanduser()
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home).expanduser() / "nftbench"


def weight_file(weight: Weight, *, reward: str) -> Path:
    """A fetched file of weights, its digest checked.

    Args:
        weight: which.
        reward: key of the reward that asks, for the remedy.

    Raises:
        MissingWeights: it was not fetched; names the command that does.
        ConfigError: it holds something else, or no digest was recorded when it came.
    """
    other = stand_in(weight.name)
    if other:
        return other
    path = cache() / weight.name
    remedy = f"run: nftbench rewards pull {reward}"
    return verified(path, known_digest(weight, path), remedy=remedy)


def state(weight: Weight, *, folder: Path | None = None) -> Literal["cached", "partial", "missing"]:
    """Whether a file is in the cache, by its size alone: its digest is checked when it is used.

    Args:
        weight: which.
        folder: where fetched files lie; `cache()` when None.
    """
    path = (folder or cache()) / weight.name
    if path.is_file() and weight.size in (0, path.stat().st_size):
        return "cached"
    return "partial" if _beside(path, "part").is_file() else "missing"


# --- pulling --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """A file that is now in the cache."""

    path: Path
    sha256: str
    size: int
    """Bytes."""
    fetched: int = 0
    """Bytes that this call brought; 0 where the file was there already."""
    source: str = ""
    """Address or path it came from; empty where it was there already."""


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` keeps this process off the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def pull(
    weight: Weight,
    *,
    folder: Path | None = None,
    offline: bool = False,
    mirrors: Sequence[str] = (),
    accept: bool = False,
    progress: Progress = lambda name, done, total: None,
) -> Pulled:
    """Bring one file into the cache, whole and of the right digest, or leave nothing under its name.

    Two processes that pull the same file wait for each other; a download that was cut goes on where it stopped.

    Args:
        weight: which.
        folder: where fetched files lie; `cache()` when None.
        offline: stay off the network, as with `HF_HUB_OFFLINE`; folders of this machine still serve.
        mirrors: folders, `file://` or http(s) addresses that hold the file under its name, asked in this order,
            then `NFTBENCH_MIRROR`.
        accept: take the file even where no digest of it is known; the one that it has is recorded.
        progress: told of every piece: the file's name, its bytes here, and out of how many (0: not known).

    Raises:
        MissingWeights: no source has it; says what each of them said.
        ConfigError: what came has another digest or size; it is set aside, and named. A mirror that is none.
    """
    from huggingface_hub.utils import WeakFileLock

    offline = offline or is_offline()
    mirrors = [*mirrors, *filter(None, [os.environ.get("NFTBENCH_MIRROR")])]
    path = (folder or cache()) / weight.name
    _make(path.parent)
    answers = []
    with WeakFileLock(_beside(path, "lock")):
        here = _present(weight, path, accept=accept)
        if here:
            return here
        for source in sources(weight, mirrors, offline=offline):
            try:
                return _take(weight, source, path, accept=accept, progress=progress)
            except UnavailableError as error:
                answers.append(str(error))
    raise MissingWeights(_nowhere(weight, answers, offline=offline))


def _make(folder: Path) -> None:
    """Make a folder of the cache.

    Raises:
        ConfigError: its place takes no folder, such as one of /proc, which says that there is none.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"cannot make {folder}: {error.strerror}; point NFTBENCH_CACHE (of data: NFTBENCH_DATA) at a folder that "
            "takes files"
        ) from None


def _present(weight: Weight, path: Path, *, accept: bool) -> Pulled | None:
    """The file that is in the cache already; another one is moved out of the way."""
    if not path.is_file():
        return None
    digest, found = known_digest(weight, path), _sha256(path)
    if accept and not digest:
        _record(path, found)
    elif not (digest and found.startswith(digest)):
        # Without a known digest it may still be right: who can vouch for it is asked only for the rest.
        path.replace(_beside(path, "wrong" if digest else "part"))
        return None
    return Pulled(path=path, sha256=found, size=_size(path))


def _take(
    weight: Weight, source: Source, path: Path, *, accept: bool, progress: Progress
) -> Pulled:
    """Fetch from one source, check, and give the file its name."""
    digest = source.digest()
    if not (digest or accept):
        raise UnavailableError(f"{shown(source.place)}: no digest is known to check it by")
    part = _beside(path, "part")
    resumed = part.is_file()
    fetched = _fetch(weight, source, part, progress)
    right, found = _checked(weight, part, digest)
    if resumed and not right:  # it may have begun as another file
        part.unlink()
        fetched += _fetch(weight, source, part, progress)
        right, found = _checked(weight, part, digest)
    size = _size(part)
    if not right:
        aside = part.replace(_beside(path, "wrong"))
        raise ConfigError(
            f"{shown(source.place)} is not {weight.name}: it has sha256 {found}, {size} bytes;"
            f" expected {digest or 'any digest'}, {weight.size or 'any number of'} bytes."
            f" It was set aside as {aside}; try another --mirror."
        )
    if found != weight.sha256:
        _record(path, found)
    part.replace(path)
    return Pulled(path=path, sha256=found, size=size, fetched=fetched, source=shown(source.place))


def _checked(weight: Weight, path: Path, digest: str) -> tuple[bool, str]:
    """Whether a file has the digest and the pinned size; its sha256."""
    found = _sha256(path)
    git = digest.startswith("git:")
    same = _git_blob(path) == digest.removeprefix("git:") if git else found.startswith(digest)
    return same and weight.size in (0, _size(path)), found


def _record(path: Path, sha256: str) -> None:
    _beside(path, "sha256").write_text(f"{sha256}  {path.name}\n", encoding="ascii")


def _fetch(weight: Weight, source: Source, part: Path, progress: Progress) -> int:
    """Download what is missing of a file, over as many connections as it takes; bytes that came.

    Raises:
        UnavailableError: it cannot be had there, or connections bring nothing any more.
    """
    fetched, best, idle = 0, _size(part), 0
    while True:
        try:
            for count in _append(weight, source, part, progress):
                fetched += count
            return fetched
        except BrokenError as error:
            idle = 0 if _size(part) > best else idle + 1
            best = max(best, _size(part))
            if idle == ATTEMPTS:
                kept = f"; {best} bytes are kept, the same command goes on from there"
                raise UnavailableError(f"{error}{kept if best else ''}") from None
        time.sleep(PAUSE * 2**idle if idle else 0)


def _append(weight: Weight, source: Source, part: Path, progress: Progress) -> Iterator[int]:
    """Write what one connection brings; yields how many bytes each piece has."""
    with (
        opened(source, _size(part)) as (done, total, chunks),
        part.open("ab" if done else "wb") as file,
    ):
        for chunk in chunks:
            file.write(chunk)
            done += len(chunk)
            progress(weight.name, done, total or weight.size)
            yield len(chunk)
            if weight.size and done > weight.size:
                return  # another file than the pinned one: no need to have all of it


def _nowhere(weight: Weight, answers: Sequence[str], *, offline: bool) -> str:
    tried = "; ".join(answers) or "no source is left"
    if offline:
        remedy = f"put it as {weight.name} below a folder and name that with --mirror, or go online"
    elif any("no digest is known" in one for one in answers):
        remedy = f"trust what comes with --accept-digest {weight.name}, or use a --mirror that has {weight.name}.sha256"
    else:
        remedy = "run the same command again, or name a --mirror"
    mode = "offline, " if offline else ""
    return f"{weight.name} cannot be had ({mode}{tried}); {remedy}."


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{ending}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_blob(path: Path) -> str:
    """The digest by which git, and so the hub, knows a file that is not in LFS."""
    digest = hashlib.sha1(b"blob %d\0" % _size(path))
    with path.open("rb") as file:
        for chunk in iter(functools.partial(file.read, CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()
