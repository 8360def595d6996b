"""Many requests to one server at once, each ended in bounded time and bytes, and asked again where that may help.

Why not a vendor's package: it times out by the read, so that a server which sends a byte now and then is never given
up; it reads an answer of any length; and it does not ask again after an answer that is none. Deadline, bound and
attempts would have to stay here, and it would replace the one line that posts a body.
"""

import asyncio
import base64
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import unquote, urlsplit

import httpx2

from rewards.base import ConfigError

CONCURRENCY = 32
TIMEOUT = 60.0
PROBE_TIMEOUT = 5.0
"""Seconds that a server has to say that it is there."""
LONGEST_PAUSE = 30.0
"""Seconds between two attempts, at most."""
MAX_BYTES = 1 << 20
"""Bytes of an answer that are read; a longer one counts as broken."""
TRANSIENT = frozenset({408, 409, 425, 429})
"""Statuses below 500 that another attempt may turn into an answer."""

T = TypeVar("T")
Q = TypeVar("Q")
Question = Callable[[], dict[str, Any]]
"""Makes the body of a request when its turn has come: pictures are not all encoded at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where a server answers, and how long it is waited for."""

    url: str
    """Address that a request's path is put behind, such as `http://127.0.0.1:17140/v1`; it may hold a query."""
    key: str = field(default="", repr=False)
    """Sent as bearer token; nothing is sent where it is empty."""
    key_name: str = "NFTBENCH_JUDGE_KEY"
    """The environment's variable that the key is from, for messages."""
    concurrency: int = CONCURRENCY
    """Questions under way at once."""
    timeout: float = TIMEOUT
    """Seconds of one attempt, from connecting to the last byte."""
    attempts: int = 3
    """How often a question is asked before it is given up."""
    backoff: float = 1.0
    """Longest pause after the first attempt, in seconds; doubles each time, up to `LONGEST_PAUSE`."""
    heeding: bool = False
    """Whether a pause is as long as the answer's `Retry-After` says; one above `LONGEST_PAUSE` ends the question."""
    rate: float = 0.0
    """Attempts begun a minute, at most; 0 is no limit."""
    max_bytes: int = MAX_BYTES
    """Of an answer."""

    def __post_init__(self) -> None:
        """Refuse an address that nothing can be sent to, and a key that cannot be sent.

        Raises:
            ConfigError: it is none; the key holds more than visible ASCII characters. Neither is repeated where it may
                hold a password.
        """
        if not sound_address(self.url):
            got = "" if "@" in self.url else f", got {self.url[:200]!a}"
            setting = self.key_name.removesuffix("KEY") + "URL"
            raise ConfigError(
                f"{setting}: expected a server's address such as http://127.0.0.1:17140/v1{got}"
            )
        wrong = [c for c in self.key if not "!" <= c <= "~"]
        if wrong:
            raise ConfigError(
                f"{self.key_name} holds a character that a header cannot carry (not visible ASCII, such as a line"
                " break or an accent); copy the key again."
            )

    @property
    def shown(self) -> str:
        """The address for a message, without a password in it."""
        return self.hidden(self.url)

    def address(self, path: str) -> str:
        """Where a request goes: the path behind the address's own, a query (`?api-version=...`) behind both."""
        parts = urlsplit(self.url)
        return parts._replace(path=f"{parts.path.rstrip('/')}{path}").geturl()

    def hidden(self, text: str) -> str:
        """A text without the key, and without the user and password that an address may hold."""
        user = urlsplit(self.url).netloc.rpartition("@")[0]
        sent = base64.b64encode(unquote(user).encode()).decode()  # as a header carries it
        for secret in (self.key, user, sent):
            text = text.replace(secret, "***") if secret else text
        return text

    def pause(self, attempt: int) -> float:
        """Longest pause after an attempt that failed, counted from 0, in seconds."""
        return min(self.backoff * 2**attempt, LONGEST_PAUSE)

    def bound(self, questions: int) -> float:
        """Seconds after which every one of so many questions has an end, their making, heeding and rate not counted."""
        pauses = sum(self.pause(attempt) for attempt in range(self.attempts - 1))
        rounds = math.ceil(questions / self.concurrency)
        return rounds * (self.attempts * self.timeout + pauses)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Generic[T]):
    """What became of a question."""

    value: T | None = None
    """What was made of the answer; None where there is none."""
    failure: str = ""
    """Why there is none; empty where there is one."""
    attempts: int = 1
    """How often it was asked."""
    status: int = 0
    """Of the last answer that failed; 0 where none came."""
    later: bool = False
    """Whether the server asks to be left alone for longer than is waited: every other question would be told so."""


