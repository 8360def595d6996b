"""Leaderboards: one CSV a benchmark, a row a number.

A measured row is never without its error and its protocol; a published one never without its citation and confidence.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import rewards as registry
from nftbench.benchmark.registry import known, load_benchmark
from nftbench.benchmark.schema import UNKNOWN
from nftbench.reporting.naming import MEANS
from nftbench.reporting.results import checked_label
from nftbench.resources import data_folder
from nftbench.runs.io import write_atomic
from nftbench.runs.lock import hold
from nftbench.runs.row_files import (
    CODE,
    LESS,
    Entry,
    encode,
    entry,
    read_rows,
    run_rows,
    stated,
)
from nftbench.runs.rows import MAX_FAILED, Row
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError, Metric
from rewards.certify.verdicts import verdict

HASH = re.compile("[0-9a-f]{12}")
LOWER_IS_BETTER = frozenset({"spam"})
"""Sub-scores that run against their reward."""


def folder() -> Path:
    """Where the leaderboards lie, in a checkout and in an installed wheel alike."""
    return data_folder("leaderboards")


def there(where: Path | None) -> dict[str, Path]:
    """The leaderboards by benchmark, in order.

    Raises:
        ConfigError: the user's folder holds none.
    """
    found = {path.stem: path for path in sorted((where or folder()).glob("*.csv"))}
    if where is not None and not found:
        raise ConfigError(
            f"{where} holds no leaderboard; expected a folder of them, as nftbench leaderboard add RUN --leaderboards "
            "DIR makes it"
        )
    return found


# --- reading and writing --------------------------------------------------------------------------


def read(path: Path) -> list[Entry]:
    """A leaderboard, checked: types, what a row may not lack, its benchmark, no row twice.

    Raises:
        ConfigError: with file and line.
    """
    seen: dict[tuple[str, ...], int] = {}
    entries = read_rows(path)
    for line, found in entries:
        try:
            refuse(found.row)
        except ConfigError as error:
            raise ConfigError(f"{path}, line {line}: {error}") from None
        if found.row.benchmark != path.stem:
            raise ConfigError(
                f"{path}, line {line}: expected benchmark {path.stem}, got {found.row.benchmark}"
            )
        if found.identity in seen:
            raise ConfigError(
                f"{path}, line {line}: the same row as line {seen[found.identity]}; remove one"
            )
        seen[found.identity] = line
    return [found for _, found in entries]


def refuse(row: Row) -> None:
    """Refuse a row that may not stand in a leaderboard.

    Raises:
        ConfigError: a measured row that is from a limited run or lacks its protocol's hash, its error or its images;
            a published one without citation or confidence; no finite value.
    """
    name = f"{row.benchmark} {row.metric} ({row.aggregate})"
    for fault in _published_faults(row) if row.source == "published" else _measured_faults(row):
        raise ConfigError(f"{name} {fault}")
    if not math.isfinite(row.value):
        raise ConfigError(f"{name} has no finite value, got {row.value}")


def _published_faults(row: Row) -> list[str]:
    wanted = {"citation": row.citation, "confidence": row.confidence, "protocol": row.protocol}
    return [
        f"is published and names no {k}; say where it stands" for k, v in wanted.items() if not v
    ]


def _measured_faults(row: Row) -> list[str]:
    faults = []
    if row.limited:
        faults.append(
            "is from a run with --limit, or its prompt file has no known sha256, and cannot be published; run a "
            "benchmark that is pinned, whole"
        )
    if not HASH.fullmatch(row.protocol):
        faults.append(
            f"has no protocol hash, got {row.protocol!r}; publish a run of `nftbench eval`"
        )
    if not row.n or not math.isfinite(row.stderr):
        faults.append(
            f"has no standard error (n = {row.n}, {row.n_failed} failed) and cannot be published"
        )
    if row.n and row.n_failed and row.n_failed > MAX_FAILED * (row.n + row.n_failed):
        faults.append(
            f"failed on {row.n_failed} of {row.n + row.n_failed} images; at most {MAX_FAILED:.0%} may be unscored: "
            "run nftbench score RUN"
        )
    if row.certificate == "differs":
        faults.append("is of a reward whose certificate says that it differs from its reference")
    return faults


# --- adding ---------------------------------------------------------------------------------------


def publish(
    rows: Sequence[Row], where: Path | None = None, proofs: Path | None = None
) -> list[Path]:
    """Add rows to the leaderboards of their benchmarks.

    Args:
        rows: measured rows.
        where: the leaderboards' folder; the project's own when None.
        proofs: folder of the rewards' certificates; the project's own when None.

    Returns:
        The CSV files written.

    Raises:
        ConfigError: a row that may not be published (`refuse`), or a leaderboard that is broken. Nothing was written
            then.
    """
    boards = _writable(where)
    fresh: dict[Path, list[Entry]] = defaultdict(list)
    for row in rows:
        certificate = row.certificate or verdict(row.spelled.key, proofs)
        certified = row.model_copy(update={"certificate": certificate})
        refuse(certified)
        fresh[boards / f"{row.benchmark}.csv"].append(entry(certified))
    with hold(boards, brief=True):
        # all of them before any is written: a broken one leaves the others as they were
        merged = {path: _merge(path, new) for path, new in fresh.items()}
        for path, entries in merged.items():
            write_atomic(path, encode(entries))
    return list(merged)


def refuse_ahead(benchmarks: Sequence[str], where: Path | None = None) -> None:
    """Refuse what no run of these benchmarks could get around, before an image is drawn for it.

    Raises:
        ConfigError: a benchmark whose prompt files have no known digest, or leaderboards that are not written to.
    """
    _writable(where)
    for benchmark in benchmarks:
        if not load_benchmark(benchmark).pinned:
            raise ConfigError(
                f"{benchmark} cannot be published: its prompt file has no known sha256; pin it in "
                f"benchmarks/{benchmark}.toml"
            )


def held(where: Path | None) -> AbstractContextManager:
    """Nobody adds rows meanwhile; to an installed package's nobody does."""
    return hold(where or folder(), brief=True) if where or _in_checkout() else nullcontext()


