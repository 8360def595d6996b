"""What a reward says of itself, looked at before it scores: a range that is none would show after all images."""

import math
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from rewards.base import RewardInfo, Weight

TEXTS = ("name", "variant", "summary", "licence", "source")


def faults(info: RewardInfo) -> Iterator[str]:
    """What `info` says that cannot be, in words: what is expected, and what came."""
    for field in TEXTS:
        if not isinstance(getattr(info, field), str):
            yield f"expected {field} to be a text, got {getattr(info, field)!r}"
    if not _range((info.low, info.high)):
        yield f"expected low and high to be two numbers, the lower first, got {info.low!r} and {info.high!r}"
    if info.ends is not None and not _range(info.ends):
        yield f"expected ends to be two numbers, the lower first, or None, got {info.ends!r}"
    if not _number(info.train_scale) or not 0 < info.train_scale < math.inf:
        yield f"expected train_scale to be a number above 0, got {info.train_scale!r}"
    if not isinstance(info.higher_is_better, bool):
        yield f"expected higher_is_better to be True or False, got {info.higher_is_better!r}"
    known = get_args(get_type_hints(RewardInfo)["needs"])
    if info.needs not in known:
        yield f"expected needs to be one of {', '.join(map(repr, known))}, got {info.needs!r}"
    for field, kind in (("weights", str), ("files", Weight)):
        listed = getattr(info, field)
        if not isinstance(listed, tuple) or not all(isinstance(one, kind) for one in listed):
            yield f"expected {field} to be a tuple of {kind.__name__}, got {listed!r}"


def _range(ends: Any) -> bool:
    return (
        isinstance(ends, tuple) and len(ends) == 2 and all(map(_number, ends)) and ends[0] < ends[1]
    )


def _number(value: Any) -> bool:
    """Whether JSON can hold it as a number: a numpy scalar of 32 bits it cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
