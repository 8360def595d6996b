"""What tests share: surroundings that are the same anywhere, the pocket policy, commands in processes of their own."""

import multiprocessing
import multiprocessing.util
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers.servers.file_server import serving

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is first imported
os.environ["PYTHONUTF8"] = "1"  # of the commands that tests start, whatever the locale
# One thread, before torch is first imported: the last bits of a sum depend on how many threads share it, and several
# that wait for each other crawl where other work holds the cores. Use `-n` for more cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "CUDA_VISIBLE_DEVICES", ""
)  # numbers are a CPU's anywhere; tests/gpu says how to show one

SLOW = [HealthCheck.too_slow]
settings.register_profile(  # other work on the machine is no failure
    "house", deadline=None, suppress_health_check=SLOW
)
settings.load_profile("house")

CHILD = """
import os, sys
os.chdir({cwd!r})
os.environ.update({environment!r})
for number, path in ((1, {out!r}), (2, {err!r})):
    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644), number)
"""
COMMAND = """
sys.argv = ["nftbench", *{arguments!r}]
from nftbench.cli.main import main
main()
"""


@dataclass
class Command:
    """`nftbench ARGUMENTS`, or other code, in its own process, its output in files."""

    process: multiprocessing.Process
    out: Path
    err: Path

    def finish(self) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self.process.join(300)
        assert self.process.exitcode is not None, "the command did not end"
        return self.process.exitcode, self.out.read_text("utf-8"), self.err.read_text("utf-8")

    def signal_when(self, ready: Callable[[], bool], signal: int) -> bool:
        """Send a signal as soon as something has come about; False when the command ended first."""
        while self.process.is_alive():
            if ready():
                os.kill(self.process.pid, signal)
                return True
            time.sleep(0.002)
        return False


SOCKET_PATH = 107
"""Bytes that the path of a Unix socket may have (sockaddr_un)."""


def _short_folder_for_sockets() -> None:
    """Have multiprocessing's sockets in /tmp where TMPDIR is too long a path for one."""
    if (
        len(os.fsencode(tempfile.gettempdir())) + len("/pymp-12345678/listener-12345678")
        <= SOCKET_PATH
    ):
        return
    usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        multiprocessing.util.get_temp_dir()  # made once a process, and removed at its end
    finally:
        tempfile.tempdir = usual


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: a worker takes up to 4 GiB with the commands it starts."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(os.cpu_count() or 1, memory // 2**32))


def pytest_configure(config: pytest.Config) -> None:
    """Have `--dist loadfile` hand files out as `pytest_collection_modifyitems` orders them, not by number of tests."""
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist is there
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several workers: files of slow tests first, since a long one at the end keeps one worker alone."""
    if not hasattr(config, "workerinput"):
        return
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    size = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -size[item.path]))


@pytest.fixture(scope="session")
def forks():
    """A server that has imported torch once and forks a fresh process for every command."""
    _short_folder_for_sockets()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "nftbench.commands",
            "nftbench.reporting.tables.summary_tables",
            "nftbench.reporting.leaderboard.board",
        ]
    )
    return context


@pytest.fixture
def start_code(forks, tmp_path):
    """`start_code(text)` starts Python code in `tmp_path`, with more in its environment if asked."""
    started = []

    def run(code: str, environment: dict[str, str] | None = None) -> Command:
        out, err = (tmp_path / f".{len(started)}.{name}" for name in ("out", "err"))
        first = CHILD.format(
            cwd=str(tmp_path),
            environment={**os.environ, **(environment or {})},
            out=str(out),
            err=str(err),
        )
        process = forks.Process(target=exec, args=(first + code, {"__name__": "__main__"}))
        process.start()
        started.append(process)
        return Command(process, out, err)

    yield run
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def start(start_code):
    """`start("eval", "pocket", ...)` starts a command in `tmp_path`, with more in its environment if asked."""

    def run(*arguments: str, environment: dict[str, str] | None = None) -> Command:
        return start_code(COMMAND.format(arguments=arguments), environment)

    return run


@pytest.fixture(scope="session")
def rooms(tmp_path_factory):
    """`next(rooms)` is a new folder that another process serves: see `tests.helpers.servers.file_server`."""
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture(scope="session")
def policy():
    """The packaged checkpoint."""
    from nftbench.evaluation.scoring.loading import quiet
    from nftbench.generation.checkpoint import load_model

    quiet()
    return load_model("pocket")


@pytest.fixture
def python():
    """How to start the command line in a new interpreter, where Ctrl-C works as in a terminal.

    A job started in the background hands down that it is ignored.
    """
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return [sys.executable, "-c", f"{code}; from nftbench.cli.main import main; main()"]
