"""One owner a folder: a run, a leaderboard or a cache entry is written by one process at a time.

The lock is the operating system's, so a process that dies, however it dies, lets go of it. A note beside it says who
holds it, for the message that another process ends with.
"""

import datetime
import errno
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nftbench.parsing import parse_json
from nftbench.runs.io import alive, make_folder, takes_nothing, write_atomic
from rewards.base import ConfigError

LOCK = ".lock"
PATIENCE = 600.0
"""Seconds that a process waits for others which hold a folder for a moment only."""
_POLL = 0.05
_GONE = 40
"""Looks in a row that find no lock to wait for, and get none: then the folder takes none."""
_COMMAND_LENGTH = 200


@contextmanager
def hold(folder: Path, *, part: str = "", brief: bool = False) -> Iterator[None]:
    """Hold a folder, or a part of it, against every other process.

    The folder is made where it is missing, and removed again if nothing came to lie in it. Whoever finds it held
    `brief`ly waits; otherwise it is refused at once.

    Args:
        folder: what is held.
        part: name of the part, such as a reward's key; empty is the whole. Parts and the whole do not exclude each
            other by themselves: see `refuse_held_parts`.
        brief: it is let go of after a moment, such as when rows are merged into a file.

    Raises:
        ConfigError: another process holds it; says which, its command and since when.
    """
    made = not folder.exists()
    lock = _acquired(folder, f"{LOCK}-{part}" if part else LOCK)
    try:
        write_atomic(_note(lock), json.dumps(_owner(brief)).encode(), durable=False)
        yield
    finally:
        # Removed while it is held: whoever waits for it sees that and makes another.
        for path in (_note(lock), Path(lock.lock_file)):
            with suppress(OSError):
                path.unlink()
        lock.release()
        if made:
            with suppress(OSError):
                folder.rmdir()


def refuse_held_parts(folder: Path) -> None:
    """Refuse to work on the whole of a folder while another process holds a part of it.

    Raises:
        ConfigError: names the part and who holds it.
    """
    for path in sorted(folder.glob(f"{LOCK}-*")):
        if path.suffix != ".json":
            with hold(folder, part=path.name.removeprefix(f"{LOCK}-")):
                pass


def new_folder(parent: Path, name: str) -> Path:
    """Make `parent/NAME-1`, or the first number that is free: of processes that ask at once each gets its own."""
    make_folder(parent)
    for number in itertools.count(1):
        path = parent / f"{name}-{number}"
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("there is always another number")


def _acquired(folder: Path, name: str) -> FileLock:
    end = time.monotonic() + PATIENCE
    gone = 0
    while True:
        make_folder(folder)
        lock = FileLock(folder / name)
        try:
            lock.acquire(timeout=0)
            return lock
        except FileNotFoundError:
            pass  # the folder was empty, and its last holder removed it
        except Timeout:
            owner = _owner_of(lock)
            if not owner.get("brief") or time.monotonic() > end:
                raise ConfigError(_in_use(folder, owner)) from None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR):
                raise
            raise ConfigError(
                f"{folder / name} is a link or a folder, and not a lock of nftbench; remove it"
            ) from None
        gone = 0 if Path(lock.lock_file).exists() else gone + 1
        if gone > _GONE:
            raise takes_nothing(folder)
        time.sleep(_POLL)


def _note(lock: FileLock) -> Path:
    return Path(f"{lock.lock_file}.json")


def _owner(brief: bool) -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command[:_COMMAND_LENGTH],
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "brief": brief,
    }


def _owner_of(lock: FileLock) -> dict[str, Any]:
    """What the holder says of itself.

    Until it has written that, what lies there is nothing, or the word of one that died: then it is `brief`.
    """
    try:
        owner = parse_json(_note(lock).read_bytes())
    except (OSError, ValueError):
        return {"brief": True}
    if not isinstance(owner, dict) or not isinstance(owner.get("pid"), int):
        return {"brief": True}
    if owner.get("host") == socket.gethostname() and not alive(owner["pid"]):
        return {"brief": True}
    return owner


def _in_use(folder: Path, owner: dict[str, Any]) -> str:
    if "pid" not in owner:
        return f"{folder} is in use by another process; wait until it has ended"
    where = "" if owner.get("host") == socket.gethostname() else f" on {owner.get('host')}"
    return (
        f"{folder} is in use by process {owner['pid']}{where} ({owner.get('command')}, since {owner.get('since')}); "
        "wait until it has ended, or choose another folder"
    )
