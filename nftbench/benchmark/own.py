"""A user's own prompts and benchmarks: a file of prompts becomes a benchmark, a short TOML a whole one.

A benchmark made of a prompt file is named after the file and its content (`mine-1a2b3c4d`), so runs of two versions of
one file are never taken for each other.
"""

import atexit
import csv
import difflib
import functools
import hashlib
import io
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nftbench.benchmark import places
from nftbench.benchmark.prompts import (
    ORIGINS,
    check_id,
    json_object,
    load_prompts,
    refuse_twice,
    refuse_unfit,
    scene,
    text_lines,
)
from nftbench.parsing import parse_json
from rewards.base import ConfigError, Prompt

KEYS = {"prompt": "prompt", "text": "prompt", "caption": "prompt", "id": "id", "tag": "tag"}
KEYS |= {"task": "tag", "cluster": "cluster", "include": "include", "exclude": "exclude"}
"""What a line or column may be called, and what it means."""
TABLES = (".csv", ".tsv", ".json")
"""Endings of files that hold more than a prompt a line."""
TARGETS = ("include", "exclude")
OWN_KEYS = frozenset({"id", "prompt", "tag", "cluster", *TARGETS})
"""What a line of a benchmark's own file may say, as `canonical` writes it."""
RUN_WIDE = {
    "guidance": "--guidance", "guidance_scale": "--guidance-scale", "height": "--size", "width": "--size",
    "images_per_prompt": "--images-per-prompt", "max_sequence_length": "--max-sequence-length",
    "negative_prompt": "--negative-prompt", "num_inference_steps": "--steps", "steps": "--steps", "seed": "--seed",
    "solver": "--solver",
}  # fmt: skip
"""What is fixed for a whole run, by the flag that does; no prompt has its own."""
LOG = logging.getLogger("nftbench")
LARGEST = 64 << 20
"""Bytes of a prompt file."""


def read_prompts(path: Path, *, drawn: bool = True) -> list[Prompt]:
    """A user's own prompts: `.txt`, a prompt a line; `.jsonl`, objects; `.csv` with a header.

    Objects and columns: `prompt`, and where wanted `id`, `tag` (or `task`), `cluster`, `include` and `exclude`
    (GenEval's targets; JSON in a CSV), these two in `target` as well. Ids are the line's number where none is named.
    Equal prompts without a cluster are one cluster. Other columns are passed over, and named once in a warning.

    Args:
        path: the file.
        drawn: whether images are drawn from it, so that settings of drawing are refused.

    Raises:
        ConfigError: no such file, another encoding or ending, or a broken line: file, line, what is wrong.
    """
    data = bounded(path)
    rows = {".txt": _texts, ".jsonl": _objects, ".csv": _table}.get(path.suffix.lower())
    if rows is None:
        raise ConfigError(f"{path}: expected a file that ends in .txt, .jsonl or .csv")
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    first: dict[str, str] = {}
    others: dict[str, None] = {}
    for number, record in rows(path, data):
        try:
            others |= dict.fromkeys(_others(record, drawn=drawn))
            prompt = prompt_of(record, f"{number - 1:05d}", first)
            refuse_twice(prompt, number, seen)
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
        prompts.append(replace(prompt, origin=f"{path.name}, line {number}"))
    if not prompts:
        raise ConfigError(f"{path}: expected a prompt a line, got none")
    if others:
        LOG.warning("%s: passed over, for they mean nothing here: %s", path, _few(list(others)))
    return prompts


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name[:40]) for name in names[:5]) + more


def _others(record: Mapping[str, Any], *, drawn: bool) -> list[str]:
    """Names of a line that say nothing about a prompt.

    Raises:
        ConfigError: one that is a setting of drawing, which would not be followed.
    """
    names = [n for n, v in record.items() if n not in {*KEYS, "target"} and v not in (None, "")]
    for name in names:
        flag = RUN_WIDE.get(re.sub("[ -]", "_", name.strip().lower()))
        if flag and drawn:
            raise ConfigError(
                f"{name!r} is a setting of the whole run ({flag}), not of a prompt; take it out of the file"
            )
    return names


def bounded(path: Path) -> bytes:
    """A prompt file's bytes.

    Raises:
        ConfigError: there is none, or it is far too long for one.
    """
    if not path.is_file():
        raise ConfigError(f"no prompt file {path}")
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ConfigError(f"{path}: expected a prompt file of at most {LARGEST >> 20} MiB")
    return data.removeprefix(b"\xef\xbb\xbf")  # a mark that Windows' editors write


