"""Text from outside: broken JSON and TOML are refused like any other; misspelt names get the near one."""

import difflib
import json
import tomllib
from collections.abc import Iterable
from typing import Any

DEEP = "nested too deep"


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text.

    Raises:
        json.JSONDecodeError: it is none, or is nested deeper than Python's stack.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError(DEEP, "", 0) from None


def parse_toml(text: str) -> dict[str, Any]:
    """The content of a TOML text.

    Raises:
        tomllib.TOMLDecodeError: it is none, or is nested deeper than Python's stack.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise tomllib.TOMLDecodeError(DEEP) from None


def did_you_mean(name: str, there: Iterable[str], otherwise: str = "") -> str:
    """The end of a line that refuses a name: the near one, or else what was expected; never a long list after a hint.

    Args:
        name: as the user wrote it.
        there: names that exist.
        otherwise: what is said where none is near, such as `expected one of a, b`.
    """
    near = difflib.get_close_matches(name, list(there), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {otherwise}" if otherwise else ""
