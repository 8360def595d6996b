"""What a training run leaves to look at: metrics.jsonl, TensorBoard, image grids, the curve."""

import hashlib
import io
import json
import math
import os
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from nftbench.parsing import parse_json
from nftbench.runs.contact_sheet import Tile, sheet
from nftbench.runs.io import read_table, write_atomic
from nftbench.stats.intervals import UNBOUNDED, MetricRange
from nftbench.stats.paired import PAIR, Averaging, Change, changes
from nftbench.training.config.record import recorded_id
from rewards.base import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator  # imports torch, which whoever reads a run does not need

METRICS = "metrics.jsonl"
HELD_OUT = "held_out"
"""Folder of the scored held-out images: `before.parquet`, `after.parquet`, `first.parquet`."""
CHECK = "check"
"""Last entry of each line: by it a line that was damaged, or is another run's, is told from what was measured."""
ENDS = ("_low", "_high")
"""`held_out/BENCHMARK/METRIC` with one of these is an end of that mean's 95% interval."""
MEASURED = "measured.json"
"""In that folder: by which protocols and rewards the tables were made, and their digests."""
AVERAGING = "averaging.json"
"""In that folder: benchmark -> metric -> its range and whether its tasks weigh alike."""
GRID_ROWS, GRID_COLUMNS = 8, 8
STOP = "stop: "
"""How the words begin with which a guard ends a run, among a line's `guards`; other words only warn."""
SILENCE = 30.0
"""Seconds after which long work says what it is at."""


class Pace:
    """Says what long work is at, so often that a log shows that it goes on."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._last = say, time.monotonic()

    def begin(self) -> None:
        """Something was said just now, or is about to be."""
        self._last = time.monotonic()

    def __call__(self, text: str) -> None:
        """Say it, if nothing was said for so long."""
        if time.monotonic() - self._last >= SILENCE:
            self._say(text)
            self.begin()


class Clock:
    """Seconds by part of the work, of all threads."""

    def __init__(self, ended: Callable[[str], None] = lambda part: None) -> None:
        """Begin at 0.

        Args:
            ended: told whenever a part was timed, in the thread that did it.
        """
        self.seconds: dict[str, float] = defaultdict(float)
        self._ended = ended

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block; parts may be entered many times."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begun
        self._ended(name)

    def take(self) -> dict[str, float]:
        """The seconds so far, and begin anew."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds


class MetricsLog:
    """Writes on the main process alone."""

    def __init__(
        self, folder: Path, accelerator: "Accelerator", say: Callable[[str], None]
    ) -> None:
        self.folder, self.accelerator, self._say = folder, accelerator, say
        self.path = folder / METRICS
        self._begun = False

    def log(self, done: int, values: Mapping[str, Any]) -> None:
        """Add one line: finite numbers, for JSON has no others, and the words that come with them."""
        self._begun = True
        values = {k: v for k, v in values.items() if not isinstance(v, float) or math.isfinite(v)}
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line({"iteration": done} | dict(values), recorded_id(self.folder)))
            file.flush()
            os.fsync(file.fileno())
        ends = set(values) - set(without_ends(values))  # TensorBoard draws no bands
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and k not in ends}
        self.accelerator.log(numbers, step=done)

    def begun(self) -> bool:
        """Whether there is a line, of this process or of the run that it resumes."""
        return self._begun

    def rewind(self, done: int) -> None:
        """Forget the lines beyond an iteration: a resumed run writes them again; and what is no line any more."""
        if not self.path.is_file():
            return
        lines, broken = _lines(self.path)
        kept = [line for line in lines if line["iteration"] <= done]
        self._begun = bool(kept)
        if not self.accelerator.is_main_process:
            return
        if broken:
            self._say(f"warning: dropped {broken} damaged line(s) of {self.path}")
        run = recorded_id(self.folder)
        write_atomic(self.path, "".join(_line(line, run) for line in kept).encode())

    def grid(self, done: int, images: Mapping[str, Tile]) -> None:
        """Write `grids/NNNNNN.png`: always the same prompts, from the same noise, in the same places.

        Args:
            done: iterations done.
            images: by `BENCHMARK/KEY`, each with its task, score and prompt.
        """
        if not self.accelerator.is_main_process:
            return
        names = sorted(images)
        count = min(len(names), GRID_ROWS * GRID_COLUMNS)
        chosen = [images[names[i * len(names) // count]] for i in range(count)]
        rows = [chosen[i : i + GRID_COLUMNS] for i in range(0, count, GRID_COLUMNS)]
        data = sheet(rows)
        write_atomic(self.folder / "grids" / f"{done:06d}.png", data)
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB"))
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"held_out": pixels[None]}, step=done, **layout)


def read_metrics(folder: Path) -> pd.DataFrame:
    """A run's metrics, one row a line."""
    return pd.DataFrame(_lines(folder / METRICS)[0])


def is_measured(folder: Path) -> bool:
    """Whether a run's end was measured on held-out prompts, and no iteration was done since."""
    if not (folder / HELD_OUT / "after.parquet").is_file():
        return False
    try:
        done = parse_json((folder / HELD_OUT / MEASURED).read_bytes())["tables"]["after"]["done"]
        return bool(read_metrics(folder).loc[:, "iteration"].max() <= done)
    except (OSError, ValueError, KeyError, TypeError):
        return True  # a run that does not note it


def stop_of(folder: Path, *, anywhere: bool = False) -> str:
    """Why a guard stopped a run after its last iteration, or after any, in the guard's words; empty where none did."""
    lines = _lines(folder / METRICS)[0] if (folder / METRICS).is_file() else []
    said = [w for line in lines[0 if anywhere else -1 :] for w in line.get("guards", [])]
    return next((str(w).removeprefix(STOP) for w in said if str(w).startswith(STOP)), "")


def without_ends(names: Iterable[Any]) -> list[str]:
    """Names of metrics, without those that are an end of another one's interval."""
    known = [str(name) for name in names]
    ends = {f"{name}{end}" for name in known for end in ENDS}
    return [name for name in known if name not in ends]


def held_out_columns(table: pd.DataFrame) -> list[str]:
    """The held-out metrics that a table of `read_metrics` has values of, each with its `ENDS` beside it or not."""
    found = without_ends(c for c in table if str(c).startswith(f"{HELD_OUT}/"))
    return [c for c in found if table.loc[:, c].notna().any()]


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines that are as this run wrote them, and how many are not: a killed process may leave its last one cut."""
    found, broken, run = [], 0, recorded_id(path.parent)
    for line in path.read_bytes().splitlines():
        try:
            values = parse_json(line)
            int(values["iteration"])
            if values.pop(CHECK, "") not in ("", _check(values, run)):
                raise ValueError("not as this run wrote it")
            found.append(values)
        except (ValueError, KeyError, TypeError, AttributeError):
            broken += 1
    return found, broken


def _line(values: Mapping[str, Any], run: str) -> str:
    return f"{json.dumps(dict(values) | {CHECK: _check(values, run)})}\n"


def _check(values: Mapping[str, Any], run: str) -> str:
    """CRC-32 of the run's id and a line without its `CHECK`, in hexadecimal."""
    return f"{zlib.crc32((run + json.dumps(dict(values))).encode()):08x}"


def write_averaging(folder: Path, metrics: Mapping[str, Mapping[str, Averaging]]) -> None:
    """Note which metrics a run compares before and after, and how each is averaged."""
    plain = {b: {m: asdict(how) for m, how in mine.items()} for b, mine in metrics.items()}
    write_atomic(folder / HELD_OUT / AVERAGING, f"{json.dumps(plain, indent=2)}\n".encode())


def read_changes(folder: Path) -> list[Change]:
    """Held-out metrics before and after a finished training; empty before its end.

    Raises:
        ConfigError: a table is not the one that the training wrote.
    """
    paths = [folder / HELD_OUT / f"{when}.parquet" for when in ("before", "after")]
    if not all(path.is_file() for path in paths):
        return []
    before, after = map(held_out_table, paths)
    return changes(before, after, read_averaging(folder, before))


def held_out_table(path: Path) -> pd.DataFrame:
    """A held-out table, if it is the one that the training noted; one that was never noted is taken.

    Raises:
        ConfigError: it is another one, missing or broken.
    """
    try:
        noted = parse_json((path.parent / MEASURED).read_bytes())["tables"][path.stem]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        noted = ""
    remedy = f"to have it measured again: nftbench train --resume {path.parents[1]}"
    if noted and path.is_file() and noted != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ConfigError(f"{path} is not the table that the training wrote; {remedy}")
    return read_table(path, remedy=remedy)


def read_averaging(folder: Path, before: pd.DataFrame) -> dict[str, dict[str, Averaging]]:
    """Which metrics a run compares before and after, and how each is averaged.

    Raises:
        ConfigError: the file that says so is damaged.
    """
    path = folder / HELD_OUT / AVERAGING
    if path.is_file():
        try:
            plain = parse_json(path.read_bytes())
            return {
                b: {m: _averaging(**how) for m, how in mine.items()} for b, mine in plain.items()
            }
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise ConfigError(f"{path} is damaged; run: nftbench train --resume {folder}") from None
    found: dict[str, dict[str, Averaging]] = {}  # a run from before this file: what its table shows
    for benchmark, table in before.groupby("benchmark", sort=False):
        scored = table.drop(columns=["benchmark", *PAIR]).dropna(axis=1, how="all").columns
        tasks = table["tag"].nunique() > 1
        found[str(benchmark)] = {
            m: Averaging(within=UNBOUNDED, by_task=tasks and m.startswith("geneval"))
            for m in scored
        }
    return found


def _averaging(
    within: Mapping[str, Any], by_task: bool, higher_is_better: bool | None = None
) -> Averaging:
    if higher_is_better not in (True, False, None):
        raise ValueError("expected true, false or null")
    return Averaging(
        within=MetricRange(**within), by_task=by_task, higher_is_better=higher_is_better
    )


def curve(folder: Path) -> None:
    """Draw `curve.png`: every held-out metric with its interval, over iterations and over minutes of training."""
    from matplotlib.figure import Figure

    table = read_metrics(folder)
    columns = held_out_columns(table)
    if not columns:
        return
    figure = Figure(figsize=(10, 2.6 * len(columns)), layout="constrained")
    axes = figure.subplots(len(columns), 2, squeeze=False)
    for row, column in zip(axes, columns, strict=True):
        validated = table[
            table[column].notna()
        ]  # one stage may be validated on what another was not
        for axis, name in zip(row, ("iteration", "minutes"), strict=True):
            axis.plot(validated[name], validated[column], marker="o", markersize=3)
            low, high = (f"{column}{end}" for end in ENDS)
            if {low, high} <= set(validated):
                axis.fill_between(validated[name], validated[low], validated[high], alpha=0.2)
            axis.set_xlabel(name)
            axis.grid(alpha=0.3)
        row[0].set_title(column.removeprefix("held_out/"), loc="left", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    write_atomic(folder / "curve.png", buffer.getvalue())
