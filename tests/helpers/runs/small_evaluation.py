"""A small evaluation by the pocket checkpoint: three prompts, four images each, in batches of five."""

from pathlib import Path

import pandas as pd

import rewards
from nftbench.benchmark.registry import load_benchmark
from nftbench.evaluation import evaluate
from nftbench.evaluation.planning import plan
from nftbench.runs.run_folder import Run

STEPS = 2


def quietly(stage: str, done: int, total: int) -> None:
    """A report nobody reads."""


def work(batch_size: int = 5, judges: str = "jpeg", **settings):
    """One small evaluation."""
    settings = {"num_inference_steps": STEPS, "limit": 3} | settings
    protocol = load_benchmark("geneval-pocket").protocol(**settings)
    loaded = {k: rewards.load_reward(k) for k in judges.split(",")}
    (one,) = plan([protocol], loaded, batch_size)
    return one


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run; nothing else may lie there."""
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    assert not [name for name in found if name.endswith(".tmp")]
    return found


def evaluated(folder: Path, policy, one=None) -> Run:
    run = Run(folder)
    evaluate.evaluate(run, [one or work()], policy, "geneval-pocket", quietly)
    return run


def table(run: Run) -> pd.DataFrame:
    return pd.read_parquet(run.samples_path("geneval-pocket"))


class Stop(BaseException):
    """Somebody pulls the plug."""
