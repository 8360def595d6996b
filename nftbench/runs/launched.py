"""Whether torchrun or `accelerate launch` started this process, told by its environment; nothing heavy is imported."""

import os


class OthersEnded(Exception):
    """A process that shares this work is gone; what was done is kept."""


def launched() -> tuple[int, int]:
    """This process's rank, and how many were started together; (0, 1) where it is alone."""
    try:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
    return (rank, count) if count > 1 else (0, 1)
