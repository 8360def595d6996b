"""What tests share: a network that is off, the pocket policy, and commands in processes of their own."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is first imported

settings.register_profile("house", deadline=None)  # other work on the machine is no failure
settings.load_profile("house")

CHILD = """
import os, sys
os.chdir({cwd!r})
for number, path in ((1, {out!r}), (2, {err!r})):
    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644), number)
sys.argv = ["nftbench", *{arguments!r}]
from nftbench.cli.main import main
main()
"""


@dataclass
class Command:
    """`nftbench ARGUMENTS` in its own process, its output in files."""

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


@pytest.fixture(scope="session")
def forks():
    """A server that has imported torch once and forks a fresh process for every command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "nftbench.cli.commands",
            "nftbench.reporting.summary_tables",
            "nftbench.reporting.leaderboard.board",
        ]
    )
    return context


@pytest.fixture
def start(forks, tmp_path):
    """`start("eval", "pocket", ...)` starts a command in `tmp_path`."""
    started = []

    def run(*arguments: str) -> Command:
        number = len(started)
        command = Command(None, tmp_path / f".{number}.out", tmp_path / f".{number}.err")
        code = CHILD.format(
            cwd=str(tmp_path), out=str(command.out), err=str(command.err), arguments=arguments
        )
        command.process = forks.Process(target=exec, args=(code, {}))
        command.process.start()
        started.append(command)
        return command

    yield run
    for command in started:
        command.process.kill()
        command.process.join()


@pytest.fixture(scope="session")
def policy():
    """The packaged checkpoint."""
    from nftbench.evaluation.loading import quiet
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