def _texts(path: Path, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text_lines(path, data), start=1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _objects(path: Path, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text_lines(path, data), start=1):
        if line.strip():
            try:
                yield number, json_object(line)
            except ConfigError as error:
                raise ConfigError(f"{path}, line {number}: {error}") from None


def _table(path: Path, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    text_lines(path, data)  # refuses another encoding, and an empty file
    reader = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
    try:
        names = [(name or "").strip() for name in reader.fieldnames or ()]
        if not any(KEYS.get(name) == "prompt" for name in names):
            raise ConfigError(
                f"{path}, line 1: expected a header with a column 'prompt', cells parted by commas, got {names}"
            )
        if len(set(names)) < len(names):
            raise ConfigError(f"{path}, line 1: two columns of one name, got {names}")
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(
                    f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} cells; "
                    "put texts with commas in double quotes"
                )
            yield reader.line_num, {k.strip(): v for k, v in row.items() if v}
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: not a CSV: {error}") from None


def prompt_of(record: Mapping[str, Any], own_id: str, first: dict[str, str]) -> Prompt:
    """One prompt.

    Args:
        record: keys as in `KEYS`, or `target`.
        own_id: its id where the record names none.
        first: the cluster of each text that was seen; one that is new is added.

    Raises:
        ConfigError: no prompt, a value of another kind, a misspelt key, or two of one meaning; half a character.
    """
    found = by_meaning(record)
    text = as_text(found, "prompt")
    if not text:
        raise ConfigError(f"expected 'prompt' to be a text, got {found.get('prompt')!r}")
    own_id = check_id(found.get("id", own_id))
    cluster = as_text(found, "cluster") or first.setdefault(text, own_id)
    prompt = Prompt(
        id=own_id,
        text=text,
        tag=as_text(found, "tag"),
        target=scene({k: _from_json(k, found[k]) for k in TARGETS if k in found}),
        cluster="" if cluster == own_id else cluster,
    )
    refuse_unfit(prompt)
    return prompt


def by_meaning(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a line says, by what `KEYS` calls it; keys that mean nothing are left out.

    Raises:
        ConfigError: a key that is nearly one of them, or two of one meaning.
    """
    given = record.get("target")
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"expected 'target' to be an object, got {given!r}")
    found: dict[str, tuple[str, Any]] = {}
    for name, value in [*record.items(), *(given or {}).items()]:
        meaning = KEYS.get(name)
        if meaning in found:
            raise ConfigError(f"{found[meaning][0]!r} and {name!r} mean the same; keep one")
        if meaning:
            found[meaning] = (name, value)
        elif name != "target" and (
            near := difflib.get_close_matches(name.strip().lower(), KEYS, 1, 0.75)
        ):
            raise ConfigError(f"unknown key {name!r}; did you mean {near[0]!r}?")
    return {meaning: value for meaning, (_, value) in found.items()}


def as_text(found: Mapping[str, Any], key: str) -> str:
    """A text without blanks around it, or a whole number as one; empty where there is none.

    Raises:
        ConfigError: it is of another kind.
    """
    value = found.get(key, "")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ConfigError(f"expected {key!r} to be a text, got {value!r}")
    return value.strip()


def _from_json(key: str, value: Any) -> Any:
    """GenEval's list of things; a CSV's cell holds it as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"expected {key!r} to be a JSON list ({error})") from None


# --- a benchmark of them --------------------------------------------------------------------------


def canonical(prompts: Sequence[Prompt]) -> bytes:
    """Prompts as JSON lines of the layout `own`; equal prompts are equal bytes."""
    lines = []
    for prompt in prompts:
        record: dict[str, Any] = {"id": prompt.id, "prompt": prompt.text, **prompt.target}
        record |= {"tag": prompt.tag} if prompt.tag else {}
        record |= {"cluster": prompt.cluster} if prompt.cluster else {}
        lines.append(json.dumps(record, sort_keys=True, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines).encode()


def add_benchmark(
    stem: str, prompts: Sequence[Prompt], rewards: Sequence[str] = (), images_per_prompt: int = 1
) -> str:
    """Make a benchmark of prompts known to this process; runs keep a copy of it.

    Args:
        stem: what its name begins with.
        prompts: what is asked.
        rewards: keys of what scores it.
        images_per_prompt: images of each prompt, unless the user says otherwise.

    Returns:
        Its name: the stem and eight digits of the content's sha256.
    """
    data = canonical(prompts)
    digest = hashlib.sha256(data).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-_") or "prompts"
    name = f"{stem[:60]}-{digest[:8]}"
    targeted = all("include" in p.target and p.tag for p in prompts)
    folder = Path(tempfile.mkdtemp(prefix="nftbench-own-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "prompts").mkdir()
    (folder / "prompts" / f"{name}.jsonl").write_bytes(data)
    origins = [prompt.origin or f"line {n}" for n, prompt in enumerate(prompts, start=1)]
    (folder / "prompts" / f"{name}{ORIGINS}").write_text(json.dumps(origins), encoding="utf-8")
    lines = [
        f"rewards = {json.dumps(list(rewards))}",
        f'aggregation = "{"task_mean" if targeted else "mean"}"',
        "[prompts]",
        f"file = {json.dumps(f'{name}.jsonl')}",
        'layout = "own"',
        "[sampling]",
        f"images_per_prompt = {images_per_prompt}",
    ]
    (folder / f"{name}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    places.add(folder)
    return name


def completed(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A user's TOML with what may be left out: counts and digests are those of the files that are there.

    Raises:
        ConfigError: its name is not that of its file, or a prompt file is missing or broken.
    """
    if record.setdefault("name", path.stem) != path.stem:
        raise ConfigError(
            f"{path} calls itself {record['name']!r}; name the file so, or leave `name` out"
        )
    record.setdefault("title", path.stem)
    if "prompts" not in record:
        return record
    defaults = {"version": 1, "licence": "not stated", "citation": "", "aggregation": "mean"}
    record = {**defaults, "sampling": {}, **record}
    record["sampling"] = {"images_per_prompt": 1, **_section(path, record, "sampling")}
    for source in _sources(path, record):
        if not source.get("url") and isinstance(source.get("file"), str):
            _counted(path, source)
    return record


def _section(path: Path, record: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(record[name], dict):
        raise ConfigError(f"{path}: expected [{name}] to be a table, got {record[name]!r}")
    return record[name]


def _sources(path: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [_section(path, record, n) for n in ("prompts", "training") if n in record]
    more = record.get("more_prompts", ())
    return [*found, *(one for one in more if isinstance(one, dict))]


def _counted(path: Path, source: dict[str, Any]) -> None:
    """Fill in a prompt file's digest and number of prompts where the TOML does not say them."""
    folder = (path.parent / "prompts").resolve()
    file = (folder / source["file"]).resolve()
    if not file.is_relative_to(folder):
        raise ConfigError(f"{path}: {source['file']!r} leaves {folder}; put the file there")
    if not file.is_file():
        raise ConfigError(f"{path}: no prompt file {file}")
    if "layout" not in source and file.suffix.lower() in TABLES:
        raise ConfigError(
            f"{path}: {source['file']!r} would be read as a prompt a line, its header among them; expected .txt or "
            ".jsonl (a .csv is asked by --prompts)"
        )
    source.setdefault("layout", "own" if file.suffix.lower() == ".jsonl" else "text")
    source.setdefault("sha256", hashlib.sha256(file.read_bytes()).hexdigest())
    if "count" not in source and source["layout"] in ("geneval", "text", "own"):
        copies = source.get("copies", 1)
        copies = copies if isinstance(copies, int) else 1  # refused with the other keys
        source["count"] = len(load_prompts(file, source["layout"], copies=copies))
    if source["layout"] == "own":
        _say_passed_over(file, str(source["sha256"]))


@functools.cache
def _say_passed_over(file: Path, _sha256: str) -> None:
    """Name what lines say beside `OWN_KEYS`, once a file: settings of drawing, which nothing follows, among that."""
    others: dict[str, None] = {}
    for line in text_lines(file, bounded(file)):
        with suppress(ConfigError):  # a broken line is refused where it is read
            others |= dict.fromkeys(name for name in json_object(line) if name not in OWN_KEYS)
    if others:
        LOG.warning("%s: passed over, for they mean nothing here: %s", file, _few(list(others)))


def equal_as_one(prompts: Sequence[Prompt], prefix: str) -> list[Prompt]:
    """Lines of one text are one cluster, as in every file of a user's own, where neither says what it is.

    Args:
        prompts: of a file, in its order.
        prefix: what an id made of a line's number begins with.
    """
    first: dict[str, str] = {}
    found = []
    for number, prompt in enumerate(prompts):
        cluster = first.setdefault(prompt.text, prompt.id)
        unnamed = not prompt.cluster and prompt.id == f"{prefix}{number:05d}"
        found.append(
            replace(prompt, cluster=cluster if cluster != prompt.id else "") if unnamed else prompt
        )
    return found


# --- a run's own copy -----------------------------------------------------------------------------


def files_of(name: str) -> dict[str, bytes]:
    """Every file of a user's own benchmark, by its path below the folder; none of a shipped one."""
    path = places.find("generating").get(name)
    if path is None or path.is_relative_to(places.shipped()):
        return {}
    found = {path.name: path.read_bytes()}
    for source in _sources(path, places.parse(path)):
        if not source.get("url"):
            found[f"prompts/{source['file']}"] = bounded(path.parent / "prompts" / source["file"])
    return found
