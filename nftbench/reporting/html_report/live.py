"""The report of runs that still go on, served to this machine alone and made anew whenever a run has moved.

Read only: nothing is written into a run, and nothing of the machine but the report is served.
"""

import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nftbench.benchmark.registry import choose, load_benchmark
from nftbench.reporting.html_report.build import write_report
from nftbench.reporting.html_report.data import LETTERS
from nftbench.reporting.results import ROWS, read_result
from nftbench.runs.manifest import MANIFEST
from nftbench.runs.run_folder import Run
from nftbench.runs.seeds import SEEDS, folder_of, is_parent, seeds_of
from nftbench.training.callbacks.metrics_log import HELD_OUT, METRICS
from rewards.base import ConfigError

HOST = "127.0.0.1"
STATE = "/state.json"
"""Where the page asks whether it is still the newest."""


def runs_below(folder: Path) -> list[Path]:
    """A run itself, or the runs that lie in a folder: the newest ones, as many as a report can tell apart.

    Raises:
        ConfigError: no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder}; expected a run, or a folder of runs such as runs/")
    if _is_run(folder):
        return [folder]
    found = [path for path in folder.iterdir() if _is_run(path)]
    newest = sorted(found, key=lambda path: _moved(path)[-1:], reverse=True)[: len(LETTERS)]
    return sorted(newest)


def _is_run(folder: Path) -> bool:
    return is_parent(folder) or (folder / MANIFEST).is_file() or (folder / METRICS).is_file()


def _runs_in(folder: Path) -> list[Path]:
    """A run, or those of a parent that have begun."""
    if not is_parent(folder):
        return [folder]
    return [run for s in seeds_of(folder) if (run := folder_of(folder, s)).is_dir()]


def _moved(folder: Path) -> tuple[int, ...]:
    """Times of what a run appends to or replaces, in nanoseconds, the latest one last."""
    files = [run / name for run in _runs_in(folder) for name in (MANIFEST, METRICS, ROWS)]
    files += sorted(folder.glob(f"{HELD_OUT}/*.parquet"))
    times = [path.stat().st_mtime_ns for path in [*files, folder / SEEDS] if path.is_file()]
    return tuple(sorted(times))


def progress_of(folder: Path) -> list[str]:
    """What evaluations that are not finished have done so far, and seeds that wait; nothing of every other run."""
    return [words for run in _runs_in(folder) if (words := _progress(run, folder))]


def _progress(run: Path, folder: Path) -> str:
    if not (run / MANIFEST).is_file() or (run / ROWS).is_file():
        return ""
    name = run.name if run == folder else f"{folder.name}, {run.name}"
    images = sum(1 for _ in run.glob("*/images/*.png"))
    scored = len({path.parent.name for path in run.glob("*/scores/*/*.parquet")})
    return (
        f"{name}: evaluation under way, {images}{_wanted(run)} images made, {scored} rewards begun"
    )


def _wanted(run: Path) -> str:
    """` of N`, where the prompts of its benchmarks are here to be counted."""
    try:
        protocols = Run.open(run).protocols().values()
        prompts = [choose(load_benchmark(p.benchmark).load(), p.limit) for p in protocols]
    except ConfigError:
        return ""
    images = [len(some) * p.images_per_prompt for some, p in zip(prompts, protocols, strict=True)]
    return f" of {sum(images)}"


def _readable(folder: Path) -> bool:
    """Whether there is anything to show of it."""
    try:
        result = read_result(folder, whole=False)
    except ConfigError:
        return False
    return bool(result.seeds) or not progress_of(folder)


class LivePage:
    """The newest report of some runs, in a temporary folder of its own."""

    def __init__(self, find: Callable[[], Sequence[Path]], folder: Path) -> None:
        self._find, self._folder = find, folder
        self._seen: Any = None
        self.version = 0
        self.problem = ""

    @property
    def current(self) -> Path:
        """The folder that is served."""
        return self._folder / str(self.version)

    @property
    def state(self) -> dict[str, Any]:
        """What the page is told: the newest version, runs under way, and why a new one could not be made."""
        under_way = []
        with suppress(ConfigError, OSError):  # a run that went away: the next look says so
            under_way = [words for run in self._find() for words in progress_of(run)]
        return {"version": self.version, "under_way": under_way, "problem": self.problem}

    def refresh(self) -> bool:
        """Make the page anew if a run has moved; the old one stays where that cannot be done yet.

        Returns:
            Whether there is a new page.
        """
        try:
            runs = [run for run in self._find() if _readable(run)]
            seen = [(run, _moved(run)) for run in runs]
        except (ConfigError, OSError) as error:  # moved or removed meanwhile: it may come back
            self.problem, self._seen = str(error), None
            return False
        if seen == self._seen or not runs:
            return False
        self._seen, new = seen, self._folder / str(self.version + 1)
        try:
            write_report(runs, new, lambda *_: None, live=True)
        except (ConfigError, OSError) as error:  # a run in the middle of a write, or a broken one
            self.problem = str(error)
            shutil.rmtree(new, ignore_errors=True)
            return False
        self.version, self.problem = self.version + 1, ""
        shutil.rmtree(self._folder / str(self.version - 2), ignore_errors=True)
        return True


class _Handler(SimpleHTTPRequestHandler):
    """GET and HEAD of the report's own files, for pages of this machine."""

    def __init__(self, page: LivePage, *arguments: Any) -> None:
        self._page = page
        super().__init__(*arguments, directory=str(page.current))

    def do_GET(self) -> None:
        """A file of the report, or the state."""
        if not self._from_here():
            self.send_error(403, "only pages of this machine are answered")
        elif self.path == STATE:
            self._send_state()
        elif self._page.version == 0 and self.path == "/":
            self._waiting()
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        """As GET, without a body."""
        if self._from_here():
            super().do_HEAD()
        else:
            self.send_error(403, "only pages of this machine are answered")

    def _from_here(self) -> bool:
        """A page of another site that had its name point to this machine says so in `Host`."""
        name = self.headers.get("Host", "").rpartition(":")[0]
        return name in (HOST, "localhost")

    def _send_state(self) -> None:
        self._send(json.dumps(self._page.state).encode(), "application/json")

    def _waiting(self) -> None:
        text = b'<!doctype html><meta http-equiv="refresh" content="2"><title>nftbench</title><p>No finished run yet.'
        self._send(text, "text/html; charset=utf-8")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        """Nothing is kept by the browser: the next page has the same address."""
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        """A folder is not shown."""
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Requests are not worth a line each."""


@contextmanager
def serving(folders: Sequence[Path], port: int, every: float) -> Iterator[str]:
    """Serve the report of runs while the block runs.

    Args:
        folders: runs, or folders of runs; runs that come later are found too.
        port: of this machine; 0 takes a free one.
        every: seconds between two looks at the runs.

    Yields:
        The page's address.

    Raises:
        ConfigError: no such folder, or a port that is taken.
    """

    def find() -> list[Path]:
        found = [run for folder in folders for run in runs_below(folder)]
        return list(dict.fromkeys(found))[: len(LETTERS)]

    find()
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="nftbench-view-") as folder:
        page = LivePage(find, Path(folder))
        try:
            server = ThreadingHTTPServer((HOST, port), partial(_Handler, page))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used: {error.strerror}; name another --port"
            ) from None
        page.refresh()
        keeper = threading.Thread(target=_keep, args=(page, stop, every), daemon=True)
        threads = [threading.Thread(target=server.serve_forever, daemon=True), keeper]
        for thread in threads:
            thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}/"
        finally:
            stop.set()
            server.shutdown()
            server.server_close()
            for thread in threads:
                thread.join()


def _keep(page: LivePage, stop: threading.Event, every: float) -> None:
    while not stop.wait(every):
        page.refresh()
