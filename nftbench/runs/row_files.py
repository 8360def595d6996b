"""Rows as CSV: a run's `rows.csv` and the leaderboards, in one layout, read whole or refused with the line.

A measured row ends with a digest of its other cells, so that a number changed by hand is noticed (and nothing more: it
is no signature). A published row is written by hand, and needs none.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nftbench.benchmark.schema import Protocol, SamplingParameters
from nftbench.runs.rows import Row
from rewards.base import ConfigError
from rewards.own import file_digest

if TYPE_CHECKING:
    from nftbench.runs.run_folder import Run

IDENTITY = [
    "model",
    "checkpoint",
    "benchmark",
    "metric",
    "variant",
    "aggregate",
    "protocol",
    "source",
]
"""A new row replaces an old one that agrees in these."""
FIELDS = list(Row.model_fields)
DIGEST = "digest"
CODE = "reward_sha256"
"""In `Row.settings`: of the file that a user's own reward is."""
LESS = "less_is_better"
"""In `Row.settings`, `yes` of such a file whose reward is the better the less there is: nobody else can say it."""
COLUMNS = [*FIELDS, DIGEST]
TEXTS = [n for n, f in Row.model_fields.items() if f.annotation is str]
EMPTY: dict[str, Any] = dict.fromkeys(("stderr", "low", "high"), math.nan)
EMPTY |= dict.fromkeys(("n", "n_failed", "n_prompts"), None)
"""What an empty cell of a column stands for: unknown."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a leaderboard."""

    row: Row
    cells: tuple[str, ...]
    """As they stand in the file: a kept row is kept to the byte, a published number with its last zero."""

    @property
    def value(self) -> str:
        """The number as it is written."""
        return self.cells[COLUMNS.index("value")]

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells this row from others."""
        return tuple(getattr(self.row, field) for field in IDENTITY)


def entry(row: Row) -> Entry:
    """A row as a line; what is unknown is an empty cell."""
    fields = row.model_dump(mode="json")
    unknown = {k for k in EMPTY if fields[k] is None or math.isnan(fields[k])}
    plain = {k: "" if k in unknown else str(fields[k]) for k in FIELDS}
    cells = [shielded(text) if name in TEXTS else text for name, text in plain.items()]
    return Entry(row, (*cells, row_digest(cells)))


def row_digest(cells: Sequence[str]) -> str:
    """First 16 hexadecimal digits of the sha256 of a row's cells as they are written, its digest aside."""
    return hashlib.sha256(json.dumps(list(cells)).encode()).hexdigest()[:16]


_ACTIVE = re.compile("'*[=+@\t\r-]")


def shielded(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula: `'=1+1` for `=1+1`."""
    return f"'{text}" if _ACTIVE.match(text) else text


def unshielded(cell: str) -> str:
    """The text that `shielded` made a cell of."""
    return cell[1:] if cell.startswith("'") and _ACTIVE.match(cell[1:]) else cell


def inconsistency(row: Row) -> str:
    """What a row's own numbers contradict each other in; empty where they do not."""
    known = [v for v in (row.low, row.value, row.high) if not math.isnan(v)]
    if known != sorted(known) and len(known) == 3:
        return f"expected low <= value <= high, got {row.low}, {row.value}, {row.high}"
    if row.stderr < 0:
        return f"expected a standard error of 0 or more, got {row.stderr}"
    counts = {"n": row.n, "n_failed": row.n_failed, "n_prompts": row.n_prompts}
    for name, count in counts.items():
        if count is not None and count < 0:
            return f"expected {name} of 0 or more, got {count}"
    if row.n is not None and row.n_prompts is not None and row.n_prompts > row.n:
        return f"expected no more prompts than images, got {row.n_prompts} of {row.n}"
    return ""


def read_rows(path: Path) -> list[tuple[int, Entry]]:
    """The lines of a CSV of rows with their numbers; nothing is asked of them but their types.

    Raises:
        ConfigError: no such table, other columns, or a cell of a wrong type: file, line, column.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets put a mark before it
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header, found, line = next(reader, []), [], reader.line_num + 1
        if header != COLUMNS:
            raise ConfigError(
                f"{path}: expected the columns {', '.join(COLUMNS)}, with commas between them; {_apart(header)}"
            )
        for cells in reader:
            found.append((line, _entry(f"{path}, line {line}", cells)))
            line = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a table: {error}; mend or remove it") from None
    return found


def _apart(header: list[str]) -> str:
    """How a table's columns are not those of rows, in words."""
    lacking = [name for name in COLUMNS if name not in header]
    other = [name[:80] for name in header if name not in COLUMNS]
    if not header or lacking == COLUMNS:
        return f"got {', '.join(other) or 'none'}"
    said = [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has {', '.join(other)}"] * bool(
        other
    )
    return " and ".join(said) or "got them in another order or twice"


def _entry(where: str, cells: list[str]) -> Entry:
    if len(cells) != len(COLUMNS):
        raise ConfigError(f"{where}: expected {len(COLUMNS)} cells, got {len(cells)}")
    fields = {
        name: EMPTY[name] if name in EMPTY and cell == "" else unshielded(cell)
        for name, cell in zip(FIELDS, cells, strict=False)
    }
    try:
        row = Row.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise ConfigError(
            f"{where}, column {COLUMNS.index(name) + 1} ({name}): {first['msg'].lower()}, got {fields[name]!r}"
        ) from None
    fault = inconsistency(row)
    if not fault and row.source == "measured" and cells[-1] != row_digest(cells[:-1]):
        fault = (
            "the row's digest is not that of its cells: it was changed by hand; measure it again"
        )
    if fault:
        raise ConfigError(f"{where}: {row.spelled} ({row.aggregate}): {fault}")
    return Entry(row, tuple(cells))


def encode(entries: Sequence[Entry]) -> bytes:
    """Lines as a CSV file."""
    return "".join(_line(cells) for cells in [COLUMNS, *(e.cells for e in entries)]).encode()


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)  # told to end lines by \n alone, it leaves a lone \r bare
    return text.getvalue().removesuffix("\r\n") + "\n"


