"""How tables name what they show, and write its numbers."""

import math

MEANS = {"task_mean": "task mean", "image_mean": "image mean"}
"""Aggregates over a whole benchmark, and how they are shown; all others are `task:NAME`."""


def aggregate_name(aggregate: str) -> str:
    """An aggregate in words: `task mean` of `task_mean`, `two object` of `task:two_object`."""
    return MEANS.get(aggregate, aggregate.removeprefix("task:").replace("_", " "))


def number(value: float, sign: str = "") -> str:
    """A number as every table shows it: three decimals, `none` where there is none; `+` as sign shows that too."""
    return f"{value:{sign}.3f}" if math.isfinite(value) else "none"