def _in_checkout() -> bool:
    return (folder().parent / "pyproject.toml").is_file()


def _writable(where: Path | None) -> Path:
    """The folder that is written to: the user's, else the checkout's, never an installed package's.

    Raises:
        ConfigError: there is no checkout, and no folder was named.
    """
    if where is None and not _in_checkout():
        raise ConfigError(
            "the leaderboards of an installed package are not written to; name a folder of yours: "
            "nftbench leaderboard add RUN --leaderboards DIR"
        )
    return where or folder()


def _merge(path: Path, new: list[Entry]) -> list[Entry]:
    replaced = {e.identity for e in new}
    old = read(path) if path.is_file() else []
    merged = [e for e in old if e.identity not in replaced] + new
    files: dict[Metric, str] = {}
    for row in (e.row for e in merged if e.row.source == "measured"):
        mine = stated(row.settings).get(CODE, "")
        if files.setdefault(row.spelled, mine) != mine:
            raise ConfigError(
                f"{path}: {row.spelled} there is of another file than this run's; their numbers cannot stand side by "
                "side: give your reward another `variant`, or take those rows out (nftbench leaderboard remove)"
            )
    return merged


def namesakes(run: Run, where: Path | None = None) -> list[str]:
    """Other names under which the weights of a run stand in the leaderboards already."""
    rows = run_rows(run)
    digests = {row.checkpoint for row in rows} - {""}
    names = {row.model for row in rows}
    paths = [(where or folder()) / f"{name}.csv" for name in {row.benchmark for row in rows}]
    there = [entry.row for path in paths if path.is_file() for entry in read(path)]
    return sorted({r.model for r in there if r.checkpoint in digests} - names)


