"""The card of a stress test: one page of verdicts and figures, for people and for programs. Pure but for `save`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nftbench.reporting.tables.grid import Grid, GridCell, GridLine
from nftbench.reporting.tables.text_tables import render
from nftbench.runs.io import write_atomic
from nftbench.stress.figures import CheckResult, Figure

NOTE = (
    "Every interval is a 95% one on its own, clustered by prompt: of twenty such lines about one shows a change where "
    "there is none. A line says what was seen; why it is so, only the images can tell."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What was stressed, and what came out."""

    checkpoint: str
    base: str | None
    benchmark: str
    metric: str
    """Column that the figures are of where their check names no other."""
    effort: Mapping[str, Any]
    missing: Mapping[str, str]
    """Rewards that could not score, and why."""
    lines: Sequence[CheckResult]


def grids(card: Card) -> list[Grid]:
    """The card as two tables: the verdicts, and the figures it rests on."""
    beside = f", beside {card.base}" if card.base else ""
    lost = [f"{key} could not score: {why}" for key, why in card.missing.items()]
    verdicts = Grid(
        title=f"{card.checkpoint} under stress on {card.benchmark}{beside}",
        headings=("check", "change seen", "verdict"),
        lines=[
            GridLine(cells=[GridCell(n.check), GridCell(n.seen), GridCell(n.verdict)])
            for n in card.lines
        ],
        notes=[NOTE, *lost],
        words=3,
        prose=("check", "change seen", "verdict"),
    )
    figures = [
        GridLine(
            cells=[GridCell(t) for t in (line.check if place == 0 else "", *_texts(one))],
            rule=place == 0,
        )
        for line in card.lines
        for place, one in enumerate(line.figures)
    ]
    headings = ("check", "figure", "value", "95% interval", "images", "prompts")
    title = f"Figures; of {card.metric} where nothing else is named"
    more = Grid(
        title=title,
        headings=headings,
        lines=figures,
        words=2,
        prose=("check", "figure"),
        spare=("prompts", "images"),
    )
    return [verdicts, more]


def _texts(one: Figure) -> tuple[str, ...]:
    unknown = math.isnan(one.low) or math.isnan(one.high)
    span = "" if unknown else f"{one.low:.3f} to {one.high:.3f}"
    return one.name, f"{one.value:.3f}", span, str(one.n), str(one.n_prompts)


def save(folder: Path, card: Card) -> None:
    """Write `card.md` and `card.json`, each whole or not at all; the same images give the same bytes."""
    write_atomic(folder / "card.md", render("markdown", grids(card), []).encode())
    text = json.dumps(_plain(asdict(card)), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / "card.json", f"{text}\n".encode())


def _plain(value: Any) -> Any:
    """JSON knows no NaN: what is unknown is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
