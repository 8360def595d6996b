"""The validations of every run of a head-to-head as curves: screens thin, confirming runs thick, thresholds dotted.

Run: python -m tests.performance.head_to_head.plot OUT/result.json PICTURE.png
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLOURS = ("#0b6e4f", "#b3541e")


def drawn(found: dict[str, Any]) -> Figure:
    """The picture.

    Args:
        found: what `python -m tests.performance.head_to_head` wrote.
    """
    protocol = found["protocol"]
    sides = [name for name in found if name not in ("protocol", "table")]
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, colour in zip(sides, COLOURS, strict=True):
        side = found[name]
        screened = [one["points"] for one in side["screened"]]
        confirmed = [run["points"] for run in side["confirmed"].values()]
        label = f"{name}: {len(screened)} settings tried"
        _lines(axes, screened, label, color=colour, linewidth=0.7, alpha=0.45)
        label = f"{name}: the best of them, {len(confirmed)} new seeds"
        _lines(axes, confirmed, label, color=colour, linewidth=2.0)
    for threshold in protocol["thresholds"]:
        axes.axhline(threshold, color="#666666", linewidth=0.8, linestyle=":")
    axes.set_xlabel("images drawn for training")
    axes.set_ylabel(f"{protocol['metric']} of held-out captions")
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _lines(axes: Any, runs: Sequence[list[dict[str, float]]], label: str, **how: Any) -> None:
    for number, points in enumerate(runs):
        x, y = [p["images"] for p in points], [p["score"] for p in points]
        axes.plot(x, y, label="" if number else label, **how)


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    drawn(json.loads(given.result.read_text("utf-8"))).savefig(given.picture, dpi=110)


if __name__ == "__main__":
    main()
