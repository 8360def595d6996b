"""What tables, comparisons and reports take as one thing: a run, or the runs of several seeds; and its label.

runs/a          a run of `nftbench eval` or `nftbench train`, called by its folder's name
runs/a=Base     the same, called Base
runs/seeds      a parent: a run a seed, read as their mean
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nftbench.runs.manifest import MANIFEST
from nftbench.runs.seeds import SEEDS, counted, folder_of, is_parent, seeds_of
from nftbench.training.callbacks.metrics_log import METRICS, is_measured
from nftbench.training.seeds import left_out, refuse_misplaced, went_on
from rewards.base import ConfigError

ROWS = "rows.csv"
LONGEST = 80
"""Characters of a label."""
UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Cs")
"""Unicode's categories of what ends a line, turns the text after it round, or makes two names look like one."""
EVALUATION, TRAINING = "evaluation", "training"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run, or several seeds' runs."""

    folder: Path
    label: str = ""
    """As the user calls it; empty where the folder's name does."""
    kind: str
    """`EVALUATION` or `TRAINING`."""
    runs: tuple[Path, ...]
    """The run itself; of a parent those that are there, in the order of `seeds`."""
    seeds: tuple[int, ...] = ()
    """Of a parent."""
    lacking: tuple[int, ...] = ()
    """Seeds of a parent that are left out, because they are missing or not finished."""

    @property
    def name(self) -> str:
        """The label, or the folder's name."""
        return self.label or self.folder.resolve().name

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the seeds; nothing of a single run."""
        if not self.seeds:
            return []
        found = [f"{self.name}: mean over {counted('seed', self.seeds)}."]
        if len(self.seeds) == 1:
            found = [
                f"{self.name}: seed {self.seeds[0]} alone; how much seeds differ is not in the interval."
            ]
        said = left_out(self.folder, self.lacking)
        if self.kind == TRAINING:
            said += went_on(self.folder, self.seeds)
        return [*found, *(f"{self.name}: {words}." for words in said)]


def split_label(argument: str | Path) -> tuple[Path, str]:
    """`RUN=LABEL` as the folder and the label; a folder that holds an `=` in its own name is taken whole.

    Raises:
        ConfigError: the label is empty, too long or more than one line.
    """
    text = str(argument)
    signs = [place for place, sign in enumerate(text) if sign == "="]
    if not signs or Path(text).exists():
        return Path(text), ""
    place = next((p for p in signs if Path(text[:p]).exists()), signs[0])
    return Path(text[:place]), checked_label(text[place + 1 :].strip(" "), text)


def checked_label(
    label: str, argument: str, expected: str = "RUN=LABEL, such as runs/a=Base"
) -> str:
    """A label that can stand in a table.

    Args:
        label: as the user wrote it, without the spaces around it.
        argument: where it was written.
        expected: what should have been.

    Raises:
        ConfigError: it is empty, too long or more than one line.
    """
    if not label:
        raise ConfigError(f"{argument!r} has an empty label; expected {expected}")
    if any(unicodedata.category(c) in UNSEEN for c in label):
        raise ConfigError(f"label {label!r}: expected one line without control characters")
    if len(label) > LONGEST:
        raise ConfigError(
            f"label {label[:20]!r}... has {len(label)} characters; expected at most {LONGEST}"
        )
    return label


def read_results(arguments: Sequence[str | Path], *, whole: bool = True) -> list[Result]:
    """Several results, each `RUN` or `RUN=LABEL`.

    Args:
        arguments: as `read_result` takes them.
        whole: as there.

    Raises:
        ConfigError: one run or one label twice, or as `read_result`.
    """
    results = [read_result(argument, whole=whole) for argument in arguments]
    runs = [run.resolve() for one in results for run in one.runs]
    twice = next((run for run in runs if runs.count(run) > 1), None)
    if twice:
        raise ConfigError(f"expected different runs, got one of them twice: {twice}; leave it out")
    labels = [one.label for one in results if one.label]
    same = next((label for label in labels if labels.count(label) > 1), None)
    if same:
        raise ConfigError(f"label {same!r} stands for two runs; give each its own")
    return results


def read_result(argument: str | Path, *, whole: bool = True) -> Result:
    """One result.

    Args:
        argument: `RUN` or `RUN=LABEL`; RUN is a run folder, or the parent of several seeds'.
        whole: of a parent, take seeds that are finished alone; else trainings that have begun, too.

    Raises:
        ConfigError: no such folder, neither a run nor a parent, a bad label, or a parent without a run or with that of
            another seed.
    """
    folder, label = split_label(argument)
    if not is_parent(folder):
        return Result(folder=folder, label=label, kind=_kind(folder), runs=(folder,))
    seeds = seeds_of(folder)
    there = {s: folder_of(folder, s) for s in seeds if _is_there(folder_of(folder, s), whole)}
    if not there:
        word = "finished" if whole else "begun"
        raise ConfigError(f"{folder} holds no {word} run of {counted('seed', seeds)} yet")
    kinds = {_kind(run) for run in there.values()}
    if len(kinds) > 1:
        raise ConfigError(f"{folder} holds trainings and evaluations; expected one kind")
    if kinds == {TRAINING}:
        refuse_misplaced(there.values())
    return Result(
        folder=folder,
        label=label,
        kind=kinds.pop(),
        runs=tuple(there.values()),
        seeds=tuple(there),
        lacking=tuple(s for s in seeds if s not in there),
    )


def _kind(folder: Path) -> str:
    if (folder / MANIFEST).is_file():
        return EVALUATION
    if (folder / METRICS).is_file():
        return TRAINING
    raise ConfigError(
        f"{folder} is not a run: it holds neither {MANIFEST} nor {METRICS}, nor the {SEEDS} of several; "
        "expected a folder made by `nftbench eval` or `nftbench train`"
    )


def _is_there(run: Path, whole: bool) -> bool:
    if (run / MANIFEST).is_file():
        return (run / ROWS).is_file()
    return is_measured(run) if whole else (run / METRICS).is_file()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Which seeds of two results are compared."""

    places: tuple[tuple[int, ...], tuple[int, ...]]
    """Of each, places in `Result.runs`."""
    same: bool
    """Whether the two go by the same seeds, one by one; else they are two independent sets."""
    said: str = ""
    """What a reader must know of it."""


def pair_seeds(a: Result, b: Result) -> Pairing:
    """Pair two results by their seeds: those that both have, if there are two or more; else all of both, unpaired."""
    everything = (tuple(range(len(a.runs))), tuple(range(len(b.runs))))
    shared = [seed for seed in a.seeds if seed in b.seeds]
    if len(shared) > 1:
        places = tuple(tuple(one.seeds.index(s) for s in shared) for one in (a, b))
        alone = [(one, tuple(s for s in one.seeds if s not in shared)) for one in (a, b)]
        left = "".join(f"; {counted('seed', s)} of {one.name} left out" for one, s in alone if s)
        said = f"Paired by {counted('seed', shared)}, which both have{left}."
        return Pairing(places=(places[0], places[1]), same=True, said=said)
    if a.seeds and b.seeds:
        said = "Not paired by seed: fewer than two seeds are shared, so the two sets of seeds count as independent."
        return Pairing(places=everything, same=False, said=said)
    alone = [one.name for one in (a, b) if not one.seeds]
    said = (
        f"{' and '.join(alone)}: one run, whose own seed is not in the interval."
        if a.seeds or b.seeds
        else ""
    )
    return Pairing(places=everything, same=len(a.runs) == len(b.runs) == 1, said=said)
