"""What a published number was drawn and counted by, as far as it is told: what ours must share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.schema import Protocol
from nftbench.benchmark.suites import Column, Suite
from nftbench.runs.row_files import (
    Entry,
    stated,
)
from nftbench.runs.rows import MAX_FAILED, Row

FIELDS = (
    "height",
    "width",
    "num_inference_steps",
    "solver",
    "guidance_scale",
    "max_sequence_length",
    "images_per_prompt",
    "limit",
    "version",
    "prompts_sha256",
)
"""Of a protocol: what a published number can be held against. Seeds nobody tells, and they move no mean."""
FURTHER = ("variant", "aggregate", "jpeg_quality", "cfg")
OPEN = "?"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a cell must be drawn and counted by."""

    fields: Mapping[str, Any]
    """`FIELDS` and `FURTHER`, those that are told."""
    open: tuple[str, ...]
    """Those that the paper leaves open."""
    derived: tuple[str, ...] = ()
    """Those that follow from other sources: the paper does not say them itself."""

    def faults(self, protocol: Protocol, row: Row | None = None) -> tuple[str, ...]:
        """Where ours differs: `guidance_scale (1.0, 4.5)`, ours before theirs.

        Args:
            protocol: ours.
            row: ours; None asks of the images alone.
        """
        ours: dict[str, Any] = {field: getattr(protocol, field) for field in FIELDS}
        ours["solver"] = protocol.solver_name or "not recorded"
        ours |= {"jpeg_quality": None, "cfg": "off" if protocol.guidance_scale == 1 else "on"}
        if row:
            ours |= {"variant": row.variant, "aggregate": row.aggregate}
        return tuple(
            f"{field} ({_word(ours[field])}, {_word(theirs)}{' derived' * (field in self.derived)})"
            for field, theirs in self.fields.items()
            if field in ours and comparable(ours[field]) != comparable(theirs)
        ) + _unscored(row)


def wanted(
    suite: Suite,
    column: Column,
    settings: Mapping[str, Any],
    entry: Entry | None,
    free: frozenset[str] = frozenset(),
) -> Wanted:
    """What the suite, the line and the published number together ask of a cell; the latter ones come first.

    Args:
        suite: its settings hold for all cells.
        column: its settings hold for this cell.
        settings: of the line.
        entry: the published number, if there is one.
        free: fields that may be anything.
    """
    fixed = suite.settings.given | dict(settings) | column.settings.given
    protocol = load_benchmark(column.benchmark).protocol(**fixed)
    fields: dict[str, Any] = {field: getattr(protocol, field) for field in FIELDS}
    fields = {k: v for k, v in fields.items() if v is not None or k == "limit"}  # left to the model
    if not protocol.prompts_sha256:  # neither pinned nor fetched
        del fields["prompts_sha256"]
    fields |= {"variant": column.variant, "aggregate": column.aggregate}
    said = stated(entry.row.settings) if entry else {}
    if entry:
        fields["aggregate"] = said.get("aggregation", entry.row.aggregate)
        fields |= {k: v for k, v in said.items() if k in FIELDS + FURTHER}
    told = {k: v for k, v in fields.items() if v != OPEN and k not in free}
    left = tuple(k for k, v in fields.items() if v == OPEN)
    return Wanted(told, left, tuple(said.get("derived", "").split(",")))


def comparable(value: Any) -> Any:
    """A value as it compares: `4.5`, 4.5 and `none`, None are each the same."""
    if value in (None, "none"):
        return None
    try:
        return float(value)
    except ValueError:
        return value


def _unscored(row: Row | None) -> tuple[str, ...]:
    """A number over half of the images is not one of the benchmark."""
    failed, images = (row.n_failed or 0, (row.n or 0) + (row.n_failed or 0)) if row else (0, 0)
    if failed <= MAX_FAILED * images:
        return ()
    return (f"images without a score ({failed} of {images}, at most {MAX_FAILED:.0%})",)


def _word(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:8] if len(text) == 64 else text
