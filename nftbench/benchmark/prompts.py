"""Prompt files: read whole or refused with the line that is wrong."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rewards.base import ConfigError, Prompt
from rewards.geneval.judge import MAX_OBJECTS

T = TypeVar("T")
ORIGINS = ".origins"
"""Ending of a file beside a benchmark's prompts: a JSON list of where a user wrote each."""
ENTRY_KEYS = {
    "include": ("class", "count", "color", "position"),
    "exclude": ("class", "count"),
}
"""What GenEval's metadata say of things; no rule looks at the colour or place of what is excluded."""
MOST_OF_ONE = MAX_OBJECTS
"""Things of one class that a line may ask for: no rule counts further."""
LONGEST_ID = 200
"""Characters: file names end at 255."""
LONGEST_PROMPT = 20_000
"""Characters: no text encoder sees so many, and tokenizers take minutes over a file without line ends."""
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_REWARD = re.compile(r"[\w.-]+(@[\w.-]+)?")


def load_prompts(
    path: Path,
    layout: str,
    *,
    count: int | None = None,
    sha256: str | None = None,
    prefix: str = "",
    member: str = "",
    copies: int = 1,
) -> list[Prompt]:
    """Read a prompt file.

    A prompt that stands several times in a file (2,212 lines are GenEval's 553 prompts, four times each) is one prompt
    with so many images: errors are clustered by prompt, and its images differ by their index alone. Its id is that of
    the first line it stands on.

    Args:
        path: the file: UTF-8, one prompt a line; `.json`, a list of texts; `.parquet`, whose column `caption` is read;
            `.zip`, which holds a file of lines.
        layout: `geneval` (GenEval's metadata, JSON lines; a line that names its `rewards` needs no metadata) or
            `text` (the bare prompt).
        count: distinct prompts it must hold.
        sha256: digest its bytes must have.
        prefix: what an id made of a line's number begins with. Noise is seeded by the id, so files that are used
            together, such as those to train on and those asked, need different ones.
        member: how the name of the archive's file ends that is meant.
        copies: how often each prompt must stand in the file; with 1 nothing is put together.

    Returns:
        The distinct prompts in file order; an id is the file's own (`id`) or the prefix and the line's number from 0,
        five digits.

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
    prompts = [
        _parse(path, number, line, f"{prefix}{number:05d}", _LAYOUTS[layout])
        for number, line in enumerate(_lines(path, data, member))
    ]
    if copies > 1:
        prompts = _distinct(path, prompts, copies)
    if count is not None and len(prompts) != count:
        raise ConfigError(f"{path}: expected {count} prompts, got {len(prompts)}")
    _refuse_doubles(path, prompts)
    return prompts


def _lines(path: Path, data: bytes, member: str) -> Sequence[str]:
    """The entries of a file, whatever holds them."""
    match path.suffix:
        case ".json":
            return _texts(path, data)
        case ".parquet":
            return _captions(path, data)
        case ".zip":
            return text_lines(path, _member(path, data, member))
    return text_lines(path, data)


def _texts(path: Path, data: bytes) -> list[str]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"{path}: expected a JSON list of texts ({error})") from None
    if not isinstance(found, list) or not found or not all(isinstance(t, str) for t in found):
        raise ConfigError(f"{path}: expected a JSON list of texts, got {str(found)[:40]!r}")
    return found


def _captions(path: Path, data: bytes) -> list[str]:
    import pandas as pd
    from pyarrow.lib import ArrowException

    try:
        table = pd.read_parquet(io.BytesIO(data), columns=["caption"])
    except (ArrowException, ValueError, OSError) as error:
        raise ConfigError(
            f"{path}: expected a parquet file with texts as `caption` ({error})"
        ) from None
    return [str(text) for text in table["caption"]]


def _member(path: Path, data: bytes, ending: str) -> bytes:
    """The one file of a zip archive whose name ends so."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = [name for name in archive.namelist() if name.endswith(ending)]
        if not ending or len(names) != 1:
            raise ConfigError(f"{path}: expected one file {ending!r} in it, found {len(names)}")
        return archive.read(names[0])
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{path}: expected a zip archive ({error}); fetch it again") from None


