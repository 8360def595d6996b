"""Text from outside, where broken JSON and TOML are refused like any other; and what goes out as JSON."""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
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


def plain(value: Any) -> Any:
    """What JSON can hold of a value: fields of dataclasses by their names; null for a number that there is not."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
