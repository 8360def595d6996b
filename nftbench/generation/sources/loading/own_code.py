"""Python that a checkpoint brings along, kept apart from every other checkpoint's."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import dynamic_modules_utils
from diffusers.utils.constants import DIFFUSERS_DYNAMIC_MODULE_NAME

_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Where copies lie that this process loaded; removed with it."""


@contextmanager
def code_apart() -> Iterator[None]:
    """Within the block diffusers copies a checkpoint's own code to a new folder, and imports it anew.

    By itself it copies the code of every folder to one place that all processes share, and under one module's name: of
    two checkpoints that are loaded at once, each may run the other's code, and one that was loaded before goes on with
    the constants and functions of the next.
    """
    before = dynamic_modules_utils.HF_MODULES_CACHE
    _forget(before)
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="nftbench-code-"))
    dynamic_modules_utils.HF_MODULES_CACHE = _FOLDERS[-1].name
    try:
        yield
    finally:
        dynamic_modules_utils.HF_MODULES_CACHE = before


def _forget(shared: str) -> None:
    """Have the name of such modules mean those that are loaded next; who holds older ones keeps them."""
    for name in [*sys.modules]:
        if name.partition(".")[0] == DIFFUSERS_DYNAMIC_MODULE_NAME:
            del sys.modules[name]
    folders = {shared, *(one.name for one in _FOLDERS)}
    sys.path[:] = [path for path in sys.path if path not in folders]
