"""A client of OpenAI-compatible chat servers: many questions at once, each ended in bounded time and bytes.

Why not the `openai` package: it times out by the read, so that a server which sends a byte now and then is never given
up; it reads an answer of any length; and it does not ask again after an answer that is no chat completion. Deadline,
bound and attempts would have to stay here, and it would replace the one line that posts a body.
"""

import asyncio
import base64
import json
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
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

_T = TypeVar("_T")
Question = Callable[[], dict[str, Any]]
"""Makes the body of a request when its turn has come: pictures are not all encoded at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where a judge answers, and how long it is waited for."""

    url: str
    """Address that `/chat/completions` is put behind, such as `http://127.0.0.1:17140/v1`."""
    key: str = field(default="", repr=False)
    """Sent as bearer token; nothing is sent where it is empty."""
    concurrency: int = CONCURRENCY
    """Questions under way at once."""
    timeout: float = TIMEOUT
    """Seconds of one attempt, from connecting to the last byte."""
    attempts: int = 3
    """How often a question is asked before it is given up."""
    backoff: float = 1.0
    """Longest pause after the first attempt, in seconds; doubles each time, up to `LONGEST_PAUSE`."""

    def __post_init__(self) -> None:
        """Refuse a key that cannot be sent.

        Raises:
            ConfigError: it holds more than visible ASCII characters; the key is not repeated.
        """
        wrong = [c for c in self.key if not "!" <= c <= "~"]
        if wrong:
            raise ConfigError(
                "NFTBENCH_JUDGE_KEY holds a character that a header cannot carry (not visible ASCII, such as a line"
                " break or an accent); copy the key again."
            )

    @property
    def shown(self) -> str:
        """The address for a message, without a password in it."""
        return self.hidden(self.url)

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
        """Seconds after which `ask` has an end for every one of so many questions, their making not counted."""
        pauses = sum(self.pause(attempt) for attempt in range(self.attempts - 1))
        rounds = math.ceil(questions / self.concurrency)
        return rounds * (self.attempts * self.timeout + pauses)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What became of a question."""

    text: str = ""
    """The answer, as it came."""
    failure: str = ""
    """Why there is none; empty where there is one."""
    attempts: int = 1
    """How often it was asked."""


class _Failure(Exception):
    """An attempt without an answer; `again`: whether another may have one."""

    def __init__(self, what: str, *, again: bool = True) -> None:
        super().__init__(what)
        self.again = again


def ask(endpoint: Endpoint, questions: Sequence[Question]) -> list[Reply]:
    """Ask all questions, as many at once as the endpoint allows.

    Time-outs, lost connections, broken answers and the statuses 5xx and `TRANSIENT` are tried again, after a pause
    that doubles, half of it by chance.

    Args:
        endpoint: the server.
        questions: N questions.

    Returns:
        N replies in the questions' order, after `endpoint.bound(N)` seconds at most.
    """
    return _run(_ask_all(endpoint, questions))


def probe(endpoint: Endpoint) -> None:
    """See whether a server answers, without a question: its status within `PROBE_TIMEOUT`, whatever it then sends.

    Raises:
        ConfigError: none does, or it does not take the key.
    """
    try:
        status = _run(_status(endpoint))
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        raise ConfigError(
            f"no judge answers at {endpoint.shown}: {endpoint.hidden(_said(error))}; start one, or name its address in"
            " NFTBENCH_JUDGE_URL."
        ) from None
    if status in {401, 403}:
        raise ConfigError(
            f"the judge at {endpoint.shown} does not take the key: status {status};"
            " name another in NFTBENCH_JUDGE_KEY."
        )


async def _status(endpoint: Endpoint) -> int:
    """Of `/models`, whose text is not read: a server may send one without an end, or a byte now and then."""
    async with (
        asyncio.timeout(PROBE_TIMEOUT),
        httpx2.AsyncClient(headers=_headers(endpoint), timeout=None) as client,
        client.stream("GET", f"{endpoint.url}/models") as answer,
    ):
        return answer.status_code


async def _ask_all(endpoint: Endpoint, questions: Sequence[Question]) -> list[Reply]:
    turn = asyncio.Semaphore(endpoint.concurrency)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=endpoint.concurrency)
    async with httpx2.AsyncClient(
        headers=_headers(endpoint), limits=limits, timeout=None
    ) as client:

        async def one(number: int, question: Question) -> Reply:
            async with turn:
                return await _ask(client, endpoint, question, random.Random(number))

        return await asyncio.gather(*(one(i, question) for i, question in enumerate(questions)))


async def _ask(
    client: httpx2.AsyncClient, endpoint: Endpoint, question: Question, chance: random.Random
) -> Reply:
    body = await asyncio.to_thread(question)
    failure = ""
    for attempt in range(endpoint.attempts):
        try:
            return Reply(text=await _attempt(client, endpoint, body), attempts=attempt + 1)
        except _Failure as fault:
            failure = str(fault)
            if not fault.again:
                return Reply(failure=failure, attempts=attempt + 1)
        if attempt + 1 < endpoint.attempts:
            await asyncio.sleep(endpoint.pause(attempt) * chance.uniform(0.5, 1))
    return Reply(failure=failure, attempts=endpoint.attempts)


async def _attempt(client: httpx2.AsyncClient, endpoint: Endpoint, body: dict[str, Any]) -> str:
    try:
        async with (
            asyncio.timeout(endpoint.timeout),
            client.stream("POST", f"{endpoint.url}/chat/completions", json=body) as answer,
        ):
            text = endpoint.hidden(await _read(answer))
    except TimeoutError:
        raise _Failure(f"no answer within {endpoint.timeout:g} s") from None
    except UnicodeEncodeError:
        raise _Failure("the prompt holds half a surrogate pair", again=False) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _Failure(endpoint.hidden(_said(error))) from None
    if answer.status_code != 200:
        again = answer.status_code >= 500 or answer.status_code in TRANSIENT
        raise _Failure(f"status {answer.status_code}: {text[:200]}", again=again)
    return _content(text)


async def _read(answer: httpx2.Response) -> str:
    """The text of an answer, of which no more than `MAX_BYTES` are ever held."""
    packing = answer.headers.get("Content-Encoding", "identity")
    if packing != "identity":  # it was not asked for, and a little of it may unpack to gigabytes
        raise _Failure(f"an answer packed by {packing[:20]!r}")
    held = bytearray()
    async for part in answer.aiter_raw():
        held += part
        if len(held) > MAX_BYTES:
            raise _Failure(f"an answer of more than {MAX_BYTES} bytes")
    return held.decode("utf-8", "replace")


def _content(answer: str) -> str:
    try:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise _Failure(f"not a chat completion: {answer[:200]}")
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is no character


def _headers(endpoint: Endpoint) -> dict[str, str]:
    key = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    return {"Accept-Encoding": "identity"} | key


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end; in a thread of its own where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
