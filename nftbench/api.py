"""nftbench from Python: what `nftbench eval`, `score` and `train` do, with results as data frames.

    import nftbench

    found = nftbench.evaluate(pipe, suite="geneval-pocket", limit=20)   # a live pipeline, a folder or a hub id
    found.rows, found.samples("geneval-pocket"), found.folder
    trained = nftbench.train(rewards="ocr,pickscore", iterations=20)
    nftbench.evaluate(trained.folder)

Bad input is a `rewards.base.ConfigError` (a `ValueError`) with the line that the command would print.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from tqdm.auto import tqdm

from nftbench import commands
from nftbench.generation.checkpoint import LoadedModel
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import Run
from nftbench.stats.paired import Change
from rewards.base import ConfigError, Progress

Checkpoint = str | PathLike[str] | DiffusionPipeline


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation that is done; all of it lies in its folder, too."""

    folder: Path
    rows: pd.DataFrame
    """One number a row, with interval, images, failures and protocol hash: the columns of a leaderboard."""

    def samples(self, benchmark: str) -> pd.DataFrame:
        """One row an image: prompt, file, every reward's value, sub-scores, reason and evidence.

        Raises:
            ConfigError: the evaluation holds no such benchmark.
        """
        run = Run.open(self.folder)
        if benchmark not in run.protocols():
            raise ConfigError(
                f"no benchmark {benchmark!r} in {self.folder}; it holds {', '.join(run.protocols())}"
            )
        return run.read_samples(benchmark)

    def __repr__(self) -> str:
        failed = int(self.rows["n_failed"].fillna(0).max()) if len(self.rows) else 0
        return f"<Evaluation {self.folder}: {len(self.rows)} rows, up to {failed} images failed>"


@dataclass(frozen=True, slots=True)
class Training:
    """A training that is done; `evaluate(training.folder)` takes its policy."""

    folder: Path
    changes: pd.DataFrame
    """Held-out metrics before and after, with the interval of the paired difference."""

    def __repr__(self) -> str:
        return f"<Training {self.folder}: {len(self.changes)} held-out metrics>"


def evaluate(
    model: Checkpoint,
    *,
    suite: str | None = None,
    rewards: str | None = None,
    name: str = "",
    batch_size: int = 16,
    reward_device: str | None = None,
    out: str | PathLike[str] | None = None,
    **settings: Any,
) -> Evaluation:
    """Generate from a model, score the images, and aggregate: `nftbench eval`.

    Args:
        model: a packaged name, a folder, a hub id, or a diffusers pipeline that is loaded already.
        suite: a suite's or benchmark's name; None takes the checkpoint's own, which a live pipeline has none of.
        rewards: rewards instead of the benchmarks' own, comma-separated.
        name: of a live pipeline in the rows; its class's otherwise.
        batch_size: images made at once.
        reward_device: where rewards run, such as `cpu` or `cuda:1`; None is the GPU where there is one.
        out: run folder; None makes one under `runs/`. An evaluation that was stopped is resumed there.
        **settings: protocol fields to change: `limit`, `seed`, `num_inference_steps`, `guidance_scale`, ...

    Raises:
        ConfigError: anything asked for that cannot be; nothing was written then.
    """
    with _Bars() as progress:
        run, rows = commands.evaluate_checkpoint(
            _loaded(model, name) if isinstance(model, DiffusionPipeline) else str(model),
            suite,
            settings,
            rewards=rewards,
            batch_size=batch_size,
            reward_device=reward_device,
            out=Path(out) if out else None,
            progress=progress,
        )
    return Evaluation(run.folder, _frame(rows))


def score(
    run: str | PathLike[str], rewards: str | None = None, *, reward_device: str | None = None
) -> Evaluation:
    """Score the images of a run by further rewards, without generating: `nftbench score`.

    Args:
        run: its folder.
        rewards: which; None is the run's own.
        reward_device: as for `evaluate`.

    Raises:
        ConfigError: not a run, or a reward that cannot score its prompts.
    """
    with _Bars() as progress:
        rows = commands.score_run(Path(run), rewards, progress, reward_device=reward_device)
    return Evaluation(Path(run), _frame(rows))


def train(
    checkpoint: str | PathLike[str] | None = None,
    *,
    recipe: str | None = None,
    rewards: str | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    out: str | PathLike[str] | None = None,
) -> Training:
    """Train a checkpoint on rewards: `nftbench train`.

    Args:
        checkpoint: where to start; None is the recipe's own.
        recipe: a shipped recipe's name or a .toml file; None is pocket's for the rewards.
        rewards: of every stage, with weights: `ocr,pickscore:0.5`.
        iterations: of every stage.
        seed: of everything.
        settings: `section.key=value` each, as `--set` takes them.
        out: run folder; None makes one under `runs/`.

    Raises:
        ConfigError: anything asked for that cannot be; nothing was written then.
        TrainingFailed: it stopped itself; the message names the last good checkpoint.
    """
    flags = {"rewards": rewards, "iterations": iterations}
    named = [f"stages.{key}={value}" for key, value in flags.items() if value is not None]
    start = None if checkpoint is None else str(checkpoint)
    with _Bars() as progress:
        folder, changes = commands.train_checkpoint(
            recipe,
            [*named, *settings],
            {"checkpoint": start, "algorithm": None, "seed": seed},
            out=Path(out) if out else None,
            resume=None,
            progress=progress,
            say=tqdm.write,
        )
    return Training(folder, pd.DataFrame([_change(change) for change in changes]))


class _Bars:
    """A bar a stage, in a terminal and in a notebook alike; none in a log, where a bar is noise."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm] = {}

    def __enter__(self) -> Progress:
        return self._report

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def _report(self, stage: str, done: int, total: int) -> None:
        if stage not in self._bars:
            shown = sys.stderr.isatty() or "ipykernel" in sys.modules
            self._bars[stage] = tqdm(
                desc=stage, total=total or None, leave=False, disable=not shown
            )
        bar = self._bars[stage]
        bar.update(done - bar.n)


def _loaded(pipeline: DiffusionPipeline, name: str) -> LoadedModel:
    """A live pipeline as a checkpoint: its digest is over the weights and configurations as they are in memory."""
    digest = hashlib.sha256()
    for part, module in sorted(pipeline.components.items()):
        digest.update(f"{part} {type(module).__name__} {getattr(module, 'config', '')}".encode())
        if isinstance(module, torch.nn.Module):
            for key, tensor in sorted(module.state_dict().items()):
                raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(raw.numpy().tobytes())
    pipeline.set_progress_bar_config(disable=True)
    return LoadedModel(
        name=name or type(pipeline).__name__, digest=digest.hexdigest()[:16], pipeline=pipeline
    )


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    return pd.DataFrame([row.model_dump(mode="json") for row in rows])


def _change(change: Change) -> dict[str, Any]:
    gain = asdict(change.difference)
    return {
        "benchmark": change.benchmark,
        "metric": change.metric,
        "of": change.aggregate,
        "before": change.before.value,
        "after": change.after.value,
        "gain": gain.pop("value"),
        **gain,
    }
