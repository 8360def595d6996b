"""Whether a run's numbers are those of its images: whole, unchanged, and the same when a part is scored again."""

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nftbench.benchmark.registry import choose, load_benchmark
from nftbench.benchmark.samples import Sample, samples
from nftbench.benchmark.schema import Protocol
from nftbench.evaluation.images import image_origin
from nftbench.evaluation.scoring.files import score_files
from nftbench.evaluation.scoring.loading import load_rewards, quiet, refuse_unnamed_files
from nftbench.runs.row_files import run_rows
from nftbench.runs.rows import Provenance, Row, summarise
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError, Progress, Reward, RewardInfo

TOLERANCE = 1e-4
"""Largest difference between two scores of one image that still agree, relative to the value or to 1 where it is
smaller: other batches and other processors round otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """One reward's second look at some images of one benchmark."""

    benchmark: str
    reward: str
    n: int
    agree: int
    largest: float
    """Largest difference, native units; infinite where one of the two could not be scored."""
    worst: str
    """The image of the largest difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was found."""

    images: int
    """Images that the run should hold."""
    seen: int
    """Images that were scored again; of the others nothing was looked at but their digests."""
    problems: tuple[str, ...]
    """What is missing or was changed, in words."""
    checks: tuple[Checked, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the run."""
        return not self.problems and all(c.agree == c.n for c in self.checks)


def verify(run: Run, fraction: float, seed: int, progress: Progress) -> Verification:
    """Compare a run's table with its images.

    Args:
        run: a finished run; nothing of it is written.
        fraction: part of each benchmark's images that is scored again, in (0, 1]; at least one, and every image that
            was changed since it was scored.
        seed: chooses them.
        progress: called after each reward.

    Raises:
        ConfigError: a fraction out of range, no finished run, or a reward that is not here.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"expected a fraction above 0 and up to 1, got {fraction}")
    quiet()
    rows, keys, problems, checks, images, seen = run_rows(run), _keys(run), [], [], 0, 0
    for known in run.manifest["rewards"].values():
        refuse_unnamed_files(known)
    scorers = load_rewards(",".join(dict.fromkeys(k for known in keys.values() for k in known)))
    for name, protocol in run.protocols().items():
        expected, table = _expected(protocol), _table(run, name)
        changed = _changed(run, name, expected, table)
        images += len(expected)
        problems += _missing(run, name, expected, table)
        problems += _not_as_made(run, name, protocol, expected, changed)
        problems += _wrong_rows(run, name, protocol, table, rows)
        if not run.is_sealed(name):
            problems.append(f"{name}: samples.parquet is not the table that this run wrote")
        some = _some(expected, fraction, seed, changed)
        seen += len(some)
        for key in keys[name]:
            checks.append(_check(run, name, some, table, scorers[key]))
            progress("scored again", len(checks), sum(map(len, keys.values())))
    return Verification(images=images, seen=seen, problems=tuple(problems), checks=tuple(checks))


def _keys(run: Run) -> dict[str, list[str]]:
    """The rewards of each benchmark that its sample table holds."""
    known = run.manifest["rewards"]
    return {name: [k for k in known[name] if k in _table(run, name)] for name in run.protocols()}


def _table(run: Run, name: str) -> pd.DataFrame:
    # Not by its seal: every number of it is made again, so that more can be said than that it is another table.
    return run.read_samples(name, sealed=False).set_index("key", drop=False)


def _expected(protocol: Protocol) -> list[Sample]:
    prompts = choose(load_benchmark(protocol.benchmark).load(), protocol.limit)
    return samples(prompts, protocol.images_per_prompt)


def _some(
    expected: Sequence[Sample], fraction: float, seed: int, changed: Set[str]
) -> list[Sample]:
    count = max(1, math.ceil(fraction * len(expected)))
    chosen = np.random.default_rng(seed).choice(len(expected), size=count, replace=False)
    chosen = {*chosen.tolist(), *(i for i, s in enumerate(expected) if s.key in changed)}
    return [expected[i] for i in sorted(chosen)]


def _changed(run: Run, name: str, expected: Sequence[Sample], table: pd.DataFrame) -> set[str]:
    """Images that are there, and not as they were scored."""
    known = dict(zip(table["key"], table["sha256"], strict=True))
    here = {s.key: run.image_digest(name, s) for s in expected}
    return {key for key, digest in here.items() if digest and known.get(key, digest) != digest}


