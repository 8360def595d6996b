"""An OpenAI-compatible image service as a checkpoint: `api:URL#model`.

What a service does with a prompt is its own: steps, guidance and noise cannot be asked for, and a run says so. What can
be held it to is held: the size of every image, and one end for every request.
"""

import base64
import binascii
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import numpy as np
from PIL import Image

from nftbench.benchmark.samples import Sample
from nftbench.parsing import parse_json
from rewards.base import ConfigError
from rewards.images.pixels import ImageError, from_pil, plain
from rewards.vlm.exchange import (
    Endpoint,
    Failure,
    Outcome,
    Session,
    ask_all,
    number_above_zero,
    sound_address,
)

PREFIX = "api:"
KEY = "NFTBENCH_IMAGES_KEY"
IMAGES = "/images/generations"
"""Behind an address: where requests go."""
SECRET = re.compile(r"key|token|secret|pass|auth|credential|signature|^(sig|code)$", re.IGNORECASE)
"""In the name of what an address's query must not hold."""
CONCURRENCY, TIMEOUT, RATE = 4.0, 120.0, 0.0
LARGEST = 64 << 20
"""Bytes of one answer."""
PORTS = {"http": 80, "https": 443}
FORMATS = ("PNG", "JPEG", "WEBP")
UNFIT = frozenset({400, 422})
"""Statuses of a request that holds what the service does not know."""
FATAL = frozenset({401, 402, 404})
"""Statuses that every other request would have, too."""
SPENT = frozenset({0, 429})
"""Statuses that say nothing of the prompt where several prompts have nothing else: nobody answers, or the money is
spent."""
DISLIKED = frozenset({403, *range(500, 600)})
"""Statuses that are such where none of the batch has an image; some services answer so to a prompt they do not like."""
ALIKE = 4
"""Prompts that fail alike before any image came: what is asked for is at fault then, such as the size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageService:
    """A model behind an address; what `LoadedModel` is for weights on this machine."""

    name: str
    """As the user wrote it."""
    model: str
    endpoint: Endpoint
    loras: tuple[()] = ()
    hardware: Mapping[str, Any] = field(default_factory=dict)
    """Nobody knows on what it runs."""

    @property
    def digest(self) -> str:
        """Of the name: nobody can say which weights answer."""
        return f"{PREFIX}{hashlib.sha256(self.name.encode()).hexdigest()[:12]}"

    @property
    def kind(self) -> str:
        """What a manifest has in the place of a pipeline's class."""
        return "image service"

    @property
    def said(self) -> list[str]:
        """What the user should read before any number."""
        return [
            f"{self.endpoint.shown} draws as it likes: seeds, steps and guidance are not controllable, and its weights "
            "may change any day"
        ]


class NoMoreImages(ConfigError):
    """The service gives nobody an image for now."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of one request."""

    pixels: np.ndarray | None
    """uint8 RGB (H, W, 3)."""
    failure: str = ""
    status: int = 200
    """Of the last answer; 0 where none came."""
    attempts: int = 1
    usage: dict[str, float] = field(default_factory=dict)
    """What the service counted, such as `total_tokens` or `cost`."""
    rewritten: bool = False
    """Whether the service says that it drew another text than the prompt."""


@dataclass(slots=True)
class Request:
    """One image wanted, through all attempts to have it."""

    body: dict[str, Any]
    address: str = ""
    """Where the image lies, once the service drew it: it is paid for, and no other is asked for."""
    rewritten: bool = False
    usage: Counter[str] = field(default_factory=Counter)
    """What the service counted, of answers without an image that can be used too: they cost as much."""


def is_service(checkpoint: str) -> bool:
    """Whether a checkpoint's words name a service."""
    return checkpoint.startswith(PREFIX)


