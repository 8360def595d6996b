"""What other people's code raises when it is asked for what it cannot do, as one line for the user."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from rewards.base import ConfigError

OURS = ("nftbench", "rewards")
"""Packages whose errors say already what they have to say."""


def said_by(error: BaseException) -> str:
    """An error in one line: its kind, and the beginning of its words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class ForeignErrors(AbstractContextManager):
    """Turns every error of other people's code within the block into one line.

    Libraries raise anything, by no list that could be written down: tokenizers that are written in Rust and some
    pipelines of diffusers a bare `Exception`, chat templates and old pickles classes of their own. What this project
    raises itself passes, and so do interrupts and a host's full memory.
    """

    def __init__(
        self, said: Callable[[Exception], ConfigError], *, but: tuple[type[Exception], ...] = ()
    ) -> None:
        """Nothing has happened yet.

        Args:
            said: what is raised instead.
            but: errors that pass as well, for somebody outside helps himself.
        """
        self._said, self._but = said, (MemoryError, *but)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object):
        if not isinstance(error, Exception) or isinstance(error, self._but):
            return
        if type(error).__module__.partition(".")[0] not in OURS:
            raise self._said(error) from error
