"""Weights that stand in for published files, so that a reward is loaded by its key without a download.

Certificates and measurements use it: everything but the numbers in the network is what a user gets from
`rewards.load_reward`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

Maker = Callable[[], Any]
"""Gives what reading the published file would give."""

_active: ContextVar[tuple[str, Mapping[str, Maker | Path]] | None] = ContextVar(
    "stand_ins", default=None
)


@contextmanager
def standing_in(label: str, makers: Mapping[str, Maker | Path]) -> Iterator[None]:
    """Within the block, files of weights are what `makers` give.

    Args:
        label: tells these stand-ins from others in whatever holds loaded networks.
        makers: `Weight.name` -> its content, or another file.
    """
    token = _active.set((label, makers))
    try:
        yield
    finally:
        _active.reset(token)


def stand_in(name: str) -> Path | None:
    """The file that stands in for a weight now; None where none does."""
    label, makers = _active.get() or ("", {})
    if name not in makers:
        return None
    maker = makers[name]
    return maker if isinstance(maker, Path) else Path(f"<{label}>", name)


def content_of(path: Path) -> Any | None:
    """What stands in for the content of a file; None for a true file."""
    label, makers = _active.get() or ("", {})
    if not path.parts or path.parts[0] != f"<{label}>":
        return None
    maker = makers[Path(*path.parts[1:]).as_posix()]
    assert not isinstance(maker, Path), "a file stands in for itself"
    return maker()


def made(name: str) -> Any | None:
    """What stands in for a thing that is no file, such as `engine rapidocr`; None where nothing does."""
    maker = (_active.get() or ("", {}))[1].get(name)
    return None if maker is None or isinstance(maker, Path) else maker()