def run_rows(run: "Run") -> list[Row]:
    """The rows of a run, checked against its manifest.

    Raises:
        ConfigError: no rows yet, one twice, rows that are not this run's (model, checkpoint, protocol, benchmark,
            source, certificate), or a broken table.
    """
    path, again = run.folder / "rows.csv", f"run: nftbench score {run.folder}"
    if not path.is_file():
        raise ConfigError(f"{run.folder} has no rows yet; {again}")
    protocols = {p.hash: p for p in run.protocols().values()}
    rows, seen = [], set()
    for line, found in read_rows(path):
        protocol = protocols.get(found.row.protocol)
        fault = _foreign(run, found.row, protocol)
        if found.identity in seen:
            fault = "the same row as one before"
        if fault or protocol is None:
            raise ConfigError(f"{path}, line {line}: {fault}; {again}")
        seen.add(found.identity)
        limited = found.row.limited or protocol.limit is not None
        update = {"limited": limited, "settings": f"{settings(protocol)}{_code(run, found.row)}"}
        rows.append(found.row.model_copy(update=update))
    return rows


def _code(run: "Run", row: Row) -> str:
    """Of a reward that is a user's own file: its digest, for another file is another reward, and which way it runs."""
    names = (name for name, protocol in run.protocols().items() if protocol.hash == row.protocol)
    info = run.manifest["rewards"].get(next(names, ""), {}).get(row.spelled.key, {})
    digest = file_digest(str(info.get("source", "")))
    less = info.get("higher_is_better") is False and not row.spelled.part
    return f" {CODE}={digest[:16]}{f' {LESS}=yes' * less}" if digest else ""


def _foreign(run: "Run", row: Row, protocol: Protocol | None) -> str:
    """Why a row is not one that this run's evaluation wrote; empty where it is."""
    made = run.manifest["checkpoint"]
    if protocol is None or row.checkpoint != made["digest"]:
        return "not of this run's protocols and checkpoint"
    if row.model != made["name"] or row.benchmark != protocol.benchmark:
        return (
            f"expected {made['name']} on {protocol.benchmark}, got {row.model} on {row.benchmark}"
        )
    if row.source != "measured" or row.certificate or row.citation or row.confidence:
        return "an evaluation writes measured rows, without certificate, citation or confidence"
    return ""


def settings(protocol: Protocol) -> str:
    """How a protocol draws, in the words of `Row.settings`: `height=64 width=64 ... images_per_prompt=4`."""
    fields = {
        name: getattr(protocol, name)
        for name in (*SamplingParameters.model_fields, "images_per_prompt", "dtype")
    }
    return " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)


def stated(settings: str) -> dict[str, str]:
    """The single settings of `Row.settings`; `?` is one that is not known."""
    parts = (item.partition("=") for item in settings.split())
    return {name: value for name, _, value in parts}
