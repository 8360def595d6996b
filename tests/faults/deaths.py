"""How a process of a trial dies: at an operation on a folder, or in the middle of a file."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nftbench.runs.io import temporary_path

WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
"""Audit events of what changes a folder."""


def die_at(number: int, folder: Path) -> Callable[[], None]:
    """SIGKILL before the n-th operation (from 0) that changes something in a folder; None counts alone."""

    def arrange() -> None:
        seen = 0
        mine = _names(folder)

        def hook(event: str, arguments: tuple) -> None:
            nonlocal seen
            if (
                event in WRITES
                and _changes(event, arguments)
                and any(name in _path(arguments) for name in mine)
            ):
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                    time.sleep(60)
                seen += 1

        sys.addaudithook(hook)

    return arrange


def count_operations(folder: Path, into: Path) -> Callable[[], None]:
    """Write how many operations change something in a folder."""

    def arrange() -> None:
        handle = os.open(into, os.O_CREAT | os.O_WRONLY)
        mine = _names(folder)

        def hook(event: str, arguments: tuple) -> None:
            if (
                event in WRITES
                and _changes(event, arguments)
                and any(name in _path(arguments) for name in mine)
            ):
                os.write(handle, b"x")

        sys.addaudithook(hook)

    return arrange


def _names(folder: Path) -> tuple[str, str]:
    """By which a path is the folder's, or of what is made beside it to be renamed into its place."""
    return str(folder), temporary_path(folder).name.rsplit("-", 1)[1]


def _changes(event: str, arguments: tuple) -> bool:
    """Whether it does; files that are opened to be read do not, folders that are opened to be synchronised count."""
    mode = arguments[1] if event == "open" and len(arguments) > 1 else "w"
    return mode is None or bool(set(str(mode)) & set("wax+"))


def _path(arguments: tuple) -> str:
    named = arguments[0] if arguments else ""
    return os.fsdecode(named) if isinstance(named, str | bytes | os.PathLike) else ""


def half_a_write(number: int) -> Callable[[], None]:
    """SIGKILL when half of the n-th file (from 0) is written."""

    def arrange() -> None:
        written, original = 0, Path.write_bytes

        def write_bytes(path: Path, data: bytes) -> int:
            nonlocal written
            if written == number:
                original(path, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)
            written += 1
            return original(path, data)

        Path.write_bytes = write_bytes

    return arrange
