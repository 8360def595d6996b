"""Two commands at once in one folder."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tests.faults.bench import NO_VALIDATION, Bench, Child, Observed, fault
from tests.faults.compared import differences, files, weights

IN_USE = "is in use by process"


@fault("one does the work, the other is refused with who holds the folder; no byte differs")
def two_evaluations(bench: Bench) -> Observed:
    """Two evals started together in one folder."""
    whole = bench.whole

    def trial(_number: int) -> list[str]:
        run = bench.new("together")
        ends = [c.wait() for c in [bench.command(*bench.eval_command, "--out", run) for _ in "ab"]]
        wrong = [e.fault(0, 2) for e in ends] + [differences(files(run), files(whole))]
        wrong += ["both were refused"] * all(e.code == 2 for e in ends)
        return wrong + ["without a word"] * any(e.code == 2 and IN_USE not in e.err for e in ends)

    trials = range(1 if bench.quick else 6)
    return Observed(len(trials), bench.each(trials, trial))


@fault("one trains, the other is refused with who holds the folder", quick=False)
def two_trainings(bench: Bench) -> Observed:
    """Two trainings started together in one folder, and a third that resumes it."""
    whole = bench.trained

    def trial(_number: int) -> list[str]:
        run = bench.new("together")
        ends = [c.wait() for c in [bench.train(run) for _ in "ab"]]
        wrong = ["both were refused"] * all(e.code == 2 for e in ends)
        ends += [c.wait() for c in [bench.command("train", "--resume", run) for _ in "ab"]]
        return [*wrong, *(e.fault(0, 2) for e in ends), differences(weights(run), weights(whole))]

    return Observed(3, bench.each(range(3), trial))


@fault("each gets a folder of its own, with its own weights", quick=False)
def unnamed_trainings(bench: Bench) -> Observed:
    """Three trainings of other seeds started together, without a name."""
    command = ["train", "--recipe", "pocket", *bench.settings(NO_VALIDATION)]
    children = [bench.command(*command, "--seed", seed) for seed in (0, 1, 2)]
    ends = [c.wait() for c in children]
    runs = sorted((bench.folder / "runs").glob("train-pocket-*"))
    found = [weights(run)["lora"] for run in runs]
    broken = [w for w in (e.fault(0) for e in ends) if w]
    broken += ["they share weights"] * (len(set(found)) != 3)
    seeds = sorted((run / "recipe.json").read_text().count('"seed": ') for run in runs)
    broken += ["a recipe is torn"] * (seeds != [1, 1, 1])
    return Observed(3, tuple(broken))


@fault("both rewards' columns are in the table, the images' own scores untouched", quick=False)
def two_scores(bench: Bench) -> Observed:
    """Two scores of other rewards at once on one run."""
    whole = bench.whole
    keys = ("clipscore@pocket", "pickscore@pocket")

    def trial(_number: int) -> list[str]:
        run = Path(shutil.copytree(whole, bench.new("scored")))
        ends = [c.wait() for c in [bench.command("score", run, "--rewards", k) for k in keys]]
        old, table = (pd.read_parquet(f / "faults" / "samples.parquet") for f in (whole, run))
        wrong = [e.fault(0) for e in ends]
        wrong += ["a column is missing"] * (not {*keys, "jpeg"} <= set(table))
        wrong += ["old scores moved"] * (table["jpeg"].tolist() != old["jpeg"].tolist())
        rows = pd.read_csv(run / "rows.csv")
        return wrong + ["rows are missing"] * (not {"clipscore", "pickscore"} <= {*rows["metric"]})

    trials = range(1 if bench.quick else 6)
    return Observed(len(trials), bench.each(trials, trial))


@fault("the report is one of the two, whole", quick=False)
def two_reports(bench: Bench) -> Observed:
    """Reports of two runs written into one folder at once, again and again."""
    runs = (bench.whole, bench.other)
    alone = []
    for run in runs:
        alone.append(bench.new("report"))
        assert bench.do("report", run, "--out", alone[-1]).code == 0

    def trial(_number: int) -> list[str]:
        out = bench.new("report")
        ends = []
        for _ in range(3):
            children = [bench.command("report", run, "--out", out) for run in runs]
            ends += [c.wait() for c in children]
        beside = [p.name for p in out.parent.glob(f".*{out.name}*")]
        known = files(out) in [files(one) for one in alone]
        return [*(e.fault(0) for e in ends), *beside, "" if known else "a mixture"]

    return Observed(4, bench.each(range(4), trial))


@fault("no row is lost")
def leaderboard_rows_at_once(bench: Bench) -> Observed:
    """Four processes that add rows of other models to one leaderboard at once."""
    from nftbench.reporting.leaderboard import board
    from tests.helpers.runs.board_rows import row

    models = [f"model-{i}" for i in range(4)]

    def trial(_number: int) -> list[str]:
        folder = bench.new("board")
        children = [
            bench.fork(lambda model=model: board.publish([row(model=model)], folder))
            for model in models
        ]
        wrong = [c.wait().fault(0) for c in children]
        text = "".join(p.read_text("utf-8") for p in folder.rglob("*.csv"))
        return wrong + [f"{m} is lost" for m in models if m not in text]

    trials = range(2 if bench.quick else 8)
    return Observed(len(trials), bench.each(trials, trial))


def _together(bench: Bench, run: Path, count: int) -> list[Child]:
    """One eval shared by so many processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank(number: int) -> Callable[[], None]:
        about = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}

        def arrange() -> None:
            os.environ |= {k: str(v) for k, v in about.items()} | {"MASTER_ADDR": "127.0.0.1"}

        return arrange

    command = (*bench.eval_command, "--out", run)
    return [bench.command(*command, before=rank(i)) for i in range(count)]


@fault(
    "each image is made once, one table is printed, and the bytes are those of one process",
    quick=False,
)
def several_processes(bench: Bench) -> Observed:
    """One eval shared by 2 and 3 processes; by 2 that are killed half way, then by 3."""
    whole = bench.whole

    def trial(counts: tuple[int, ...]) -> list[str]:
        run = bench.new("shared")
        for count in counts[:-1]:
            children = _together(bench, run, count)
            while len(list(run.rglob("*.png"))) < 3 and any(c.runs() for c in children):
                time.sleep(0.01)
            for child in children:
                child.kill()
            for child in children:
                child.wait()
        ends = [c.wait() for c in _together(bench, run, counts[-1])]
        printed = sum("run: " in e.out for e in ends)
        wrong = [e.fault(0) for e in ends] + [differences(files(run), files(whole))]
        return wrong + ["the table is not printed once"] * (printed != 1)

    trials = [(2,)] if bench.quick else [(2,), (3,), (2, 3), (3, 1)]
    return Observed(len(trials), bench.each(trials, trial))
