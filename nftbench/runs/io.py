"""Files of a run: written whole or not at all, read whole or refused with the reason."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow
from pyarrow.parquet import ParquetFile
from pyarrow.parquet import write_table as write_parquet

from nftbench.parsing import parse_json
from rewards.base import ConfigError

TEMPORARY = re.compile(r"\.nftbench-(?P<host>.+)-(?P<pid>[0-9]{1,10})-[0-9a-f]{8}\.tmp")
OLD = ".old"
"""Ending of a folder that stood aside while another took its place."""
_RETRIES = 100
CONTENT = "nftbench:content"
"""Name of what a table's file says of its values: their digest."""
ATTRS = b"PANDAS_ATTRS"
"""Where pandas keeps it: who reads the file, changes a value and writes it by pandas takes the old digest along."""
TEXTS = {
    kind: pd.StringDtype(na_value=np.nan) for kind in (pyarrow.string(), pyarrow.large_string())
}
"""How pandas keeps texts, by what Arrow calls them: of a table that pandas did not make they would be objects."""
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS)
"""What file systems say that know no such waiting."""


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file; its folder is made where it is missing.
        data: all of it.
        durable: once this returns, the file outlives a loss of power. Without it a file may then be empty: only for
            what is checked against a digest before it is used.

    Raises:
        ConfigError: a device or a pipe lies there, such as /dev/null, whose place no file may take.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"{path} is a device or a pipe; expected the path of a file")
    make_folder(path.parent)
    temporary = temporary_path(path)
    try:
        with _said_of(path):
            temporary.write_bytes(data)
            if durable:
                sync(temporary)
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync(path.parent)


def followed(path: Path) -> Path:
    """Where a path that the user named leads: what a link stands for is written, and the link stays.

    Of paths within a run this is not asked: a link in a run that came from elsewhere could lead anywhere.
    """
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def whole_folder(
    path: Path, *, aside: str = f"{{name}}{OLD}", durable: bool = True
) -> Iterator[Path]:
    """Make a folder whole or not at all; once the block ends without an error it outlives a loss of power.

    An older folder of that name stands aside for the moment between two renames: a process that dies just then leaves
    that one, and never neither. Of two processes that write the same folder at once the later one's stays.

    Args:
        path: where it will be.
        aside: what the older one is called then; a folder of that name is taken for one that stood aside.
        durable: without it the folder may be damaged by a loss of power: only for what can be made again.

    Yields:
        An empty folder beside it, to be filled.
    """
    make_folder(path.parent)
    temporary, old = temporary_path(path), path.with_name(aside.format(name=path.name))
    for left in path.parent.glob(f".nftbench-*-{_which(path)}.tmp"):
        _sweep(left)
    with _said_of(path):
        temporary.mkdir()
    try:
        yield temporary
        for one in (*temporary.rglob("*"), temporary) if durable else ():
            sync(one)
        _take_place(temporary, path, old)
        if durable:
            sync(path.parent)
        _remove(old)
    finally:
        _remove(temporary)


def _take_place(new: Path, path: Path, old: Path) -> None:
    """Rename `new` to `path`, and what lies there to `old`; another process may do the same at any moment."""
    for _ in range(_RETRIES):
        try:
            if path.exists():
                _remove(old)
                path.rename(old)
            new.rename(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
        time.sleep(0.01)
    raise ConfigError(f"{path} is being written by another process; run the same command again")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they outlive a loss of power.

    Raises:
        ConfigError: a link lies there that leads nowhere, such as to a disk that is not there now.
    """
    if folder.is_dir():
        return
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for one in reversed(missing):
        if one.is_symlink():
            raise ConfigError(
                f"{one} is a link to {os.readlink(one)}, which is not there; make that, or choose another folder"
            )
        try:
            one.mkdir(exist_ok=True)
        except FileNotFoundError:
            if not one.parent.exists():
                raise
            raise takes_nothing(one) from None
        sync(one.parent)


def takes_nothing(path: Path) -> PermissionError:
    """What a file system that takes no files, such as /proc, means where it says that there is none of this name."""
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """What goes wrong is said of the path that was to be written, and not of the temporary one beside it."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT and path.parent.exists():
            raise takes_nothing(path) from None
        error.filename, error.filename2 = str(path), None
        raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except PermissionError:  # of a folder on Windows
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(opened)


def temporary_path(path: Path) -> Path:
    """Where a file or folder is made before it is renamed to its place: beside it, named after this process."""
    return path.with_name(f".nftbench-{_host()}-{os.getpid()}-{_which(path)}.tmp")


def _which(path: Path) -> str:
    return hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:8]


