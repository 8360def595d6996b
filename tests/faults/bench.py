"""Where faults are tried: one process that has loaded everything, and forks one for every trial.

A trial dies as a user's process does, by SIGKILL, without a chance to tidy up; only the imports are not paid again.
"""

import fcntl
import io
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

PIPE = 1 << 20
"""Bytes."""
PROMPTS = "a red circle\na blue square\na green triangle\n"
BENCHMARK = """
version = 1
title = "three prompts"
licence = "Apache-2.0"
rewards = ["jpeg"]

[prompts]
file = "faults.txt"

[sampling]
images_per_prompt = 2
num_inference_steps = 1
"""
TRAIN = (
    "policy.rank=4",
    "policy.precision=no",
    "rollout.batch_size=16",
    "loggers=[]",
    "checkpoints.every=1",
    'stages.prompts=["geneval-pocket"]',
    "stages.rewards=jpeg",
    "stages.iterations=2",
    "stages.groups=2",
    "stages.group_size=2",
    "stages.num_inference_steps=2",
    "stages.timesteps_per_image=1",
    "stages.updates=1",
)
NO_VALIDATION = "evaluation.benchmarks=[]"
VALIDATION = (
    'evaluation.benchmarks=["faults"]',
    "evaluation.num_inference_steps=1",
    "evaluation.limit=2",
    "evaluation.every=1",
)


@dataclass(frozen=True)
class Observed:
    """What became of a fault's trials."""

    trials: int
    broken: tuple[str, ...] = ()
    """Trials in which the promise did not hold, in words."""
    note: str = ""

    def __str__(self) -> str:
        kept = f"{self.trials - len(self.broken)} of {self.trials}"
        return "; ".join(filter(None, [kept, self.note, *self.broken[:3]]))


@dataclass(frozen=True)
class Fault:
    """A kind of fault, and what is promised of it."""

    name: str
    promise: str
    trial: Callable[["Bench"], Observed]
    quick: bool
    """Whether a smaller number of its trials is part of the ordinary tests."""


FAULTS: list[Fault] = []


def fault(promise: str, *, quick: bool = True) -> Callable[[Callable], Callable]:
    """Lists a function as the trials of the fault that its docstring names."""

    def listed(trial: Callable[["Bench"], Observed]) -> Callable[["Bench"], Observed]:
        name = (trial.__doc__ or "").strip().removesuffix(".")
        FAULTS.append(Fault(name, promise, trial, quick))
        return trial

    return listed


@dataclass
class Ended:
    """How a process ended."""

    code: int
    """Negative where a signal ended it."""
    out: str
    err: str

    @property
    def killed(self) -> bool:
        """Whether it died of SIGKILL."""
        return self.code == -signal.SIGKILL

    def fault(self, *codes: int) -> str:
        """What is wrong with an end that should be one of these codes; one line says why it is not 0."""
        if "Traceback" in self.err or self.code not in codes:
            lines = self.err.strip().splitlines() or ["nothing"]
            return f"exit code {self.code}: {lines[-1][:200]}"
        lines = [x for x in self.err.splitlines() if x.startswith("nftbench: ")]
        return "" if self.code in (0, 4) or len(lines) == 1 else f"said {self.err[-200:]!r}"


@dataclass
class Child:
    """A forked process."""

    pid: int
    ends: tuple[int, int]
    """What it says to standard output and standard error can be read from these."""
    ended: Ended | None = None

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.ended is None:
            os.kill(self.pid, signal.SIGKILL)

    def runs(self) -> bool:
        """Whether it still does."""
        return self.ended is None and not os.waitid(
            os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
        )

    def wait(self) -> Ended:
        """Its end."""
        if self.ended is None:
            _, status = os.waitpid(self.pid, 0)
            out, err = map(_said, self.ends)
            self.ended = Ended(os.waitstatus_to_exitcode(status), out, err)
        return self.ended


def _pipe() -> tuple[int, int]:
    """One that holds all that a command says."""
    read, write = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE)
    return read, write


def _said(end: int) -> str:
    """What was written by a process that has ended; others may hold the pipe open still."""
    os.set_blocking(end, False)
    found = b""
    with suppress(BlockingIOError):
        while piece := os.read(end, PIPE):
            found += piece
    os.close(end)
    return found.decode("utf-8", "replace")