def _distinct(path: Path, prompts: list[Prompt], copies: int) -> list[Prompt]:
    """Equal prompts put together.

    Raises:
        ConfigError: one that does not stand there so often.
    """
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        content = [prompt.text, prompt.tag, prompt.target, prompt.rewards]
        places.setdefault(json.dumps(content, sort_keys=True), []).append(place)
    for found in places.values():
        if len(found) != copies:
            raise ConfigError(
                f"{path}, line {found[0] + 1}: expected this prompt {copies} times in the file, found {len(found)}"
            )
    return [prompts[found[0]] for found in places.values()]


def text_lines(path: Path, data: bytes) -> list[str]:
    """A file's lines, ended by a newline alone: a text may hold the other characters that `splitlines` breaks at.

    A byte order mark in front, carriage returns and empty lines at the end are left out. Where nothing but carriage
    returns ends lines, as in text of old Macs, they do.

    Raises:
        ConfigError: not UTF-8, a null byte, or no line at all.
    """
    if b"\0" in data:  # Latin letters in UTF-16 without its mark are valid UTF-8, but for these
        place = data.index(b"\0")
        raise ConfigError(f"{path}: not UTF-8 text (null byte at {place}); save it as UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    text = text.removeprefix("\ufeff").rstrip("\r\n")
    if not text:
        raise ConfigError(f"{path}: expected one entry a line, got an empty file")
    return [line.removesuffix("\r") for line in text.split("\n" if "\n" in text else "\r")]


def _parse(
    path: Path, number: int, line: str, own_id: str, parse: Callable[[str, str], Prompt]
) -> Prompt:
    try:
        prompt = parse(own_id, line)
        refuse_unfit(prompt)
        return prompt
    except ConfigError as error:
        raise ConfigError(f"{path}, line {number + 1}: {error}") from None


def with_origins(path: Path, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts of a user's own file, a line each, with the file and line that they were written on.

    Args:
        path: the file; beside one that nftbench made of another, `.origins` says where each line came from.
        prompts: in its order.
    """
    noted = path.with_suffix(ORIGINS)
    if noted.is_file():
        origins = json.loads(noted.read_bytes())
    else:
        origins = [f"{path.name}, line {number}" for number in range(1, len(prompts) + 1)]
    return [replace(p, origin=origin) for p, origin in zip(prompts, origins, strict=True)]


def refuse_too_long(text: str) -> None:
    """Refuse a text that is no prompt, by its length."""
    if len(text) > LONGEST_PROMPT:
        raise ConfigError(
            f"expected a prompt of at most {LONGEST_PROMPT} characters, got {len(text)}, which begin {text[:40]!a}"
        )


def refuse_unfit(prompt: Prompt) -> None:
    """Refuse half a surrogate pair, which no file can hold, the null character, at which many programs stop, and books.

    Raises:
        ConfigError: there is one; quotes the text.
    """
    refuse_too_long(prompt.text)
    target = json.dumps(prompt.target, ensure_ascii=False)
    for said in (prompt.text, prompt.tag, prompt.cluster, target):
        if "\0" in said:
            raise ConfigError(f"a null character in {said[:40]!a}")
        try:
            said.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"half a surrogate pair, which is no character, in {said[:40]!a}"
            ) from None


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
        target=scene(record),
        rewards=rewards,
    )


def scene(record: dict[str, Any]) -> dict[str, Any]:
    """GenEval's metadata of a line, `include` and `exclude`; empty where it has none.

    Raises:
        ConfigError: an entry that is not an object of `class`, `count` and, of `include`, `color` and `position`.
    """
    found = {k: record[k] for k in ("include", "exclude") if k in record}
    for name, entries in found.items():
        if not isinstance(entries, list):
            raise ConfigError(f"expected {name!r} to be a list, got {entries!r}")
        for place, entry in enumerate(entries):
            wrong = _entry_fault(entry, place, ENTRY_KEYS[name])
            if wrong:
                raise ConfigError(f"{name}[{place}]: expected {wrong}, got {str(entry)[:60]!r}")
    return found


def _entry_fault(entry: object, place: int, keys: Collection[str]) -> str:
    """What an entry of the metadata should have been; empty where it is right."""
    if not isinstance(entry, dict):
        return "an object such as {'class': 'dog', 'count': 1}"
    if unknown := sorted(entry.keys() - keys):
        return f"no key but {', '.join(keys)}, not {unknown[0]!r}"
    if not isinstance(entry.get("class"), str) or not entry["class"]:
        return "'class' to be a name"
    count = entry.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_OF_ONE:
        return f"'count' to be a whole number from 1 to {MOST_OF_ONE}"
    if not isinstance(entry.get("color", ""), str):
        return "'color' to be a name"
    return _position_fault(entry.get("position"), place)


def _position_fault(position: object, place: int) -> str:
    match position:
        case None:
            return ""
        case [str(), int() as other] if not isinstance(other, bool) and 0 <= other < place:
            return ""
    return "'position' to be a relation and the place of an earlier entry, such as ['left of', 0]"


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


def _own(own_id: str, line: str) -> Prompt:
    """A line of a user's own file, as `own.canonical` writes it; what is null is left out."""
    record = {k: v for k, v in json_object(line).items() if v is not None}
    for key in ("tag", "cluster"):
        if not isinstance(record.get(key, ""), str | int):
            raise ConfigError(f"expected {key!r} to be a text, got {record[key]!r}")
    return Prompt(
        id=check_id(record.get("id", own_id)),
        text=required(record, "prompt", str),
        tag=str(record.get("tag", "")),
        target=scene(record),
        cluster=str(record.get("cluster", "")),
    )


_LAYOUTS = {"geneval": _geneval, "text": _text, "own": _own}


def json_object(line: str) -> dict[str, Any]:
    """Parse one JSON object, or say in words why it is none."""
    try:
        record = json.loads(line, object_pairs_hook=_single_keys)
    except ConfigError:  # a key that stands twice
        raise
    except json.JSONDecodeError as error:
        raise ConfigError(f"expected a JSON object, got {line[:40]!r} ({error.msg})") from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of too many digits
        raise ConfigError(f"expected a JSON object, got {line[:40]!r} ({error})") from None
    if not isinstance(record, dict):
        raise ConfigError(f"expected a JSON object, got {type(record).__name__}")
    return record


def _single_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"key {twice!r} stands twice in one object")
    return found


def required(record: dict[str, Any], key: str, kind: type[T]) -> T:
    """The value of a key that must be there, of that kind, and more than blanks."""
    value = record.get(key)
    if not isinstance(value, kind) or not (value.strip() if isinstance(value, str) else value):
        raise ConfigError(f"expected {key!r} to be a non-empty {kind.__name__}, got {value!r}")
    return value


def check_id(value: object) -> str:
    """A prompt id names files: letters, digits, `.`, `_`, `-`, and never a path."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if whole or isinstance(value, str) else ""
    if not text or text.startswith(".") or not set(text) <= _ID_CHARACTERS:
        raise ConfigError(f"expected an id of letters, digits, '.', '_' and '-', got {value!r}")
    if len(text) > LONGEST_ID:
        raise ConfigError(f"expected an id of at most {LONGEST_ID} characters, got {len(text)}")
    return text


def refuse_twice(prompt: Prompt, number: int, seen: dict[str, int]) -> None:
    """Refuse an id that an earlier line has; ids name files, of which some systems do not tell the case.

    Args:
        prompt: of a line.
        number: of the line.
        seen: line of each id in lower case; this one is added.

    Raises:
        ConfigError: it is there already; names the other line.
    """
    earlier = seen.setdefault(prompt.id.lower(), number)
    if earlier != number:
        raise ConfigError(
            f"id {prompt.id!r} stands on line {earlier} already, upper and lower case being one"
        )


def _refuse_doubles(path: Path, prompts: list[Prompt]) -> None:
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts, start=1):
        try:
            refuse_twice(prompt, number, seen)
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
