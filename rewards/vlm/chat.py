"""A client of OpenAI-compatible chat servers; time, bytes and attempts are bounded by `exchange`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from rewards.base import ConfigError
from rewards.vlm.exchange import (
    CONCURRENCY,
    LONGEST_PAUSE,
    MAX_BYTES,
    TIMEOUT,
    Endpoint,
    Failure,
    Question,
    Session,
    ask_all,
    run,
    said,
    status_of,
)

__all__ = (
    "CONCURRENCY", "LONGEST_PAUSE", "MAX_BYTES", "TIMEOUT", "Endpoint", "Question", "Reply", "ask", "probe",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What became of a question."""

    text: str = ""
    """The answer, as it came."""
    failure: str = ""
    """Why there is none; empty where there is one."""
    attempts: int = 1
    """How often it was asked."""


def ask(endpoint: Endpoint, questions: Sequence[Question]) -> list[Reply]:
    """Ask all questions, as `exchange.ask_all` does.

    Args:
        endpoint: the server.
        questions: N questions.

    Returns:
        N replies in the questions' order, after `endpoint.bound(N)` seconds at most.
    """
    return [
        Reply(text=o.value or "", failure=o.failure, attempts=o.attempts)
        for o in ask_all(endpoint, questions, _completed)
    ]


def probe(endpoint: Endpoint) -> None:
    """See whether a server answers, without a question: its status within `PROBE_TIMEOUT`, whatever it then sends.

    Raises:
        ConfigError: none does, or it does not take the key.
    """
    try:
        status = run(status_of(endpoint))
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        raise ConfigError(
            f"no judge answers at {endpoint.shown}: {endpoint.hidden(said(error))}; start one, or name its address in"
            " NFTBENCH_JUDGE_URL."
        ) from None
    if status in {401, 403}:
        raise ConfigError(
            f"the judge at {endpoint.shown} does not take the key: status {status};"
            " name another in NFTBENCH_JUDGE_KEY."
        )


async def _completed(session: Session, body: dict[str, Any]) -> str:
    return _content(session.endpoint.hidden(await session.post("/chat/completions", body)))


def _content(answer: str) -> str:
    try:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise Failure(f"not a chat completion: {answer[:200]}")
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is no character
