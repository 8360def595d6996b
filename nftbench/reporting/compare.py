"""Two runs, image against image: is B better than A, by how much, and could this have been seen at all?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nftbench.benchmark.schema import Protocol
from nftbench.reporting.grid import Grid, GridCell, GridLine
from nftbench.reporting.leaderboard.board import (
    LOWER_IS_BETTER,
)
from nftbench.runs.rows import metric_range
from nftbench.runs.run_folder import Run
from nftbench.stats.paired import PAIR, Averaging, Change, Tally, change, paired_samples, tally
from nftbench.stats.significance import ALPHA, EXACT, FLIPS, holm
from rewards.base import ConfigError, Metric, RewardInfo

SCORED_BY = ("weights", "files", "needs", "higher_is_better")
"""Of what a reward says of itself: what makes it another reward under the same name."""
WORDS = ("reason", "evidence")
HEADINGS = "metric|of|A|B|B - A|95% interval|p|p (Holm)|smallest seen|B wins|loses|ties|n|failed"
SPARE = ("ties", "loses", "B wins", "smallest seen", "n", "p", "A", "B", "p (Holm)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """A benchmark of both runs."""

    name: str
    """In the first run."""
    other: str
    """In the second one."""
    faults: tuple[str, ...]
    """How the two differ where they should not; only `force` gets past them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One metric of both runs."""

    shared: Shared
    change: Change
    wins: int
    """Prompts for which B is better."""
    losses: int
    ties: int
    alone: tuple[int, int]
    """Images of A and of B that have no counterpart in the other run."""
    corrected: float = math.nan
    """p by Holm over all metrics compared."""


def compare(a: Run, b: Run, *, benchmark: str | None = None, force: bool = False) -> list[Compared]:
    """Every metric that two runs share, over pairs of images: same prompt, same image index.

    Args:
        a: the run compared with.
        b: the other one; differences are B less A.
        benchmark: of this one alone; None takes all that both have.
        force: compare what was generated or scored differently, all the same.

    Raises:
        ConfigError: nothing is shared; or protocols or rewards differ and `force` is off: the field is named.
    """
    found: list[Compared] = []
    for shared in _shared(a, b, benchmark):
        if shared.faults and not force:
            raise ConfigError(
                f"{a.folder} and {b.folder} differ in {shared.name}: {'; '.join(shared.faults)}; "
                "make both alike, or pass --force to compare them all the same"
            )
        found += _metrics(a, b, shared)
    if not found:
        raise ConfigError(
            f"{a.folder} and {b.folder} share no image of the same prompt that one reward scored in both"
        )
    corrected = holm(np.array([one.change.significance.p for one in found]))
    return [replace(one, corrected=float(p)) for one, p in zip(found, corrected, strict=True)]


def _shared(a: Run, b: Run, benchmark: str | None) -> list[Shared]:
    """Benchmarks of both runs; of one with several protocols, those that are most alike."""
    mine, theirs = a.protocols(), b.protocols()
    both = {p.benchmark for p in mine.values()} & {p.benchmark for p in theirs.values()}
    if benchmark is not None and benchmark not in both:
        raise ConfigError(
            f"{benchmark} is in one of the runs at most; both hold: {', '.join(sorted(both)) or 'nothing'}"
        )
    found = []
    for name, protocol in mine.items():
        if protocol.benchmark in both and benchmark in (None, protocol.benchmark):
            other = min(
                (n for n, p in theirs.items() if p.benchmark == protocol.benchmark),
                key=lambda n: _distance(protocol, theirs[n]),
            )
            faults = [protocol.difference(theirs[other]), *_other_rewards(a, name, b, other)]
            found.append(Shared(name=name, other=other, faults=tuple(f for f in faults if f)))
    return found


def _distance(one: Protocol, other: Protocol) -> int:
    mine, theirs = one.model_dump(), other.model_dump()
    return sum(mine[field] != theirs[field] for field in mine)


def _other_rewards(a: Run, name: str, b: Run, other: str) -> list[str]:
    mine, theirs = a.manifest["rewards"][name], b.manifest["rewards"][other]
    return [
        f"{key} is another reward (other {field})"
        for key in mine
        if key in theirs
        for field in SCORED_BY
        if field in mine[key] and field in theirs[key] and mine[key][field] != theirs[key][field]
    ]


def _metrics(a: Run, b: Run, shared: Shared) -> list[Compared]:
    """Every metric of one benchmark, not yet corrected for there being several."""
    before, after = a.read_samples(shared.name), b.read_samples(shared.other)
    pairs = paired_samples(before, after, (*PAIR, "prompt"))
    if pairs.empty:
        return []
    by_task = a.protocols()[shared.name].aggregation == "task_mean"
    infos: Mapping[str, Any] = a.manifest["rewards"][shared.name]
    found = []
    for metric in (c for c in before if c in after and Metric.parse(c).key in infos):
        key, part = (of := Metric.parse(metric)).key, of.part
        if part in WORDS:
            continue
        info = RewardInfo(**infos[key])
        tasks = by_task and info.needs_metadata
        how = Averaging(within=metric_range(info, part), by_task=tasks)
        wins, losses, ties = _wins(tally(pairs, metric), infos[key], part)
        found.append(
            Compared(
                shared=shared,
                change=change(pairs, shared.name, metric, how),
                wins=wins,
                losses=losses,
                ties=ties,
                alone=(len(before) - len(pairs), len(after) - len(pairs)),
            )
        )
    return found


def _wins(found: Tally, info: Mapping[str, Any], part: str) -> tuple[int, int, int]:
    better_when_higher = part not in LOWER_IS_BETTER and (bool(part) or info["higher_is_better"])
    wins, losses = found.higher, found.lower
    return (wins, losses, found.same) if better_when_higher else (losses, wins, found.same)


# --- how it is shown ------------------------------------------------------------------------------


def grids(a: Run, b: Run, found: Sequence[Compared]) -> list[Grid]:
    """One table a benchmark; a difference that stands after Holm's correction is bold."""
    tables = [
        _grid(a, b, shared, [one for one in found if one.shared == shared])
        for shared in dict.fromkeys(one.shared for one in found)
    ]
    return [*tables[:-1], replace(tables[-1], notes=[*tables[-1].notes, *_legend(found)])]


