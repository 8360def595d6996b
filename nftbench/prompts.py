"""Prompt files: read whole or refused with the line that is wrong."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rewards.base import ConfigError, Prompt

T = TypeVar("T")
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_REWARD = re.compile(r"[\w.-]+(@[\w.-]+)?")


def load_prompts(
    path: Path,
    layout: str,
    *,
    count: int | None = None,
    sha256: str | None = None,
    prefix: str = "",
) -> list[Prompt]:
    """Read a prompt file.

    Args:
        path: the file, UTF-8, one prompt a line.
        layout: `geneval` (GenEval's metadata, JSON lines; a line that names its `rewards` needs no metadata) or
            `text` (the bare prompt).
        count: prompts it must hold.
        sha256: digest its bytes must have.
        prefix: what an id made of a line's number begins with. Noise is seeded by the id, so files that are used
            together, such as those to train on and those asked, need different ones.

    Returns:
        The prompts in file order; an id is the file's own (`id`) or the prefix and the line's number from 0, five
        digits.

    Raises:
        ConfigError: no such file, another digest or count, or a broken line (file, line number, what is wrong).
    """
    if not path.is_file():
        raise ConfigError(f"no prompt file {path}")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        raise ConfigError(
            f"{path}: expected sha256 {sha256[:16]}…, got {digest[:16]}…; fetch the file again"
        )
    lines = text_lines(path, data)
    prompts = [
        _parse(path, number, line, f"{prefix}{number:05d}", _LAYOUTS[layout])
        for number, line in enumerate(lines)
    ]
    if count is not None and len(prompts) != count:
        raise ConfigError(f"{path}: expected {count} prompts, got {len(prompts)}")
    _refuse_doubles(path, prompts)
    return prompts


def text_lines(path: Path, data: bytes) -> list[str]:
    """A file's lines, ended by a newline alone: a text may hold the other characters that `splitlines` breaks at.

    Raises:
        ConfigError: not UTF-8, or no line at all.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    if not text:
        raise ConfigError(f"{path}: expected one entry a line, got an empty file")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _parse(
    path: Path, number: int, line: str, own_id: str, parse: Callable[[str, str], Prompt]
) -> Prompt:
    try:
        return parse(own_id, line)
    except ConfigError as error:
        raise ConfigError(f"{path}, line {number + 1}: {error}") from None


def _text(own_id: str, line: str) -> Prompt:
    if not line.strip():
        raise ConfigError("expected a prompt, got an empty line")
    return Prompt(id=check_id(own_id), text=line.strip())


def _geneval(own_id: str, line: str) -> Prompt:
    record = json_object(line)
    text = required(record, "prompt", str)
    rewards = _rewards(record)
    for key, kind in (("tag", str), ("include", list)):
        if key in record or not rewards:  # a reward that needs the metadata says so itself
            required(record, key, kind)
    return Prompt(
        id=check_id(record.get("id", own_id)),
        text=text,
        tag=record.get("tag", ""),
        target={k: record[k] for k in ("include", "exclude") if k in record},
        rewards=rewards,
    )


def _rewards(record: dict[str, Any]) -> tuple[str, ...]:
    """The rewards that a line names; empty where it names none."""
    if "rewards" not in record:
        return ()
    named = required(record, "rewards", list)
    wrong = [n for n in named if not isinstance(n, str) or not _REWARD.fullmatch(n)]
    if wrong:
        raise ConfigError(
            f"expected 'rewards' to hold names such as 'ocr' or 'geneval@pocket', got {wrong[0]!r}; weights stand in "
            "the recipe"
        )
    if len(set(named)) < len(named):
        raise ConfigError(f"expected 'rewards' to name each reward once, got {named!r}")
    return tuple(named)


_LAYOUTS = {"geneval": _geneval, "text": _text}
LAYOUTS = tuple(_LAYOUTS)


def json_object(line: str) -> dict[str, Any]:
    """Parse one JSON object, or say in words why it is none."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"expected a JSON object, got {line[:40]!r} ({error.msg})") from None
    if not isinstance(record, dict):
        raise ConfigError(f"expected a JSON object, got {type(record).__name__}")
    return record


def required(record: dict[str, Any], key: str, kind: type[T]) -> T:
    """The value of a key that must be there and of that kind."""
    value = record.get(key)
    if not isinstance(value, kind) or not value:
        raise ConfigError(f"expected {key!r} to be a non-empty {kind.__name__}, got {value!r}")
    return value


def check_id(value: object) -> str:
    """A prompt id names files: letters, digits, `.`, `_`, `-`, and never a path."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if whole or isinstance(value, str) else ""
    if not text or text.startswith(".") or not set(text) <= _ID_CHARACTERS:
        raise ConfigError(f"expected an id of letters, digits, '.', '_' and '-', got {value!r}")
    return text


def _refuse_doubles(path: Path, prompts: list[Prompt]) -> None:
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts, start=1):
        if prompt.id in seen:
            raise ConfigError(
                f"{path}, line {number}: id {prompt.id!r} stands on line {seen[prompt.id]} already"
            )
        seen[prompt.id] = number
