"""The held-out prompts of a run: measured before, during and after the training, always the same images' seeds.

    RUN/held_out/before.parquet, after.parquet     every prompt: the untouched base, and the averaged policy at the end
    RUN/held_out/first.parquet                     the part that is validated during training, of the untouched base
    RUN/held_out/measured.json                     by which protocols and rewards these were made, and their digests

Two tables are compared only where both were made by the same protocol and rewards. So a resumed run whose settings
would change a number that was measured already is refused; what was not measured yet is measured of the untouched base.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nftbench.parsing import parse_json
from nftbench.runs.contact_sheet import Tile
from nftbench.runs.io import read_table, write_atomic, write_table
from nftbench.stats.estimates import Estimate
from nftbench.stats.paired import Change, changes
from nftbench.training import RewardFailed
from nftbench.training.callbacks.base import Checkpoints, Iteration, WatchGuards
from nftbench.training.callbacks.metrics_log import (
    ENDS,
    HELD_OUT,
    MEASURED,
    MetricsLog,
    Pace,
    write_averaging,
)
from nftbench.training.callbacks.validation import (
    COLUMNS,
    ValidationSet,
    averaging,
    estimates,
    left_out,
    total,
    trained_on,
    validate,
)
from nftbench.training.config.record import reward_digest
from nftbench.training.iteration.trainer import Trainer
from nftbench.training.setup import Setup
from nftbench.training.stages import Failures, WeightedReward
from rewards.base import ConfigError, Progress

WHICH = ("whole", "part")
"""All prompts, before and after the training; those of a validation."""


class Tables:
    """The tables of one run on disk, with what they were made by."""

    def __init__(self, folder: Path, whole: Sequence[ValidationSet], part: Sequence[ValidationSet]):
        self.folder = folder / HELD_OUT
        self._now = {
            one.name: {
                "whole": one.protocol.model_dump(mode="json"),
                "part": of_part.protocol.model_dump(mode="json"),
                "rewards": {r.key: reward_digest(r.reward.info) for r in one.rewards},
            }
            for one, of_part in zip(whole, part, strict=True)
        }
        self._noted: dict[str, Any] = {"sets": {}, "tables": {}}

    def read(self) -> None:
        """Take over what an earlier part of the run noted; nothing where that is missing or damaged."""
        try:
            noted = parse_json((self.folder / MEASURED).read_bytes())
            found = {key: {k: dict(v) for k, v in noted[key].items()} for key in self._noted}
            if all(isinstance(t["sha256"], str) for t in found["tables"].values()):
                self._noted = found
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return

    def refuse_changes(self) -> None:
        """Refuse settings by which a number that was measured already would be another one.

        Raises:
            ConfigError: names the benchmark and what differs.
        """
        for name, now in self._now.items():
            then = self._noted["sets"].get(name, {})
            kept = [(k, v, now[w].get(k)) for w in WHICH for k, v in then.get(w, {}).items()]
            for key, old, new in kept:
                if old not in (None, new):  # None: left to the model, and not looked at then
                    raise ConfigError(
                        f"{name} was measured with {key} {old!r}; {new!r} would be compared with it: leave that as "
                        "it was, or start another run"
                    )
            for key, digest in then.get("rewards", {}).items():
                if now["rewards"].get(key, digest) != digest:
                    raise ConfigError(
                        f"{name} was measured by another {key}: its weights or its source have changed since; "
                        "restore them, or start another run"
                    )

    def kept(self, name: str, say: Callable[[str], None]) -> pd.DataFrame | None:
        """A table of this run, None where there is none or it is not the one that was written."""
        path = self.folder / f"{name}.parquet"
        noted = self._noted["tables"].get(name, {})
        if not noted:
            return None
        if not path.is_file() or _sha256(path) != noted["sha256"]:
            say(f"warning: {path} is missing or damaged; measuring it again")
            return None
        return read_table(path, remedy="remove it")

    def lacking(self, name: str) -> list[str]:
        """Benchmarks of which a kept table does not hold every reward."""
        made = self._noted["tables"].get(name, {}).get("rewards", {})
        return [
            benchmark
            for benchmark, now in self._now.items()
            if not set(now["rewards"]) <= set(made.get(benchmark, []))
        ]

    def is_of(self, name: str, done: int) -> bool:
        """Whether a table was made after so many iterations, and of all that is measured now."""
        noted = self._noted["tables"].get(name, {})
        return noted.get("done") == done and not self.lacking(name)

    def write(self, name: str, table: pd.DataFrame, done: int) -> None:
        """Write a table, then what it was made by."""
        path = self.folder / f"{name}.parquet"
        write_table(path, table)
        self._noted["sets"] |= self._now
        self._noted["tables"][name] = {
            "sha256": _sha256(path),
            "done": done,
            "rewards": {benchmark: sorted(now["rewards"]) for benchmark, now in self._now.items()},
        }
        text = f"{json.dumps(self._noted, indent=2)}\n"
        write_atomic(self.folder / MEASURED, text.encode())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Validate:
    """Measures the averaged policy on held-out prompts every so many iterations, and before and after the training."""

    def __init__(
        self,
        setup: Setup,
        trainer: Trainer,
        log: MetricsLog,
        watch: WatchGuards,
        saved: Checkpoints,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self._setup, self._trainer, self._log = setup, trainer, log
        self._watch, self._saved, self._progress, self._say = watch, saved, progress, say
        self._pace = Pace(say)
        self._sets = setup.validation_sets(whole=False)
        self._whole_sets = setup.validation_sets(whole=True)
        self._tables = Tables(setup.folder, self._whole_sets, self._sets)
        self._first = pd.DataFrame(columns=list(COLUMNS))
        for line in [*left_out(setup, self._sets), *trained_on(setup, self._sets)]:
            say(line)

    def __call__(self, iteration: Iteration) -> None:
        """Validate if it is time."""
        every = self._setup.recipe.evaluation.every
        if not self._sets or not (iteration.done % every == 0 or iteration.last):
            return
        table, images, failures = self._draw(self._sets, "ema")
        self._log.grid(iteration.done, images)
        for (benchmark, metric), estimate in estimates(table, self._sets).items():
            iteration.held_out[f"{benchmark}/{metric}"] = estimate
            name = f"{HELD_OUT}/{benchmark}/{metric}"
            iteration.metrics[name] = estimate.value
            ends = (estimate.low, estimate.high)
            iteration.metrics |= {f"{name}{end}": v for end, v in zip(ENDS, ends, strict=True)}
        iteration.metrics |= {f"held_out_failed/{f.key}": f.count for f in failures}
        iteration.unscored = self._dead(failures)
        if not (iteration.stop or iteration.unscored):
            self._saved.note_value(iteration.done, total(table, self._sets, self._scales()))
            self._compare_with_first(iteration, table)

    def reopen(self) -> None:
        """Take over what was measured before the run was cut.

        Raises:
            ConfigError: with these settings its numbers would be others.
        """
        self._tables.read()
        self._tables.refuse_changes()

    def before(self) -> pd.DataFrame:
        """Every held-out prompt, and the first validation's, of the untouched base; what was measured is kept."""
        table = self._of_base("before", self._whole_sets)
        self._first = self._of_base("first", self._sets)
        if self._whole_sets and self._setup.processes.is_main:
            write_averaging(self._setup.folder, averaging(table, self._whole_sets))
        return table

    def after(self) -> pd.DataFrame:
        """Every held-out prompt of the averaged policy, unless that was measured already."""
        done = self._trainer.state.done
        if not self._whole_sets:
            return pd.DataFrame(columns=list(COLUMNS))
        kept = self._kept("after") if self._tables.is_of("after", done) else None
        if kept is not None:
            return kept
        table, _, failures = self._draw(self._whole_sets, "ema")
        self._write("after", table, failures, done)
        return table

    def changes(self, before: pd.DataFrame, after: pd.DataFrame) -> list[Change]:
        """What became of every metric between two whole tables."""
        return changes(before, after, averaging(after, self._whole_sets))

    def _of_base(self, name: str, sets: list[ValidationSet]) -> pd.DataFrame:
        if not sets:
            return pd.DataFrame(columns=list(COLUMNS))
        kept = self._kept(name)
        lacking = [s.name for s in sets] if kept is None else self._tables.lacking(name)
        if kept is not None and not lacking:
            return kept
        if self._trainer.state.done:
            self._say(f"measuring {', '.join(lacking)} of the untouched base ({name})")
        table, _, failures = self._draw([s for s in sets if s.name in lacking], "ref")
        if kept is not None:
            old = kept.loc[~kept["benchmark"].isin(lacking)]
            table = pd.concat([old, table], ignore_index=True)
            table = table.sort_values(list(COLUMNS), ignore_index=True)
        self._write(name, table, failures, 0)
        return table

    def _kept(self, name: str) -> pd.DataFrame | None:
        return self._setup.processes.from_main(lambda: self._tables.kept(name, self._say))

    def _write(
        self, name: str, table: pd.DataFrame, failures: Sequence[Failures], done: int
    ) -> None:
        dead = self._dead(failures)
        if dead:
            raise RewardFailed(f"held-out prompts ({name}): {dead}")
        if self._setup.processes.is_main:
            self._tables.write(name, table, done)

    def _draw(
        self, sets: list[ValidationSet], which: str
    ) -> tuple[pd.DataFrame, Mapping[str, Tile], list[Failures]]:
        """Draw and score, in smaller batches where the memory does not do."""
        self._pace.begin()
        while True:
            try:
                with self._setup.policy.drawing(which):
                    found = validate(
                        self._setup.base.pipeline,
                        sets,
                        batch_size=self._trainer.batch_size,
                        processes=self._setup.processes,
                        progress=self._progressed,
                    )
            except torch.OutOfMemoryError:
                self._trainer.halve()
                continue
            self._setup.refuse_written_over()
            for failures in found[2]:
                self._say(f"warning: held-out: {failures}")
            return found

    def _progressed(self, stage: str, done: int, total: int) -> None:
        self._progress(stage, done, total)
        self._pace(f"{stage}: {done} of {total} images")

    def _compare_with_first(self, iteration: Iteration, table: pd.DataFrame) -> None:
        """Have the guards check rewards that are watched or trained, against the base if it was measured."""
        if iteration.done == 0 or self._first.empty:
            return
        found = changes(self._first, table, averaging(table, self._sets))
        trained, watched = (
            {f"{c.benchmark}/{c.metric}": _gain(c, by[c.metric]) for c in found if c.metric in by}
            for by in ({r.key: r for r in of} for of in (self._setup.trained, self._setup.watched))
        )
        if trained:
            self._watch.check_held_out(iteration, trained, watched)

    def _dead(self, failures: Sequence[Failures]) -> str:
        """Of a reward that scored nothing; of one that weighs 0 nothing is asked."""
        weights = {r.key: r.spec.weight for r in (*self._setup.trained, *self._setup.watched)}
        return next((str(f) for f in failures if f.all and weights[f.key]), "")

    def _scales(self) -> dict[str, float]:
        return {r.key: r.spec.weight / r.scale for r in self._setup.trained}


def _gain(change: Change, reward: WeightedReward) -> Estimate:
    """A change counted upwards where it is for the better: of some rewards less is better."""
    found = change.difference
    if reward.scale > 0:
        return found
    return replace(found, value=-found.value, low=-found.high, high=-found.low)
