"""Places that may hold a file of weights: mirrors, the hub's own cache, the hub, any address.

A mirror is a folder, or the address of one, laid out like the cache of `rewards.weights.pull`: another machine's cache
is one. Nothing here touches the network before a source is asked for its digest or its bytes.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from rewards.base import ConfigError, Weight

CHUNK = 1 << 20
TIMEOUT = 60.0
"""Seconds without a byte before a connection counts as lost."""
SLOWEST = 1024
"""Bytes a second that a source must give, over `TIMEOUT` seconds, to be worth waiting for."""
LARGEST = 1 << 38
"""Bytes that are taken of a file whose size is not known."""
DIGEST_BYTES, DIGEST_SECONDS = 4096, 30.0
"""Of a `.sha256` beside a mirrored file."""
FULL_DIGEST = 64
"""Hexadecimal digits of a whole sha256."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_HUB = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)@(?P<revision>[^/]+)/(?P<path>.+)")


class UnavailableError(Exception):
    """A source does not have a file, or will not give it; another may."""


class BrokenError(Exception):
    """A connection did not hold; the same source may be asked for the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A place that may hold a file."""

    place: str
    """http(s) address, or path on this machine."""
    digest: Callable[[], str]
    """Finds out the sha256 or its beginning, or `git:` and git's digest; empty where nobody vouches for the file."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent along, such as the hub's token."""


def sources(weight: Weight, mirrors: Sequence[str], *, offline: bool) -> Iterator[Source]:
    """Where to look for a file, one after the other.

    Args:
        weight: which file.
        mirrors: folders, `file://` or http(s) addresses, which hold it under its name.
        offline: leave out what lies beyond this machine.

    Raises:
        ConfigError: a mirror that is none of these, or a folder that is not there.
    """
    for mirror in mirrors:
        base = _base(mirror)
        if not is_remote(base):
            place = Path(base, weight.name)
            yield Source(place=str(place), digest=partial(known_digest, weight, place))
        elif not offline:
            url = f"{base.rstrip('/')}/{quote(weight.name)}"
            yield Source(place=url, digest=partial(_mirrored_digest, weight, url))
    hub = _HUB.fullmatch(weight.url)
    if hub:
        yield from _hub(weight, offline=offline, **hub.groupdict())
    elif not (offline and is_remote(weight.url)):
        place = weight.url if is_remote(weight.url) else _local(weight.url)
        yield Source(place=place, digest=lambda: weight.sha256)


def is_remote(place: str) -> bool:
    """Whether a place lies beyond this machine."""
    return place.lower().startswith(("http://", "https://"))


def _base(mirror: str) -> str:
    if is_remote(mirror):
        return mirror
    folder = _local(mirror)
    if not Path(folder).is_dir():
        raise ConfigError(
            f"mirror {mirror!r} is not a folder; expected a folder, file:// or http(s)://"
        )
    return folder


def _local(place: str) -> str:
    """The path that a name of a file or a `file://` address means."""
    scheme, colon, _ = place.partition("://")
    if colon and scheme.lower() != "file":
        raise ConfigError(f"expected a path, file://, http:// or https://, got {place!r}")
    return url2pathname(urlsplit(place).path) if colon else str(Path(place).expanduser())


# --- digests --------------------------------------------------------------------------------------


def known_digest(weight: Weight, path: Path) -> str:
    """The pinned digest, or the one recorded beside a file where the pin is none or its beginning."""
    record = path.with_name(f"{path.name}.sha256")
    return (
        _longer(weight, record.read_text("utf-8", "replace")) if record.is_file() else weight.sha256
    )


def _longer(weight: Weight, record: str) -> str:
    """The digest that a line of `sha256sum` begins with, where it goes on from the pinned one; else the pin."""
    word = (record.lower().split() or [""])[0]
    fits = _SHA256.fullmatch(word) and word.startswith(weight.sha256)
    return word if fits else weight.sha256


def _mirrored_digest(weight: Weight, url: str) -> str:
    if len(weight.sha256) == FULL_DIGEST:
        return weight.sha256
    source = Source(place=f"{url}.sha256", digest=str)
    try:
        with opened(source, 0) as (_, _, chunks):
            return _longer(weight, _beginning(chunks).decode("utf-8", "replace"))
    except (UnavailableError, BrokenError):  # the file itself will tell what is wrong
        return weight.sha256


def _beginning(chunks: Iterator[bytes]) -> bytes:
    """The first line of a digest's file: what a server sends beyond it, or too slowly, is not waited for."""
    held, end = b"", time.monotonic() + DIGEST_SECONDS
    for chunk in chunks:
        held += chunk
        if b"\n" in held or len(held) >= DIGEST_BYTES or time.monotonic() > end:
            break
    return held[:DIGEST_BYTES]