def load_service(name: str) -> ImageService:
    """Take `api:URL#model` apart; nothing is asked yet.

    The environment says how it is asked: `NFTBENCH_IMAGES_KEY` (never written anywhere), and numbers above 0 in
    `NFTBENCH_IMAGES_CONCURRENCY`, `NFTBENCH_IMAGES_TIMEOUT` (seconds) and `NFTBENCH_IMAGES_RATE` (requests a minute).

    Raises:
        ConfigError: it is none, or a setting is no number above 0.
    """
    url, _, model = name.removeprefix(PREFIX).partition("#")
    if not sound_address(url) or not model.strip():
        raise ConfigError(
            f"{name!r}: expected api:URL#MODEL, such as api:http://127.0.0.1:8000/v1#my-model"
        )
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix(IMAGES)  # some paste the whole address of a request
    secret = next((n for n, _ in parse_qsl(parts.query) if SECRET.search(n)), None)
    if "@" in parts.netloc or secret:
        raise ConfigError(
            f"an address must hold no {secret or 'password'}, for runs keep it; put it into {KEY}"
        )
    endpoint = Endpoint(
        url=parts._replace(path=path).geturl().rstrip("/"),
        key=os.environ.get(KEY, ""),
        key_name=KEY,
        concurrency=max(1, int(_number("CONCURRENCY", CONCURRENCY))),
        timeout=_number("TIMEOUT", TIMEOUT),
        rate=_number("RATE", RATE),
        attempts=4,
        heeding=True,
        max_bytes=LARGEST,
    )
    return ImageService(name=name, model=model, endpoint=endpoint)


def _number(what: str, default: float) -> float:
    name = f"NFTBENCH_IMAGES_{what}"
    text = os.environ.get(name, "").strip()
    return number_above_zero(name, text) if text else default


def draw(
    service: ImageService,
    batch: Sequence[Sample],
    size: tuple[int, int],
    ended: Callable[[Sample, Drawn], None] = lambda sample, drawn: None,
    *,
    resumed: bool = False,
) -> list[Drawn]:
    """One request an image; what fails for good is an image less, with its reason.

    Args:
        service: whom to ask.
        batch: N images wanted.
        size: height and width in pixels; any other is a failure.
        ended: told what came of each sample, as it comes.
        resumed: whether the service made other images of these samples' batch before.

    Raises:
        NoMoreImages: the service does not know the model or the key, cannot be reached for any image of the batch, or
            asks to be left alone for long.
    """
    requests = [_request(service, sample, size) for sample in batch]
    outcomes = ask_all(
        service.endpoint,
        [partial(_itself, request) for request in requests],
        partial(_attempt, size=size),
        lambda place, outcome: ended(batch[place], _drawn(outcome, requests[place])),
    )
    drawn = [_drawn(outcome, of) for outcome, of in zip(outcomes, requests, strict=True)]
    refusal = next((o.failure for o in outcomes if o.status in FATAL or o.later), "")
    silent = all(d.status == 0 for d in drawn)
    # One prompt that it always fails on says nothing of the service: that is an image less, wherever its batch ends.
    several = len({sample.prompt.text for sample in batch}) > 1
    withheld = SPENT if resumed else SPENT | DISLIKED
    if silent or (several and all(d.status in withheld for d in drawn)):
        refusal = drawn[0].failure
    if refusal:
        later = any(o.later for o in outcomes)
        remedy = (
            "run the same command again then."
            if later
            else f"is it up, is the model's name right, is the key in {KEY}?"
        )
        raise _no_more(service, "more images" if later else "image", f"{refusal}; {remedy}")
    return drawn


def _no_more(service: ImageService, what: str, why: str) -> NoMoreImages:
    return NoMoreImages(
        f"{service.endpoint.shown} made no {what} of {service.model!r}: {why} What was made is kept"
    )


class Beginning:
    """A benchmark's images until the first one is there."""

    def __init__(self, service: ImageService) -> None:
        self._service, self._over = service, False
        self._failed: dict[str, Drawn] = {}

    def go_on(self, batch: Sequence[Sample], drawn: Sequence[Drawn], *, resumed: bool) -> None:
        """Note what came of samples.

        Args:
            batch: N of them.
            drawn: what came of each.
            resumed: whether there are images from before.

        Raises:
            NoMoreImages: all prompts until now failed with one status: so will the others, which may cost money.
        """
        self._over |= resumed or any(one.pixels is not None for one in drawn)
        self._failed |= {s.prompt.text: one for s, one in zip(batch, drawn, strict=True)}
        statuses = {one.status for one in self._failed.values()}
        if not self._over and len(statuses) == 1 and len(self._failed) >= ALIKE:
            raise _no_more(
                self._service,
                "image",
                f"{drawn[0].failure}; so it was for {len(self._failed)} prompts of {len(self._failed)}: is the size "
                "one that it draws, is the model's name right?",
            )


