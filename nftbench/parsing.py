"""Text from outside: broken JSON and TOML are refused like any other."""

import json
import tomllib
from typing import Any

DEEP = "nested too deep"


def whole_number(text: str) -> int | None:
    """A number of at most 19 plain digits; None of any other text.

    `isdigit` takes "²" too, and `int` refuses thousands of digits.
    """
    plain = text.isascii() and text.isdecimal() and len(text) <= 19
    return int(text) if plain else None


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
