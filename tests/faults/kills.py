"""Death at every moment: of a save, of an evaluation, of a training; one process, or two side by side."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nftbench.runs.io import temporary_path
from tests.faults.bench import Bench, Child, Observed, fault
from tests.faults.compared import differences, files, weights

WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
"""Audit events of what changes a folder."""


def _operations(bench: Bench, folder: Path, work: Callable[[Callable[[], None]], Child]) -> int:
    counted = bench.new("count")
    ended = work(count_operations(folder, counted)).wait()
    assert ended.code == 0, ended.err
    operations = counted.stat().st_size
    assert operations, f"no operation on {folder} was seen: nothing would be tried"
    return operations


@fault("the same command ends with the bytes of a run that nobody killed")
def evaluation_at_operations(bench: Bench) -> Observed:
    """eval, killed before each operation that changes its folder, and in the middle of each file."""
    truth = files(bench.whole)
    first = bench.new("run")
    operations = _operations(bench, first, lambda before: bench.evaluate(first, before))
    uncut = differences(files(first), truth)
    broken = [f"uncut: {uncut}"] if uncut else []
    half = range(len([n for n in truth if "/images/" in n]) + 10)
    moments: list[tuple[str, int]] = [("operation", n) for n in range(operations)]
    moments += [("half of file", n) for n in half]
    chosen = bench.some(moments[:: 1 if bench.quick else 2], 6)

    def trial(moment: tuple[str, int]) -> list[str]:
        how, number = moment
        run = bench.new("run")
        death = die_at(number, run) if how == "operation" else half_a_write(number)
        bench.evaluate(run, death).wait()
        again = bench.evaluate(run).wait()
        wrong = [again.fault(0), differences(files(run), files(first))]
        shutil.rmtree(run)
        return wrong

    broken += bench.each(chosen, trial)
    return Observed(len(chosen), tuple(broken), f"{operations} operations")


@fault("a whole checkpoint is there: the new one, or the one before with its own bytes")
def checkpoint_at_operations(bench: Bench) -> Observed:
    """A checkpoint's save with keep=1, killed before each operation."""
    import torch

    from nftbench.training.callbacks.checkpoints import (
        CheckpointState,
        TrainState,
        checkpoints,
        load_state,
        save_state,
    )
    from rewards.base import ConfigError

    def state(done: int) -> CheckpointState:
        return CheckpointState(
            train_state=TrainState(done=done, iteration=done),
            weights={"w": torch.full((64,), float(done))},
            optimizer={"step": done},
            scaler={},
            guards={"warned": False},
            best={},
            base="pocket",
            base_digest="0",
        )

    def save(folder: Path, before: Callable[[], None]) -> Child:
        save_state(folder, state(1), keep=1)
        return bench.fork(lambda: save_state(folder, state(2), keep=1), before=before)

    def valid(folder: Path) -> list[int]:
        found = []
        for path in checkpoints(folder):
            try:
                loaded = load_state(path)
            except ConfigError:
                continue
            done = loaded.train_state.done
            same = torch.equal(loaded.weights["w"], state(done).weights["w"])
            found += [done] if same else [-1]
        return found

    first = bench.new("checkpoints")
    operations = _operations(bench, first, lambda before: save(first, before))
    chosen = bench.some(range(operations), 8)

    def trial(number: int) -> list[str]:
        folder = bench.new("checkpoints")
        save(folder, die_at(number, folder)).wait()
        found = valid(folder)
        wrong = [f"valid are {found}"] * (not found or -1 in found)
        bench.fork(lambda: save_state(folder, state(3), keep=1)).wait()
        return [*wrong, *["the next save is not whole"] * (valid(folder)[-1:] != [3])]

    broken = bench.each(chosen, trial)
    return Observed(len(chosen), tuple(broken), f"{operations} operations")


