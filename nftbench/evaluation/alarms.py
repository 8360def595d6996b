"""What must be said before a number is believed: images without a score or all alike, and rewards that see nothing.

A number over half of the images is not a number of the benchmark, and a reward that gives every image the same value,
finds no object in any or reads no text in any has most likely been handed the wrong pictures.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from nftbench.parsing import parse_json
from nftbench.runs.rows import lost
from nftbench.runs.run_folder import Run
from rewards.base import PART

FEW = 8
"""Of so few images nothing is said but failures: they may well be alike."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that speaks against a reward's numbers."""

    benchmark: str
    reward: str
    """Or `images`, where it is about those."""
    text: str
    failed: float = 0.0
    """Share of images that could not be scored, in [0, 1]."""

    def __str__(self) -> str:
        return f"WARNING: {self.benchmark} {self.reward}: {self.text}"


def run_alarms(run: Run) -> list[Alarm]:
    """Everything that speaks against a finished run's numbers."""
    found = []
    for name, known in run.manifest["rewards"].items():
        table = run.read_samples(name)
        found += table_alarms(name, table, [key for key in known if key in table])
    return found


def table_alarms(benchmark: str, table: pd.DataFrame, keys: Sequence[str]) -> list[Alarm]:
    """The same of one table of scored images.

    Args:
        benchmark: how it is called.
        table: a column for each reward, with its `:reason` and `:evidence`.
        keys: the rewards.
    """
    alike = _alike(benchmark, table) if "sha256" in table else ()
    return [*alike, *(alarm for key in keys for alarm in _alarms(benchmark, table, key))]


def _alike(benchmark: str, table: pd.DataFrame) -> Iterator[Alarm]:
    """A cache that answers every request for a prompt, noise that is no noise, a file that was copied."""
    files = table.loc[table["sha256"].fillna("") != "", "sha256"]
    copies = files[files.duplicated(keep=False)]
    if len(copies):
        text = (
            f"{len(copies)} of {len(files)} images are equal to another one ({copies.nunique()} files in all): each "
            "counts, though it says nothing new"
        )
        yield Alarm(benchmark, "images", text)


def _alarms(benchmark: str, table: pd.DataFrame, key: str) -> Iterator[Alarm]:
    failed = table.loc[:, key].isna()
    if failed.any():
        reason, _ = Counter(table.loc[failed, f"{key}{PART}reason"]).most_common(1)[0]
        text = (
            f"{failed.sum()} of {len(table)} images have no score ({failed.mean():.3g} of them), mostly: {reason}; "
            "the same command asks for them again"
        )
        yield Alarm(benchmark, key, " ".join(text.split()), float(failed.mean()))
    if table.loc[:, "tag"].nunique() > 1:
        for task in lost(table[key].to_numpy(float), table["tag"].to_numpy()):
            yield Alarm(
                benchmark, key, f"not one image of {task} was scored: there is no task mean"
            )
    scored = table.loc[~failed]
    if len(scored) < FEW:
        return
    if scored[key].nunique() == 1:
        yield Alarm(benchmark, key, f"every image has the same value, {scored[key].iloc[0]:.4g}")
    name = f"{key}{PART}evidence"
    evidence = [_parsed(text) for text in scored[name]] if name in scored else []
    if evidence and all("boxes" in e and not _any_box(e["boxes"]) for e in evidence):
        yield Alarm(benchmark, key, "not one object was detected in any image")
    if evidence and all("read" in e and not str(e["read"]).strip() for e in evidence):
        yield Alarm(benchmark, key, "not one word was read in any image")
    name = f"{key}{PART}truncated"
    cut = int((scored[name] > 0).sum()) if name in scored else 0
    if cut:
        yield Alarm(benchmark, key, f"its text encoder cut the prompts of {cut} images")


def _parsed(text: object) -> dict:
    try:
        found = parse_json(text) if isinstance(text, str) and text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _any_box(boxes: object) -> bool:
    return any(boxes.values()) if isinstance(boxes, dict) else bool(boxes)