def _hub(weight: Weight, *, offline: bool, repo: str, revision: str, path: str) -> Iterator[Source]:
    """The hub's own cache, whose blobs are named by their digests, and the hub."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import build_hf_headers

    found = try_to_load_from_cache(repo, path, revision=revision)
    if isinstance(found, str):
        blob = Path(found).resolve().name
        yield Source(place=found, digest=lambda: weight.sha256 or _etag_digest(blob))
    if not offline:
        url = hf_hub_url(repo, path, revision=revision)
        digest = partial(_hub_digest, weight, url, revision)
        yield Source(place=url, digest=digest, headers=build_hf_headers())


def _hub_digest(weight: Weight, url: str, revision: str) -> str:
    """The pin, or what the hub knows of the file in a pinned commit: other revisions can change."""
    import httpx2  # what huggingface_hub speaks itself
    from huggingface_hub import get_hf_file_metadata

    if weight.sha256 or not _SHA1.fullmatch(revision):
        return weight.sha256
    try:
        known = get_hf_file_metadata(url)
    except httpx2.HTTPError as error:
        raise UnavailableError(f"{shown(url)}: {_words(error)}") from None
    return _etag_digest(known.etag or "") if known.commit_hash == revision else ""


def _etag_digest(etag: str) -> str:
    """A blob of LFS is known by its sha256, one of git by git's own digest."""
    if _SHA256.fullmatch(etag):
        return etag
    return f"git:{etag}" if _SHA1.fullmatch(etag) else ""


# --- bytes ----------------------------------------------------------------------------------------


@contextmanager
def opened(source: Source, start: int) -> Iterator[tuple[int, int, Iterator[bytes]]]:
    """A source's bytes from one place on.

    Args:
        source: which.
        start: how many bytes are here already.

    Yields:
        Where it begins (`start`, or 0 where it cannot), the file's whole size (0: not known), the bytes.

    Raises:
        UnavailableError: it does not have the file or will not give it.
        BrokenError: the connection did not hold, or the server is in trouble.
    """
    import httpx2

    if not is_remote(source.place):
        with _opened_here(Path(source.place), start) as found:
            yield found
        return
    headers = {"Accept-Encoding": "identity"} | dict(source.headers)
    headers |= {"Range": f"bytes={start}-"} if start else {}
    place = shown(source.place)
    try:
        with _client().stream("GET", source.place, headers=headers) as response:
            yield _answered(response, place, start)
    except (httpx2.LocalProtocolError, UnicodeEncodeError):  # its text would hold the token
        raise UnavailableError(
            f"{place}: a token or address holds characters that cannot be sent"
        ) from None
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects) as error:
        raise UnavailableError(f"{place}: {_words(error, source)}") from None
    except httpx2.HTTPError as error:
        raise BrokenError(f"{place}: {_words(error, source)}") from None


@cache
def _client():
    """One for the whole process: making its TLS context takes longer than a small file."""
    import httpx2

    return httpx2.Client(follow_redirects=True, timeout=TIMEOUT)


@contextmanager
def _opened_here(path: Path, start: int) -> Iterator[tuple[int, int, Iterator[bytes]]]:
    if not path.is_file():
        raise UnavailableError(f"{path}: no such file")
    with path.open("rb") as file:
        file.seek(start)
        yield start, path.stat().st_size, iter(partial(file.read, CHUNK), b"")


def _answered(response, place: str, start: int) -> tuple[int, int, Iterator[bytes]]:
    """What a server's answer means; see `opened`."""
    code = response.status_code
    if code == 416:  # nothing lies behind `start`
        return start, start, iter(())
    if code == 429 or code >= 500:
        raise BrokenError(f"{place}: the server answered {code} {response.reason_phrase}")
    if code in (401, 403):
        raise UnavailableError(
            f"{place}: {code}, it wants a login: accept its terms there, then run `hf auth login`"
        )
    if not response.is_success:
        raise UnavailableError(f"{place}: the server answered {code} {response.reason_phrase}")
    offset = start if code == 206 else 0
    rest = int(response.headers.get("Content-Length", 0))
    return offset, offset + rest if rest else 0, _flowing(response.iter_raw(), place)


def _flowing(chunks: Iterator[bytes], place: str) -> Iterator[bytes]:
    """The chunks, as long as they come fast enough and have an end."""
    since, came, all_came = time.monotonic(), 0, 0
    for chunk in chunks:
        came, all_came = came + len(chunk), all_came + len(chunk)
        if all_came > LARGEST:
            raise UnavailableError(f"{place}: more than {LARGEST} bytes came, without an end")
        if time.monotonic() - since > TIMEOUT:
            if came < SLOWEST * TIMEOUT:
                raise UnavailableError(f"{place}: only {came} bytes came in {TIMEOUT:g} s")
            since, came = time.monotonic(), 0
        yield chunk


def shown(place: str) -> str:
    """A place for a message or a record: without the user, password and signed query that an address may hold."""
    if not is_remote(place):
        return place
    user, at, _ = urlsplit(place).netloc.rpartition("@")
    return (place.replace(f"{user}{at}", "***@", 1) if at else place).partition("?")[0]


def _words(error: Exception, source: Source | None = None) -> str:
    text = str(error).split("\n")[0] or type(error).__name__
    return text.replace(source.place, shown(source.place)) if source else text
