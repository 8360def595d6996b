"""What a head-to-head gave, in lines: every run, and the ratios of what the two sides paid."""

from collections.abc import Sequence
from typing import Any

import numpy as np

COSTS = ("images", "cpu_seconds", "network_calls")


def lines_of(found: dict[str, Any], thresholds: Sequence[float]) -> list[str]:
    """Every run in a line; what did not cross as more than it was given."""
    lines = []
    for side, of in found.items():
        for one in of["screened"]:
            chosen = " (chosen)" if one["settings"] == of["best"] else ""
            why = one["points"][-1].get("failed")
            failed = f" (failed: {why})" if why else ""
            lines.append(
                f"{side} screen {one['points'][-1]['score']:.3f} {one['settings']}{chosen}{failed}"
            )
    for threshold in map(str, thresholds):
        for side, of in found.items():
            for seed, run in of["confirmed"].items():
                costs = [_cost(run, threshold, key) for key in COSTS]
                told = ", ".join(f"{_told(c)} {k}" for c, k in zip(costs, COSTS, strict=True))
                lines.append(f"{threshold} {side} seed {seed}: {told}")
    return lines


def _cost(run: dict[str, Any], threshold: str, key: str) -> tuple[float, bool]:
    """What a run paid, and whether it crossed; what it spent where it did not."""
    crossed = run[threshold]
    return (crossed[key], True) if crossed else (run["spent"][key], False)


def _told(cost: tuple[float, bool]) -> str:
    value, crossed = cost
    return f"{'' if crossed else '> '}{value:,.0f}"


def ratios(found: dict[str, Any], thresholds: Sequence[float]) -> list[str]:
    """Lines of the second side's cost over the first's: of the medians, and its range over all pairs of seeds.

    A censored run costs more than it spent: so a ratio with one above is more than it says, with one below less, and
    with one in both nothing.
    """
    one, other = found
    lines = []
    for threshold in map(str, thresholds):
        runs = {name: list(found[name]["confirmed"].values()) for name in found}
        crossed = {name: sum(bool(run[threshold]) for run in of) for name, of in runs.items()}
        told = ", ".join(f"{n} {crossed[n]} of {len(of)} crossed" for n, of in runs.items())
        if not all(runs.values()) or not any(crossed.values()):
            lines.append(f"{threshold}: {told}: no ratio")
            continue
        for key in COSTS:
            mine, theirs = ([_cost(run, threshold, key) for run in runs[n]] for n in (one, other))
            pairs = [_ratio(b, a) for a in mine for b in theirs]
            known = sorted((pair for pair in pairs if pair), key=lambda pair: pair[1])
            ends = f"{_shown(known[0])} to {_shown(known[-1])}"
            middle = _ratio(_median(theirs), _median(mine))
            lines.append(
                f"{threshold}: {key} {other} / {one} = {_shown(middle) if middle else 'unknown'} ({ends}); {told}"
            )
    return lines


def _median(costs: Sequence[tuple[float, bool]]) -> tuple[float, bool]:
    """The middle cost, censored ones above all others; of an even number the mean of two, censored if either is."""
    ranked = sorted(costs, key=lambda cost: (not cost[1], cost[0]))
    middle = ranked[(len(ranked) - 1) // 2 : len(ranked) // 2 + 1]
    return float(np.mean([c for c, _ in middle])), all(crossed for _, crossed in middle)


def _ratio(above: tuple[float, bool], below: tuple[float, bool]) -> tuple[str, float] | None:
    """(sign, number): `>` where only the one above is censored, `<` where only the one below; None where both are."""
    if not above[1] and not below[1]:
        return None
    sign = "" if above[1] and below[1] else "<" if above[1] else ">"
    return sign, above[0] / below[0]


def _shown(ratio: tuple[str, float]) -> str:
    return f"{ratio[0]}{ratio[1]:.2f}"
