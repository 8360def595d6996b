"""Networks that several rewards look through: one object a process, for as long as one of them is in use."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakValueDictionary

_Made = TypeVar("_Made")


def shared(make: Callable[..., _Made]) -> Callable[..., _Made]:
    """As `functools.cache`, but what nobody uses any more leaves the memory.

    Args:
        make: its arguments must be hashable, and what it makes must allow weak references.
    """
    made: WeakValueDictionary[Any, _Made] = WeakValueDictionary()

    @wraps(make)
    def once(*args: Any, **kwargs: Any) -> _Made:
        key = (args, tuple(sorted(kwargs.items())))
        found = made.get(key)
        if found is None:
            found = made[key] = make(*args, **kwargs)
        return found

    once.cache_clear = made.clear  # type: ignore[attr-defined]
    return once