def sweep(folder: Path) -> None:
    """Remove what processes that have died left half written; nothing of living ones, and no file of a user's own."""
    for path in folder.rglob(".nftbench-*.tmp"):
        _sweep(path)


def _sweep(path: Path) -> None:
    found = TEMPORARY.fullmatch(path.name)
    if found is None or found["host"] != _host():
        return
    pid = int(found["pid"])
    if pid == os.getpid() or not alive(pid):
        _remove(path)


def alive(pid: int) -> bool:
    """Whether a process of this machine still runs; one that ended and was not collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _host() -> str:
    return "".join(c if c.isalnum() else "." for c in socket.gethostname())[:64]


def write_table(path: Path, table: pd.DataFrame | pyarrow.Table) -> None:
    """Write a parquet file whole or not at all, and note in it what it holds, so that damage is seen."""
    columns = (
        pyarrow.Table.from_pandas(table, preserve_index=False)
        if isinstance(table, pd.DataFrame)
        else table
    )
    noted = {ATTRS: json.dumps({CONTENT: _content(columns)}).encode()}
    file = pyarrow.BufferOutputStream()
    write_parquet(columns.replace_schema_metadata((columns.schema.metadata or {}) | noted), file)
    write_atomic(path, file.getvalue().to_pybytes())


def read_table(path: Path, *, remedy: str) -> pd.DataFrame:
    """A parquet file, as `read_columns` reads it, for pandas."""
    columns = read_columns(path, remedy=remedy)
    with _unbroken(path, remedy):
        return as_frame(columns)


def read_columns(path: Path, *, remedy: str) -> pyarrow.Table:
    """A parquet file.

    Args:
        path: the file.
        remedy: what to do when it is missing or broken, such as `run: nftbench score RUN`.

    Raises:
        ConfigError: it is not there, is not a whole parquet file, or holds other values than were written.
    """
    with _unbroken(path, remedy):
        with ParquetFile(path) as file:  # `read_parquet` looks for a dataset: twice as long
            columns = file.read()
        kept = parse_json((columns.schema.metadata or {}).get(ATTRS, b"{}"))
    noted = kept.get(CONTENT) if isinstance(kept, dict) else None
    if noted not in (None, _content(columns)):
        raise ConfigError(f"{path} is damaged: it holds other values than were written; {remedy}")
    return columns


@contextmanager
def _unbroken(path: Path, remedy: str) -> Iterator[None]:
    """Say in one line what is wrong with a file that cannot be read within the block."""
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing; {remedy}") from None
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is broken: {error}; {remedy}") from None


def as_frame(columns: pyarrow.Table) -> pd.DataFrame:
    """A table for pandas, texts as pandas keeps them by itself."""
    table = columns.to_pandas(types_mapper=TEXTS.get)
    table.attrs.clear()
    return table


def _content(columns: pyarrow.Table) -> str:
    """Digest of a table's columns and values; what is missing is missing, a NaN among them."""
    digest = hashlib.sha256()
    for name, column in zip(columns.column_names, columns.columns, strict=True):
        digest.update(json.dumps([name, column.to_pylist()], default=str).encode())
    return digest.hexdigest()
