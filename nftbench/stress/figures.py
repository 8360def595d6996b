"""What a check of a stress test says: figures with intervals, and what may be said of them in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nftbench.stats.estimates import Estimate

NO_BASE = "there is no checkpoint to compare with; name one by --base"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A number with its 95% interval; NaN where that is unknown."""

    name: str
    value: float
    low: float
    high: float
    n: int
    """Images."""
    n_prompts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """One check of the card."""

    check: str
    seen: str
    """`yes`, `no`, `unclear` (too few prompts for an interval), `only shown` or `not run`."""
    verdict: str
    figures: tuple[Figure, ...] = ()


def not_run(check: str, why: str) -> CheckResult:
    """A check that could not be made."""
    return CheckResult(check=check, seen="not run", verdict=f"Not run: {why}.")


def only_shown(check: str, figures: Sequence[Figure]) -> CheckResult:
    """A check whose figures mean nothing by themselves."""
    verdict = f"Only shown, without a verdict: {NO_BASE}."
    return CheckResult(check=check, seen="only shown", verdict=verdict, figures=tuple(figures))


def figure(name: str, estimate: Estimate) -> Figure:
    """An estimate under a name."""
    return Figure(
        name=name,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        n_prompts=estimate.n_prompts,
    )


def verdict_of(what: str, found: Figure, down: str, up: str) -> tuple[str, str]:
    """Whether a difference is seen, and what may be said of it: nothing beyond its interval.

    Args:
        what: names the difference.
        found: the difference.
        down: what it may mean when all of the interval lies below 0.
        up: the same above 0.

    Returns:
        `CheckResult.seen` and `CheckResult.verdict`.
    """
    if math.isnan(found.low) or math.isnan(found.high):
        return "unclear", f"{what}: {found.value:+.3f}; too few prompts for an interval."
    span = f"{found.low:+.3f} to {found.high:+.3f}"
    if found.high < 0 or found.low > 0:
        way, meaning = ("down", down) if found.high < 0 else ("up", up)
        return "yes", f"{what}: {way} by {abs(found.value):.3f} ({span}); {meaning}."
    return (
        "no",
        f"{what}: no change seen ({span}); one as large as either end is not ruled out.",
    )
