"""Two runs, or several seeds of each, image against image: is B better than A, by how much, and could one see it?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nftbench.benchmark.schema import Protocol
from nftbench.reporting.naming import number
from nftbench.reporting.results import TRAINING, Result, pair_seeds
from nftbench.reporting.seed_rows import other_rewards
from nftbench.reporting.sides import Side, side_of
from nftbench.reporting.tables.grid import Grid, GridCell, GridLine
from nftbench.stats.paired import PAIR, Change, paired_samples, tally
from nftbench.stats.seeds import change_over_seeds, mean_image
from nftbench.stats.significance import ALPHA, EXACT, FLIPS, holm
from rewards.base import ConfigError

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


def compare(
    a: Result, b: Result, *, benchmark: str | None = None, force: bool = False
) -> list[Compared]:
    """Every metric that two results share, over pairs of images: same prompt, same image index.

    Args:
        a: the one compared with: an evaluation, a training's held-out images, or several seeds of either.
        b: the other one; differences are B less A.
        benchmark: of this one alone; None takes all that both have.
        force: compare what was generated or scored differently, all the same.

    Raises:
        ConfigError: nothing is shared; or protocols or rewards differ and `force` is off: the field is named.
    """
    if a.kind != b.kind:
        trained = a if a.kind == TRAINING else b
        raise ConfigError(
            f"{a.folder} is of one kind and {b.folder} of the other; evaluate the training first: "
            f"nftbench eval {trained.folder}"
        )
    sides, found = (side_of(a), side_of(b)), []
    for shared in _shared(*sides, benchmark):
        if shared.faults and not force:
            raise ConfigError(
                f"{a.folder} and {b.folder} differ in {shared.name}: {'; '.join(shared.faults)}; "
                "make both alike, or pass --force to compare them all the same"
            )
        found += _metrics(*sides, shared)
    if not found:
        raise ConfigError(
            f"{a.folder} and {b.folder} share no image of the same prompt that one reward scored in both"
        )
    corrected = holm(np.array([one.change.significance.p for one in found]))
    return [replace(one, corrected=float(p)) for one, p in zip(found, corrected, strict=True)]


def _shared(a: Side, b: Side, benchmark: str | None) -> list[Shared]:
    """Benchmarks of both; of one with several protocols, those that are most alike."""
    mine, theirs = a.protocols, b.protocols
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
            scored = other_rewards(a.rewards(name), b.rewards(other))
            faults = [protocol.difference(theirs[other]), *scored]
            found.append(Shared(name=name, other=other, faults=tuple(f for f in faults if f)))
    return found


def _distance(one: Protocol, other: Protocol) -> int:
    mine, theirs = one.model_dump(), other.model_dump()
    return sum(mine[field] != theirs[field] for field in mine)


def _metrics(a: Side, b: Side, shared: Shared) -> list[Compared]:
    """Every metric of one benchmark, not yet corrected for there being several."""
    pairing = pair_seeds(a.result, b.result)
    tables = [
        [of[place] for place in places]
        for of, places in zip(
            (a.tables(shared.name), b.tables(shared.other)), pairing.places, strict=True
        )
    ]
    images = _images([t for of in tables for t in of], [*PAIR, *a.key])
    if images.empty:
        return []
    alone = tuple(len(of[0]) - len(images) for of in tables)
    kept = [[t.merge(images, on=list(images)) for t in of] for of in tables]
    found = []
    for metric, how in a.metrics(shared.name).items():
        if all(metric in t for of in kept for t in of):
            before, after = kept
            changed = change_over_seeds(
                before, after, shared.name, metric, how, paired=pairing.same
            )
            wins, losses, ties = _wins(kept, metric, a.higher_is_better(shared.name, metric))
            found.append(
                Compared(
                    shared=shared,
                    change=changed,
                    wins=wins,
                    losses=losses,
                    ties=ties,
                    alone=(alone[0], alone[1]),
                )
            )
    return found


def _images(tables: Sequence[pd.DataFrame], key: list[str]) -> pd.DataFrame:
    """The images that all tables hold."""
    images = tables[0].loc[:, key]
    for table in tables[1:]:
        images = images.merge(table[key], on=key)
    return images


def _wins(
    tables: Sequence[Sequence[pd.DataFrame]], metric: str, higher_is_better: bool
) -> tuple[int, int, int]:
    """Prompts for which B is better, worse and alike, by the mean over seeds and images."""
    before, after = (mean_image(of, [metric]) for of in tables)
    found = tally(paired_samples(before, after), metric)
    wins, losses = found.higher, found.lower
    return (wins, losses, found.same) if higher_is_better else (losses, wins, found.same)


# --- how it is shown ------------------------------------------------------------------------------


def grids(a: Result, b: Result, found: Sequence[Compared]) -> list[Grid]:
    """One table a benchmark; a difference that stands after Holm's correction is bold."""
    tables = [
        _grid(a, b, shared, [one for one in found if one.shared == shared])
        for shared in dict.fromkeys(one.shared for one in found)
    ]
    return [*tables[:-1], replace(tables[-1], notes=[*tables[-1].notes, *_legend(a, b, found)])]


