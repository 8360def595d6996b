"""How tables name what they show."""

MEANS = {"task_mean": "task mean", "image_mean": "image mean"}
"""Aggregates over a whole benchmark, and how they are shown; all others are `task:NAME`."""


def aggregate_name(aggregate: str) -> str:
    """An aggregate in words: `task mean` of `task_mean`, `two object` of `task:two_object`."""
    return MEANS.get(aggregate, aggregate.removeprefix("task:").replace("_", " "))
