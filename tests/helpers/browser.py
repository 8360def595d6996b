"""A real browser, wherever the tests' temporary folders are."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium without a window; the test is skipped where there is none.

    It keeps a socket in its temporary folder, and a socket's path has at most 107 characters: so that folder is /tmp,
    however long the path is that pytest's folders are below.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as driver:
        if not found and not Path(driver.chromium.executable_path).is_file():
            pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
        opened = driver.chromium.launch(
            executable_path=found, args=["--no-sandbox"], env={**os.environ, "TMPDIR": "/tmp"}
        )
        yield opened
        opened.close()