def _itself(request: Request) -> Request:
    return request


def _drawn(outcome: Outcome[np.ndarray], request: Request) -> Drawn:
    drawn = outcome.value is not None
    return Drawn(
        outcome.value,
        outcome.failure,
        200 if drawn else outcome.status,
        outcome.attempts,
        usage=dict(request.usage),
        rewritten=drawn and request.rewritten,
    )


def _request(service: ImageService, sample: Sample, size: tuple[int, int]) -> Request:
    height, width = size
    return Request(
        {
            "model": service.model,
            "prompt": sample.prompt.text,
            "n": 1,
            "size": f"{width}x{height}",
            "response_format": "b64_json",
        }
    )


async def _attempt(session: Session, request: Request, *, size: tuple[int, int]) -> np.ndarray:
    data = b"" if request.address else await _asked(session, request)
    if request.address:
        data = await _fetched(session, request.address)
    return _pixels(data, size)


async def _asked(session: Session, request: Request) -> bytes:
    """An image's bytes from a new answer; none where that says the address, which is noted then."""
    try:
        text = await session.post(IMAGES, request.body)
    except Failure as fault:
        named = fault.status in UNFIT and "response_format" in str(fault)
        if not named or request.body.pop("response_format", None) is None:
            raise
        # some models send base64 unasked and refuse to be asked
        raise Failure(str(fault), status=fault.status) from None
    try:
        answer = parse_json(text)
        first = answer["data"][0]
        encoded, address = first.get("b64_json"), first.get("url")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        shown = session.endpoint.hidden(text)[:200]
        raise Failure(f"not an answer with an image: {shown}", status=200) from None
    request.usage.update(_usage(answer.get("usage")))
    request.rewritten = _is_other(first.get("revised_prompt"), request.body["prompt"])
    if isinstance(encoded, str):
        return _decoded(encoded, "b64_json")
    if isinstance(address, str) and address.startswith("data:"):
        return _decoded(address, "url")
    if not isinstance(address, str):
        raise Failure("an answer with neither b64_json nor url", status=200)
    request.address = _on_same_host(session.endpoint.url, address)
    return b""


async def _fetched(session: Session, address: str) -> bytes:
    """What lies at an image's address.

    Raises:
        Failure: nothing does for now. Its status is of this one image, so that none, such as 404, is taken for the
            service's own.
    """
    try:
        return await session.get(address)
    except Failure as fault:
        raise Failure(
            f"the image that it drew is not at its address: {fault}", pause=fault.pause, status=200
        ) from None


def _is_other(revised: Any, prompt: str) -> bool:
    """Whether a service says that it drew another text."""
    return isinstance(revised, str) and revised.strip() not in ("", prompt.strip())


def _decoded(text: str, name: str) -> bytes:
    """The bytes of base64, broken into lines or behind `data:image/png;base64,` as some services send it."""
    start = text.find(",") + 1 if text.startswith("data:") else 0
    try:
        return base64.b64decode("".join(text[start:].split()), validate=True)
    except (binascii.Error, ValueError):
        raise Failure(f"{name} is not base64", status=200) from None


def _on_same_host(own: str, address: str) -> str:
    """An image's address, if the service itself has it: a run follows no link into the network it stands in."""
    try:
        address = urljoin(own, address)  # some services say no more than the path
        same = _host(address) == _host(own)
    except ValueError:
        same = False
    if not same:
        raise Failure(
            "the image lies on another host than the service, which is not followed; have it answer with b64_json",
            again=False,
            status=200,
        )
    return address


def _host(address: str) -> tuple[str, str | None, int | None]:
    """Whom an address names; a port that its kind has anyway may be left out."""
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)


def _pixels(data: bytes, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if (image.height, image.width) != size:
                raise Failure(
                    f"asked for {size[1]}x{size[0]} pixels (width x height), got {image.width}x{image.height}",
                    again=False,
                    status=200,
                )
            return from_pil(image).pixels
    except (ImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Failure(
            f"not an image that can be read ({', '.join(FORMATS)}): {plain(error)}", status=200
        ) from None


def _usage(found: Any) -> dict[str, float]:
    """The numbers of `usage`; what is nested is left out."""
    if not isinstance(found, dict):
        return {}
    return {
        str(k)[:40]: float(v)
        for k, v in list(found.items())[:20]
        if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e15
    }