def remove(benchmark: str, model: str, protocol: str = "", where: Path | None = None) -> int:
    """Take a model's measured rows from a leaderboard; published ones stay.

    Args:
        benchmark: whose leaderboard.
        model: as the rows name it.
        protocol: hash of the one protocol that is meant; empty is every one.
        where: the leaderboards' folder; the project's own when None.

    Returns:
        How many rows went.

    Raises:
        ConfigError: no such leaderboard, or no such row; the near name is suggested.
    """
    boards = there(where)
    path = boards[known(benchmark, list(boards), "leaderboard")]
    with hold(_writable(where), brief=True):
        entries = read(path)
        measured = [e for e in entries if e.row.source == "measured"]
        known(model, sorted({e.row.model for e in measured}), "model")
        gone = [e for e in measured if e.row.model == model and protocol in ("", e.row.protocol)]
        if not gone:
            raise ConfigError(f"{model} has no row of protocol {protocol} in {path}")
        write_atomic(path, encode([e for e in entries if e not in gone]))
    return len(gone)


def whole_rows(run: Run) -> list[Row]:
    """The rows of a run that is finished and drawn as its protocols say.

    Raises:
        ConfigError: as `run_rows`, a benchmark that was scored and has no rows, or images of unknown making.
    """
    rows, judged = run_rows(run), run.manifest["rewards"]
    for name, protocol in run.protocols().items():
        if protocol.noise in UNKNOWN:
            raise ConfigError(
                f"{run.folder} cannot be published: nobody knows how its images of {name} were drawn; publish a run of "
                "`nftbench eval CHECKPOINT`"
            )
        if judged.get(name) and protocol.hash not in {row.protocol for row in rows}:
            raise ConfigError(
                f"{run.folder} is not finished: {name} has no rows; run: nftbench score {run.folder}"
            )
    return rows


def add(run: Run, where: Path | None = None, *, name: str = "") -> list[Path]:
    """Add a run's rows, with what its protocols say of guidance, steps and size.

    Args:
        run: a whole run.
        where: the leaderboards' folder; the project's own when None.
        name: of the model in the leaderboards; empty is the checkpoint's.

    Raises:
        ConfigError: as `whole_rows`, `publish` and `refuse_ahead`, or a bad name.
    """
    rows = whole_rows(run)
    refuse_ahead(sorted({row.benchmark for row in rows}), where)
    if name:
        label = checked_label(" ".join(name.split()), "--name", "the model's name: 'My model'")
        rows = [row.model_copy(update={"model": label}) for row in rows]
    return publish(rows, where)


# --- order ----------------------------------------------------------------------------------------


def rivals(row: Row) -> tuple[str, ...]:
    """What rows must share to be ranked against each other."""
    return row.metric, row.variant, row.aggregate, row.protocol


def rank(entries: Sequence[Entry]) -> list[int]:
    """Place of each row among those of its metric, variant, aggregate and protocol; the best is 1, equals share one."""
    rows = [e.row for e in entries]
    good = [(-1 if _falls(r) else 1) * r.value for r in rows]
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row, value in zip(rows, good, strict=True):
        groups[rivals(row)].append(value)
    return [
        1 + sum(other > value for other in groups[rivals(row)])
        for row, value in zip(rows, good, strict=True)
    ]


def _falls(row: Row) -> bool:
    """Whether less is better; of a user's own reward the row says it."""
    return LESS in stated(row.settings) or _metric_falls(row.spelled)


@cache
def _metric_falls(metric: Metric) -> bool:
    """The same of a metric; a reward that is not here is taken to be better with more."""
    if metric.part in LOWER_IS_BETTER:
        return True
    try:
        return not registry.reward_info(metric.key).higher_is_better
    except ConfigError:
        return False


def order(entries: Sequence[Entry]) -> list[Entry]:
    """Metric by metric, means before tasks, protocol by protocol, the best first."""
    ranks = dict(zip((e.identity for e in entries), rank(entries), strict=True))
    return sorted(
        entries, key=lambda e: (*column(e.row), e.row.protocol, ranks[e.identity], e.identity)
    )


def column(row: Row) -> tuple[str, str, int, str]:
    """Where a metric stands among others."""
    means = list(MEANS)
    place = means.index(row.aggregate) if row.aggregate in means else len(means)
    return row.metric, row.variant, place, "" if place < len(means) else row.aggregate