def _grid(a: Result, b: Result, shared: Shared, found: Sequence[Compared]) -> Grid:
    warnings = [f"Forced; here is A, there is B: {fault}." for fault in shared.faults]
    warnings = ["FORCED: NOT ALIKE", *warnings] if warnings else []
    lacking = [note for one in (a, b) for note in one.notes[1:]]
    alone = found[0].alone
    left_out = f"Unpaired images, left out: {alone[0]} of A, {alone[1]} of B."
    return Grid(
        title=f"{shared.name}: A {called(a)} against B {called(b)}",
        headings=HEADINGS.split("|"),
        lines=[_line(one) for one in found],
        notes=[left_out] if any(alone) else [],
        warnings=[*warnings, *lacking],
        words=2,
        spare=SPARE,
    )


def called(one: Result) -> str:
    """A result by its label, or its folder."""
    return one.label or str(one.folder)


def _line(one: Compared) -> GridLine:
    c = one.change
    gain = c.difference
    known = math.isfinite(gain.stderr)
    texts = [
        c.metric,
        c.of,
        number(c.before.value),
        number(c.after.value),
        number(gain.value, "+"),
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
    return number(size)


def _seeds(a: Result, b: Result) -> list[str]:
    """What seeds the numbers are of, and how they are paired."""
    means = [note for one in (a, b) for note in one.notes[:1]]
    said = pair_seeds(a, b).said
    errors = (
        "Intervals and p have the error of seeds and of prompts in them, each with its own Student's t: few seeds, "
        "wide intervals."
    )
    return [*means, *([said] if said else []), *([errors] if means else [])]


def _two_ways(found: Sequence[Compared]) -> list[str]:
    """Said where an interval holds 0 beside a small p; beside a large one every interval does."""
    apart = [
        f"{one.change.metric} ({one.change.aggregate})"
        for one in found
        if one.change.significance.p < ALPHA
        and one.change.difference.low <= 0 <= one.change.difference.high
    ]
    if not apart:
        return []
    return [
        f"0 lies in the interval though p is below {ALPHA} for {', '.join(dict.fromkeys(apart))}: p is of flipped "
        "signs, the interval of an error clustered by prompt, which few or very unequal differences widen; take such "
        "a difference as unsettled."
    ]


def _legend(a: Result, b: Result, found: Sequence[Compared]) -> list[str]:
    tests = sum(math.isfinite(one.change.significance.p) for one in found)
    held_out = ["Held-out images of the policies at the end of the trainings."]
    return [
        *(held_out if a.kind == TRAINING else []),
        *_seeds(a, b),
        "Pairs: same prompt, same image index; A and B are over the images that both runs could score. Intervals: "
        "clustered by prompt, inside the metric's range; where tasks weigh alike, stratified by task.",
        f"p: signs of the prompts' differences flipped, all ways up to {EXACT} prompts that changed, else {FLIPS} "
        "seeded ways; with fewer than six prompts it cannot fall below 0.05.",
        f"p (Holm): corrected over the {tests} metrics of these tables; bold or * below 0.05.",
        *_two_ways(found),
        "smallest seen: a true difference of this size is found with 80% power at the 5% level, uncorrected; "
        "none: not even the largest one.",
        "wins, loses, ties: prompts, by the mean over their images.",
    ]


def records(a: Result, b: Result, found: Sequence[Compared]) -> list[dict[str, Any]]:
    """One record a metric, for CSV and JSON; what is unknown is None."""
    return [
        {
            "run_a": called(a),
            "run_b": called(b),
            "seeds_a": " ".join(map(str, a.seeds)),
            "seeds_b": " ".join(map(str, b.seeds)),
            "paired_by_seed": bool(a.seeds and b.seeds) and pair_seeds(a, b).same,
            "benchmark": one.shared.name,
            "metric": one.change.metric,
            "aggregate": one.change.aggregate.replace(" ", "_"),
            **{
                field: None if math.isnan(number) else number
                for field, number in (
                    ("a", one.change.before.value),
                    ("b", one.change.after.value),
                    ("difference", one.change.difference.value),
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