def _not_as_made(
    run: Run, name: str, protocol: Protocol, expected: Sequence[Sample], changed: Set[str]
) -> Iterator[str]:
    """Images that are not those that this run's checkpoint made, by the digests noted then."""
    origin = image_origin(run.manifest["checkpoint"]["digest"], protocol)
    size, foreign = run.manifest["batch_size"], []
    for start in range(0, len(expected), size):
        batch = expected[start : start + size]
        for sample, made in zip(batch, run.made(name, start // size, batch, origin), strict=True):
            if sample.key not in changed and run.image_digest(name, sample) not in ("", made):
                foreign.append(sample.key)
    if foreign:
        yield (
            f"{name}: {len(foreign)} images that this run did not make, the first {foreign[0]}.png"
        )


def _missing(run: Run, name: str, expected: Sequence[Sample], table: pd.DataFrame) -> Iterator[str]:
    """Images that are gone, were changed since they were scored, or nobody asked for."""
    keys = [s.key for s in expected]
    if table["key"].tolist() != keys:
        yield f"{name}: the table has {len(table)} rows, not one for each of {len(keys)} images"
    paths = {run.image_path(name, s): s for s in expected}
    gone = [p for p in paths if not p.is_file()]
    if gone:
        yield f"{name}: {len(gone)} of {len(paths)} images are missing, the first {gone[0].name}"
    strange = sorted(set(_images(run, name)) - set(paths))
    if strange:
        yield f"{name}: {len(strange)} images that nobody asked for, the first {strange[0].name}"
    changed = sorted(_changed(run, name, expected, table))
    if changed:
        yield f"{name}: {len(changed)} images changed since they were scored, the first {changed[0]}.png"


def _images(run: Run, name: str) -> Iterator[Path]:
    return (run.folder / name / "images").glob("*.png")


def _wrong_rows(
    run: Run, name: str, protocol: Protocol, table: pd.DataFrame, rows: Sequence[Row]
) -> Iterator[str]:
    """Rows of `rows.csv` that the sample table does not give."""
    mine = [r for r in rows if r.protocol == protocol.hash]
    infos = [RewardInfo(**i) for k, i in run.manifest["rewards"][name].items() if k in table]
    if not mine:
        yield f"{name}: rows.csv has no row of protocol {protocol.hash}"
        return
    found = {_cell(r): r for r in summarise(table, infos, _about(mine[0], protocol))}
    for row in mine:
        again = found.get(_cell(row))
        if again is None or not _same_numbers(row, again):
            value = "nothing" if again is None else f"{again.value:.6g} ± {again.stderr:.2g}"
            yield (
                f"{name}: {row.metric} ({row.aggregate}) is {row.value:.6g} ± {row.stderr:.2g} in rows.csv, "
                f"its images give {value}"
            )
    dropped = found.keys() - {_cell(row) for row in mine}
    if dropped:
        first = " (".join(min(dropped))
        yield f"{name}: rows.csv lacks {len(dropped)} rows that its images give, the first {first})"


def _about(row: Row, protocol: Protocol) -> Provenance:
    return Provenance(
        model=row.model,
        checkpoint=row.checkpoint,
        benchmark=row.benchmark,
        protocol=row.protocol,
        limited=row.limited,
        by_task=protocol.aggregation == "task_mean",
        date=row.date,
    )


def _cell(row: Row) -> tuple[str, str]:
    return str(row.spelled), row.aggregate


def _same_numbers(row: Row, again: Row) -> bool:
    fields = ("value", "stderr", "low", "high", "n", "n_failed", "n_prompts")
    mine, theirs = ([float(getattr(r, f)) for f in fields] for r in (row, again))
    return np.allclose(mine, theirs, rtol=1e-6, atol=1e-9, equal_nan=True)


def _check(
    run: Run, name: str, some: Sequence[Sample], table: pd.DataFrame, reward: Reward
) -> Checked:
    """Score some images again, batch by batch, and compare."""
    size, key = run.manifest["batch_size"], reward.info.key
    batches = [some[i : i + size] for i in range(0, len(some), size)]
    again = np.concatenate(
        [
            score_files(reward, [run.image_path(name, s) for s in b], [s.prompt for s in b]).values
            for b in batches
        ]
    ).astype(float)
    before = table[key].reindex([s.key for s in some]).to_numpy(dtype=float)
    apart = np.where(np.isnan(before) & np.isnan(again), 0.0, np.abs(again - before))
    apart = np.nan_to_num(apart, nan=np.inf)
    allowed = TOLERANCE * np.maximum(1, np.abs(np.nan_to_num(before)))
    return Checked(
        benchmark=name,
        reward=key,
        n=len(some),
        agree=int((apart <= allowed).sum()),
        largest=float(apart.max()),
        worst=some[int(apart.argmax())].key,
    )