@dataclass
class Bench:
    """Folders, processes, and what is loaded once."""

    folder: Path
    quick: bool
    count: int
    """Random kills of each kind."""
    width: int = 2
    """Trials at once."""
    chance: random.Random = field(default_factory=lambda: random.Random(2509))
    _numbers: int = 0

    def __post_init__(self) -> None:
        mine = self.folder / "benchmarks"
        (mine / "prompts").mkdir(parents=True)
        (mine / "prompts" / "faults.txt").write_text(PROMPTS)
        (mine / "faults.toml").write_text(BENCHMARK)
        os.environ["NFTBENCH_BENCHMARKS"] = str(mine)

    def new(self, name: str) -> Path:
        """A path that nothing lies at."""
        self._numbers += 1
        return self.folder / f"{name}-{os.getpid()}-{self._numbers}"

    def each(self, items: Sequence[Any], trial: Callable[[Any], Sequence[str]]) -> tuple[str, ...]:
        """Trials in processes of their own, `width` at once.

        Args:
            items: what is tried.
            trial: what is wrong with one, in words; what is empty counts as nothing.

        Returns:
            What is wrong, the first word of each trial.
        """
        found: list[str] = []
        running: list[tuple[Any, Child]] = []
        for item in [*items, *[None] * self.width]:
            if len(running) == self.width or (item is None and running):
                found += self._told(*running.pop(0))[:1]
            if item is not None:
                running.append((item, self.fork(lambda item=item: _tell(trial(item)))))
        return tuple(found)

    def _told(self, item: Any, child: Child) -> list[str]:
        ended = child.wait()
        name = ", ".join(map(str, item)) if isinstance(item, tuple) else str(item)
        wrong = json.loads(ended.out) if ended.code == 0 else [ended.fault(0)]
        sys.stderr.write("".join(f"  {name}: {w}\n" for w in wrong) or f"  {name}: kept\n")
        sys.stderr.flush()
        return [f"{name}: {w}" for w in wrong]

    def some(self, items: Sequence[Any], few: int) -> list[Any]:
        """All of them, or in the quick part so many that are spread over them."""
        if not self.quick or len(items) <= few:
            return list(items)
        return [items[i * len(items) // few] for i in range(few)]

    # --- processes ----------------------------------------------------------------------------------------------------

    def fork(self, work: Callable[[], Any], *, before: Callable[[], Any] | None = None) -> Child:
        """Do something in a process of its own.

        Args:
            work: what it does; SystemExit gives its code.
            before: done first, such as arranging for its death.
        """
        pipes = [_pipe() for _ in range(2)]  # and no files, which a full disk would take with it
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            for _, end in pipes:
                os.close(end)
            return Child(pid, (pipes[0][0], pipes[1][0]))
        code = 1
        try:
            for number, (_, end) in zip((1, 2), pipes, strict=True):
                os.dup2(end, number)
            sys.stdout, sys.stderr = (
                io.TextIOWrapper(os.fdopen(n, "wb", closefd=False), encoding="utf-8")
                for n in (1, 2)
            )
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.default_int_handler)
            if before:
                before()
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            with suppress(OSError):
                if sys.exc_info()[0]:
                    traceback.print_exc()
            with suppress(OSError):  # its disk may be full
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def command(self, *arguments: object, before: Callable[[], Any] | None = None) -> Child:
        """Start `nftbench ARGUMENTS` in the bench's folder."""

        def run() -> None:
            from nftbench.cli.main import main

            os.chdir(self.folder)
            sys.argv = ["nftbench", *map(str, arguments)]
            main()

        return self.fork(run, before=before)

    def do(self, *arguments: object, before: Callable[[], Any] | None = None) -> Ended:
        """Such a command from beginning to end."""
        return self.command(*arguments, before=before).wait()

    # --- evaluation ---------------------------------------------------------------------------------------------------

    @cached_property
    def policy(self) -> Any:
        """The packaged checkpoint."""
        from nftbench.evaluation.scoring.loading import quiet
        from nftbench.generation.checkpoint import load_model

        quiet()
        return load_model("pocket")

    @cached_property
    def works(self) -> list[Any]:
        """A small evaluation: six images, two rewards, batches of two."""
        from nftbench.benchmark.registry import load_benchmark
        from nftbench.evaluation.planning import fitted, plan
        from nftbench.evaluation.scoring.loading import load_rewards

        rewards = load_rewards("jpeg,jpeg@compressibility")
        return fitted(plan([load_benchmark("faults").protocol()], rewards, 2), self.policy)

    def evaluate(self, folder: Path, before: Callable[[], Any] | None = None) -> Child:
        """Begin it, or resume it, in a folder: scored while it is drawn, as where a GPU draws."""
        from nftbench.evaluation import evaluate
        from nftbench.evaluation.scoring.in_turn import Turns
        from nftbench.runs.run_folder import Run

        works = self.works
        noted = {**self.policy.hardware, **Turns().described}  # as the command notes it
        policy = replace(self.policy, hardware=noted)

        def work() -> None:
            evaluate.draws_elsewhere = lambda _policy: True  # of this process, which is its own
            evaluate.evaluate(Run(folder), works, policy, "faults", lambda *_: None)

        return self.fork(work, before=before)

    @property
    def eval_command(self) -> tuple[str, ...]:
        """The same as a command, but for `--out`."""
        own = "eval pocket --suite faults --rewards jpeg,jpeg@compressibility --batch-size 2"
        return tuple(own.split())

    @cached_property
    def whole(self) -> Path:
        """A run that nobody cut."""
        folder = self.new("whole")
        ended = self.do(*self.eval_command, "--out", folder)
        assert ended.code == 0, ended.err
        return folder

    @cached_property
    def other(self) -> Path:
        """Another run: other noise, the same names."""
        folder = self.new("other")
        ended = self.do(*self.eval_command, "--seed", "7", "--out", folder)
        assert ended.code == 0, ended.err
        return folder

    # --- training -----------------------------------------------------------------------------------------------------

    @staticmethod
    def settings(*more: str) -> list[str]:
        """As flags."""
        return [part for s in (*TRAIN, *more) for part in ("--set", s)]

    def train(self, folder: Path, *more: str, before: Callable[[], Any] | None = None) -> Child:
        """Begin a small training without validation, or resume it where it holds a checkpoint."""
        if list((folder / "checkpoints").glob("[0-9]*")):
            return self.command("train", "--resume", folder, *more, before=before)
        command = ["train", "--recipe", "pocket", *self.settings(NO_VALIDATION)]
        return self.command(*command, "--out", folder, *more, before=before)

    @cached_property
    def trained(self) -> Path:
        """A training without validation that nobody cut."""
        folder = self.new("trained")
        ended = self.train(folder).wait()
        assert ended.code == 0, ended.err
        return folder


def _tell(wrong: Sequence[str]) -> None:
    sys.stdout.write(json.dumps([w for w in wrong if w]))