def sound_address(url: str) -> bool:
    """Whether a request can go to an address: http or https, with a host, and a port above 0 where it names one."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").encode("idna")
    except (ValueError, UnicodeError):
        return False
    plain = url.isprintable() and " " not in url
    return plain and parts.scheme in ("http", "https") and bool(host) and port != 0


def number_above_zero(setting: str, text: str) -> float:
    """The number that a setting holds.

    Args:
        setting: its name, for the message.
        text: its value.

    Raises:
        ConfigError: not a number, or not above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{setting} must be a number above 0, got {text!r}.")
    return value


class Failure(Exception):
    """An attempt without an answer.

    Args:
        what: went wrong.
        again: whether another attempt may have an answer.
        pause: seconds that the server asks to be left alone.
        status: of the answer, 200 where its content is wrong; 0 where there was none.
    """

    def __init__(
        self, what: str, *, again: bool = True, pause: float = 0.0, status: int = 0
    ) -> None:
        super().__init__(what)
        self.again, self.pause, self.status = again, pause, status


class Session:
    """An open connection to a server, for one attempt after the other."""

    def __init__(self, client: httpx2.AsyncClient, endpoint: Endpoint) -> None:
        self._client, self.endpoint = client, endpoint

    async def post(self, path: str, body: dict[str, Any]) -> str:
        """The text of an answer of status 200.

        Raises:
            Failure: there is none.
        """
        held = await self._answered("POST", self.endpoint.address(path), json=body)
        return held.decode("utf-8", "replace")

    async def get(self, url: str) -> bytes:
        """What lies at an address.

        Raises:
            Failure: nothing does, or more than is read.
        """
        return await self._answered("GET", url)

    async def _answered(self, method: str, url: str, **body: Any) -> bytes:
        try:
            async with self._client.stream(method, url, **body) as answer:
                held = await _read(answer, self.endpoint.max_bytes)
        except UnicodeEncodeError:
            raise Failure("the prompt holds half a surrogate pair", again=False) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Failure(self.endpoint.hidden(said(error))) from None
        status = answer.status_code
        if status != 200:
            again = status >= 500 or status in TRANSIENT
            text = held.decode("utf-8", "replace")
            if elsewhere := answer.headers.get("Location", "") if 300 <= status < 400 else "":
                text = (
                    f"it redirects to {elsewhere[:150]}, which is not followed; name that address"
                )
            text = self.endpoint.hidden(text)
            pause = _seconds(answer.headers.get("Retry-After", ""))
            raise Failure(f"status {status}: {text[:200]}", again=again, pause=pause, status=status)
        return held


def _seconds(text: str) -> float:
    """`Retry-After` in seconds from now, which may be a date; 0 where it is neither, or gone by."""
    if text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def ask_all(
    endpoint: Endpoint,
    questions: Sequence[Callable[[], Q]],
    attempt: Callable[[Session, Q], Awaitable[T]],
    ended: Callable[[int, Outcome[T]], None] = lambda number, outcome: None,
) -> list[Outcome[T]]:
    """Ask all questions, as many at once as the endpoint allows.

    Time-outs, lost connections, broken answers and the statuses 5xx and `TRANSIENT` are tried again, after a pause
    that doubles, half of it by chance.

    Args:
        endpoint: the server.
        questions: N of them; each makes what is asked when its turn has come, and that is asked at every attempt.
        attempt: asks one of them once; raises `Failure` where no answer comes of it.
        ended: told of each question's end as it comes, one after the other: what was answered outlives a stop.

    Returns:
        N outcomes in the questions' order.
    """
    return run(_ask_all(endpoint, questions, attempt, ended))


