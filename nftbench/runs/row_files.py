"""Rows as CSV: a run's `rows.csv` and the leaderboards, in one layout, read whole or refused with the line."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nftbench.benchmark.schema import Protocol, SamplingParameters
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError

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
COLUMNS = list(Row.model_fields)
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
    return Entry(row, tuple("" if k in unknown else str(fields[k]) for k in COLUMNS))


def read_rows(path: Path) -> list[tuple[int, Entry]]:
    """The lines of a CSV of rows with their numbers; nothing is asked of them but their types.

    Raises:
        ConfigError: no such table, other columns, or a cell of a wrong type: file, line, column.
    """
    try:
        reader = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""), strict=True)
        header, found, line = next(reader, []), [], reader.line_num + 1
        if header != COLUMNS:
            raise ConfigError(
                f"{path}: expected the columns {', '.join(COLUMNS)}; got {', '.join(header) or 'none'}"
            )
        for cells in reader:
            found.append((line, _entry(f"{path}, line {line}", cells)))
            line = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is not a table: {error}; mend or remove it") from None
    return found


def _entry(where: str, cells: list[str]) -> Entry:
    if len(cells) != len(COLUMNS):
        raise ConfigError(f"{where}: expected {len(COLUMNS)} cells, got {len(cells)}")
    fields = {
        name: EMPTY[name] if name in EMPTY and cell == "" else cell
        for name, cell in zip(COLUMNS, cells, strict=True)
    }
    try:
        return Entry(Row.model_validate(fields), tuple(cells))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise ConfigError(
            f"{where}, column {COLUMNS.index(name) + 1} ({name}): {first['msg'].lower()}, got {fields[name]!r}"
        ) from None


def encode(entries: Sequence[Entry]) -> bytes:
    """Lines as a CSV file."""
    return "".join(_line(cells) for cells in [COLUMNS, *(e.cells for e in entries)]).encode()


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)  # told to end lines by \n alone, it leaves a lone \r bare
    return text.getvalue().removesuffix("\r\n") + "\n"


def run_rows(run: Run) -> list[Row]:
    """The rows of a run, checked against its manifest.

    Raises:
        ConfigError: no rows yet, rows of another checkpoint or protocol, or a broken table.
    """
    path = run.folder / "rows.csv"
    if not path.is_file():
        raise ConfigError(f"{run.folder} has no rows yet; run: nftbench score {run.folder}")
    protocols = {p.hash: p for p in run.protocols().values()}
    digest = run.manifest["checkpoint"]["digest"]
    rows = []
    for line, found in read_rows(path):
        row = found.row
        protocol = protocols.get(row.protocol)
        if protocol is None or row.checkpoint != digest:
            raise ConfigError(
                f"{path}, line {line}: not of this run's protocols and checkpoint; run: nftbench score {run.folder}"
            )
        limited = row.limited or protocol.limit is not None
        rows.append(row.model_copy(update={"limited": limited, "settings": settings(protocol)}))
    return rows


def settings(protocol: Protocol) -> str:
    """How a protocol draws, in the words of `Row.settings`: `height=64 width=64 ... images_per_prompt=4`."""
    fields = {
        name: getattr(protocol, name)
        for name in (*SamplingParameters.model_fields, "images_per_prompt", "dtype")
    }
    return " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)


def stated(settings: str) -> dict[str, str]:
    """The single settings of `Row.settings`; `?` is one that is not known."""
    return dict(item.partition("=")[::2] for item in settings.split())