def _grid(a: Run, b: Run, shared: Shared, found: Sequence[Compared]) -> Grid:
    warnings = [f"Forced; here is A, there is B: {fault}." for fault in shared.faults]
    alone = found[0].alone
    left_out = f"Unpaired images, left out: {alone[0]} of A, {alone[1]} of B."
    return Grid(
        title=f"{shared.name}: A {a.folder} against B {b.folder}",
        headings=HEADINGS.split("|"),
        lines=[_line(one) for one in found],
        notes=[left_out] if any(alone) else [],
        warnings=["FORCED: NOT ALIKE", *warnings] if warnings else [],
        words=2,
        spare=SPARE,
    )


def _line(one: Compared) -> GridLine:
    c = one.change
    gain = c.difference
    known = math.isfinite(gain.stderr)
    texts = [
        c.metric,
        c.aggregate,
        f"{c.before.value:.3f}",
        f"{c.after.value:.3f}",
        f"{gain.value:+.3f}",
        f"{gain.low:+.3f} to {gain.high:+.3f}" if known else "unknown",
        _chance(one.change.significance.p),
        _chance(one.corrected),
        _smallest(one.change.significance.smallest),
        *map(str, (one.wins, one.losses, one.ties, gain.n, gain.n_failed)),
    ]
    sure = one.corrected < ALPHA
    return GridLine(cells=[GridCell(t, bold=sure and i == 4) for i, t in enumerate(texts)])


def _chance(p: float) -> str:
    if math.isnan(p):
        return "unknown"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _smallest(size: float) -> str:
    if math.isnan(size):
        return "unknown"
    return f"{size:.3f}" if math.isfinite(size) else "none"


def _legend(found: Sequence[Compared]) -> list[str]:
    tests = sum(math.isfinite(one.change.significance.p) for one in found)
    return [
        "Pairs: same prompt, same image index; A and B are over the images that both runs could score. Intervals: "
        "clustered by prompt, inside the metric's range; where tasks weigh alike, stratified by task.",
        f"p: signs of the prompts' differences flipped, all ways up to {EXACT} prompts that changed, else {FLIPS} "
        "seeded ways; with fewer than six prompts it cannot fall below 0.05.",
        f"p (Holm): corrected over the {tests} metrics of these tables; bold or * below 0.05.",
        "smallest seen: a true difference of this size is found with 80% power at the 5% level, uncorrected; "
        "none: not even the largest one.",
        "wins, loses, ties: prompts, by the mean over their images.",
    ]


def records(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """One record a metric, for CSV; what is unknown is empty."""
    return [
        {
            "benchmark": one.shared.name,
            "metric": one.change.metric,
            "aggregate": one.change.aggregate.replace(" ", "_"),
            "a": one.change.before.value,
            "b": one.change.after.value,
            "difference": one.change.difference.value,
            **{
                field: "" if math.isnan(number) else number
                for field, number in (
                    ("stderr", one.change.difference.stderr),
                    ("low", one.change.difference.low),
                    ("high", one.change.difference.high),
                    ("p", one.change.significance.p),
                    ("p_holm", one.corrected),
                    ("smallest", one.change.significance.smallest),
                )
            },
            "wins": one.wins,
            "losses": one.losses,
            "ties": one.ties,
            "n": one.change.difference.n,
            "n_failed": one.change.difference.n_failed,
            "n_prompts": one.change.difference.n_prompts,
            "forced": "; ".join(one.shared.faults),
        }
        for one in found
    ]