async def _ask_all(
    endpoint: Endpoint,
    questions: Sequence[Callable[[], Q]],
    attempt: Callable[[Session, Q], Awaitable[T]],
    ended: Callable[[int, Outcome[T]], None],
) -> list[Outcome[T]]:
    turn, pace = asyncio.Semaphore(endpoint.concurrency), _Pace(endpoint.rate)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=endpoint.concurrency)
    async with httpx2.AsyncClient(headers=headers(endpoint), limits=limits, timeout=None) as client:
        session = Session(client, endpoint)

        async def one(number: int, question: Callable[[], Q]) -> Outcome[T]:
            async with turn:
                asked = await asyncio.to_thread(question)
                outcome = await _until_answered(
                    session, lambda: attempt(session, asked), pace, random.Random(number)
                )
            ended(number, outcome)
            return outcome

        return await asyncio.gather(*(one(i, question) for i, question in enumerate(questions)))


class _Pace:
    """Lets attempts begin one after the other, so many a minute."""

    def __init__(self, rate: float) -> None:
        self._between = 60 / rate if rate else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        if self._between:
            now = asyncio.get_running_loop().time()
            begin = max(now, self._next)
            self._next = begin + self._between
            await asyncio.sleep(begin - now)


async def _until_answered(
    session: Session, attempt: Callable[[], Awaitable[T]], pace: _Pace, chance: random.Random
) -> Outcome[T]:
    endpoint, failure, status = session.endpoint, "", 0
    for number in range(endpoint.attempts):
        await pace.wait()
        pause = 0.0
        try:
            async with asyncio.timeout(endpoint.timeout):
                return Outcome(value=await attempt(), attempts=number + 1)
        except TimeoutError:
            failure, status = f"no answer within {endpoint.timeout:g} s", 0
        except Failure as fault:
            failure, status = str(fault), fault.status
            pause = fault.pause if endpoint.heeding else 0.0
            if pause > LONGEST_PAUSE:
                failure += f"; it asks to be left alone for {pause:.0f} s"
                return Outcome(failure=failure, attempts=number + 1, status=status, later=True)
            if not fault.again:
                return Outcome(failure=failure, attempts=number + 1, status=status)
        if number + 1 < endpoint.attempts:
            await asyncio.sleep(max(pause, endpoint.pause(number) * chance.uniform(0.5, 1)))
    return Outcome(failure=failure, attempts=endpoint.attempts, status=status)


async def _read(answer: httpx2.Response, limit: int) -> bytes:
    """An answer, of which no more than `limit` bytes are ever held."""
    packing = answer.headers.get("Content-Encoding", "identity")
    if packing != "identity":  # it was not asked for, and a little of it may unpack to gigabytes
        raise Failure(f"an answer packed by {packing[:20]!r}")
    held = bytearray()
    async for part in answer.aiter_raw():
        held += part
        if len(held) > limit:
            raise Failure(f"an answer of more than {limit} bytes")
    return bytes(held)


async def status_of(endpoint: Endpoint) -> int:
    """Of `/models`, whose text is not read: a server may send one without an end, or a byte now and then."""
    async with (
        asyncio.timeout(PROBE_TIMEOUT),
        httpx2.AsyncClient(headers=headers(endpoint), timeout=None) as client,
        client.stream("GET", endpoint.address("/models")) as answer,
    ):
        return answer.status_code


def headers(endpoint: Endpoint) -> dict[str, str]:
    """Of every request."""
    key = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    return {"Accept-Encoding": "identity"} | key


def said(error: Exception) -> str:
    """An error in words, its kind first."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; in a thread of its own where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