@fault("the table is the one before or the one after, whole")
def leaderboard_at_operations(bench: Bench) -> Observed:
    """leaderboard rows, killed before each operation of their merge."""
    from nftbench.reporting.leaderboard import board
    from tests.helpers.runs.board_rows import row

    def save(folder: Path, before: Callable[[], None]) -> Child:
        board.publish([row(model="first")], folder)
        return bench.fork(lambda: board.publish([row(model="second")], folder), before=before)

    first = bench.new("board")
    operations = _operations(bench, first, lambda before: save(first, before))
    before_and_after = set()
    for models in (["first"], ["first", "second"]):
        folder = bench.new("board")
        for model in models:
            board.publish([row(model=model)], folder)
        before_and_after.add(_tables(folder))
    chosen = bench.some(range(operations), 6)

    def trial(number: int) -> list[str]:
        folder = bench.new("board")
        save(folder, die_at(number, folder)).wait()
        wrong = [str(_tables(folder))] * (_tables(folder) not in before_and_after)
        bench.fork(lambda: board.publish([row(model="second")], folder)).wait()
        merged = len(_tables(folder)) == 1 and "second" in str(_tables(folder))
        return [*wrong, *["the next one does not merge"] * (not merged)]

    broken = bench.each(chosen, trial)
    return Observed(len(chosen), tuple(broken), f"{operations} operations")


def _tables(folder: Path) -> tuple[str, ...]:
    return tuple(path.read_text("utf-8") for path in sorted(folder.rglob("*.csv")))


@fault("the report of before stays whole until the new one is; nothing half is shown", quick=False)
def report_at_operations(bench: Bench) -> Observed:
    """report over an older one, killed at moments spread over its operations."""
    whole, other = bench.whole, bench.other

    def reported(out: Path, before: Callable[[], None] | None = None) -> Child:
        return bench.command("report", whole, "--out", out, before=before)

    first = bench.new("report")
    operations = _operations(bench, first, lambda before: reported(first, before))
    old = files(first)

    def trial(number: int) -> list[str]:
        out = bench.new("report")
        shutil.copytree(first, out)
        bench.do("report", other, "--out", out, before=die_at(number, out))
        half = files(out) not in (old, {}) and "index.html" not in files(out)
        again = reported(out).wait()
        return [*["half a report"] * half, again.fault(0), differences(files(out), old)]

    chosen = bench.some(range(0, operations, max(1, operations // 24)), 4)
    broken = bench.each(chosen, trial)
    return Observed(len(chosen), tuple(broken), f"{operations} operations")


def _pairs(
    bench: Bench, start: Callable[[Path], Child], look: Callable[[Path], Any], whole: Path
) -> Observed:
    """Two side by side, each killed at a moment of its own, both resumed side by side."""
    truth = look(whole)
    begun = time.monotonic()
    start(bench.new("timed")).wait()
    seconds = time.monotonic() - begun
    killed = bench.new("killed")
    killed.touch()

    def trial(moments: tuple[float, float]) -> list[str]:
        runs = [bench.new("pair") for _ in moments]
        begun, children = time.monotonic(), [start(run) for run in runs]
        for moment, child in sorted(zip(moments, children, strict=True), key=lambda pair: pair[0]):
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            child.kill()
        with killed.open("a") as file:
            file.write("x" * sum(child.wait().killed for child in children))
        ends = [child.wait() for child in [start(run) for run in runs]]
        wrong = [e.fault(0) for e in ends] + [differences(look(run), truth) for run in runs]
        for run in runs:
            shutil.rmtree(run)
        return wrong

    moments = [
        tuple(round(bench.chance.uniform(0, seconds), 2) for _ in range(2))
        for _ in range(bench.count // 2)
    ]
    broken = bench.each(moments, trial)
    return Observed(len(moments), broken, f"pairs; {killed.stat().st_size} processes were killed")


@fault("the same command ends with the bytes of a run that nobody killed", quick=False)
def evaluations_at_random(bench: Bench) -> Observed:
    """Two evals side by side, each killed at a random moment."""
    whole = bench.new("uncut")
    bench.evaluate(whole).wait()
    return _pairs(bench, bench.evaluate, files, whole)


@fault(
    "resumed, it ends with the weights, LoRA and metrics of a run that nobody killed", quick=False
)
def trainings_at_random(bench: Bench) -> Observed:
    """Two trainings side by side, each killed at a random moment."""
    return _pairs(bench, bench.train, weights, bench.trained)


# --- how a process dies: at an operation on a folder, or in the middle of a file -------------------


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
