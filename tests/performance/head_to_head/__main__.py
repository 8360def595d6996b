"""How many images, CPU seconds and network calls two recipes need to a held-out score, by a protocol in a TOML.

Each side tries as many settings with one seed and one image budget; the best by its last validation is frozen and run
with new seeds until the running mean of three validations crosses the last threshold, or the budget is spent. All runs
are reported; one that does not cross is censored: its cost is more than what it was given. Validation stands outside
the clock. A run that is finished is not made again, and one that was cut goes on from its last checkpoint, so that the
whole can be stopped and begun again, or made a run a call.

Run: python -m tests.performance.head_to_head OUT [--protocol FILE]
     python -m tests.performance.head_to_head OUT --list            the runs, and which are done
     python -m tests.performance.head_to_head OUT --run nft-screen-0   this run alone
     python -m tests.performance.head_to_head OUT --table           the table of what is done
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from nftbench.evaluation.scoring.loading import quiet
from nftbench.runs.io import write_atomic
from nftbench.training import RewardFailed, TrainingFailed
from nftbench.training.callbacks.base import Iteration
from nftbench.training.callbacks.checkpoints import checkpoints
from nftbench.training.config.overrides import difference, load_recipe
from nftbench.training.config.recipe import Recipe
from nftbench.training.config.record import as_chosen, stored_recipe
from nftbench.training.run import TrainingRun
from rewards.base import ConfigError
from tests.performance.head_to_head.protocol import read_protocol
from tests.performance.head_to_head.table import COSTS, lines_of, ratios

PROTOCOL = Path(__file__).with_name("protocol.toml")
POINTS = "points.json"
"""In a run's folder, once it is finished."""
SPAN = 3
"""Validations in the running mean."""


class Crossed(Exception):
    """The last threshold was reached."""


@dataclass
class Meter:
    """Counts what the iterations of a run cost, and notes each validation beside it; a callback."""

    run: TrainingRun
    metric: str
    last_threshold: float
    costs: Path
    """A line an iteration: what a run that was cut goes on counting from."""
    cpu_seconds: float = 0.0
    network_calls: int = 0
    """Rows of forward passes."""
    points: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        done = self.run.trainer.state.done
        lines = self.costs.read_text("utf-8").splitlines() if self.costs.is_file() else []
        kept = [line for text in lines if (line := json.loads(text))["iteration"] <= done]
        kept = kept if done else []
        write_atomic(self.costs, "".join(f"{json.dumps(line)}\n" for line in kept).encode())
        for line in kept:
            self.cpu_seconds, self.network_calls = line["cpu_seconds"], line["network_calls"]
        self.points = [
            {key: line[key] for key in (*COSTS, "score")} for line in kept if "score" in line
        ]
        self._iterate = self.run.trainer.iterate
        self.run.trainer.iterate = self._timed
        self.run.policy.denoiser.register_forward_pre_hook(self._count, with_kwargs=True)
        self._counting = False

    def __call__(self, iteration: Iteration) -> None:
        """Note the costs, and a validation; Crossed where it is the last that is needed."""
        costs = (iteration.metrics["images"], self.cpu_seconds, self.network_calls)
        point = dict(zip(COSTS, costs, strict=True))
        if self.metric in iteration.metrics:
            point["score"] = iteration.metrics[self.metric]
        with self.costs.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps({'iteration': iteration.done} | point)}\n")
        if "score" not in point:
            return
        self.points.append(point)
        if crossing(self.points, self.last_threshold):
            raise Crossed

    def _timed(self) -> dict[str, float]:
        self._counting, begun = True, time.process_time()
        try:
            return self._iterate()
        finally:
            self.cpu_seconds += time.process_time() - begun
            self._counting = False

    def _count(self, _: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self._counting:
            self.network_calls += len(
                kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            )


def crossing(points: Sequence[dict[str, float]], threshold: float) -> dict[str, float] | None:
    """Costs where the running mean of `SPAN` validations first exceeds the threshold, linear between validations."""
    means = [
        {
            key: p[key]
            if key != "score"
            else float(np.mean([q["score"] for q in points[i - SPAN + 1 : i + 1]]))
            for key in (*COSTS, "score")
        }
        for i, p in enumerate(points)
        if i >= SPAN - 1
    ]
    for before, after in zip([None, *means], means, strict=False):
        if after["score"] > threshold:
            if before is None:
                return {key: after[key] for key in COSTS}
            share = (threshold - before["score"]) / (after["score"] - before["score"])
            return {key: before[key] + share * (after[key] - before[key]) for key in COSTS}
    return None


def recipe_of(
    side: dict[str, Any], settings: Sequence[str], protocol: dict[str, Any], images: int
) -> Recipe:
    """A side's recipe with the common settings, its own, and so many iterations as the images allow."""
    own = [*protocol["common"], *settings, *protocol["validation"]]
    first = bool(side.get("first_stage"))
    recipe = load_recipe(side["recipe"], ["stages.lr=off", "stages.final_lr=off"] * first + own)
    size = recipe.stages[0].groups * recipe.stages[0].group_size
    if images < size:
        raise ConfigError(
            f"{images} images are less than one iteration of {side['recipe']}, which has {size}; allow more"
        )
    fields = recipe.model_dump(mode="json")
    if first:
        fields["stages"] = fields["stages"][:1]
    fields["stages"][0]["iterations"] = images // size
    fields["evaluation"]["every"] = every = max(protocol["every_images"] // size, 1)
    fields["checkpoints"]["every"] = every
    return Recipe.model_validate(fields)


def measure(recipe: Recipe, folder: Path, protocol: dict[str, Any], threshold: float) -> list[dict]:
    """The validations of one run, made unless it is there; one that was cut goes on from its last checkpoint.

    One that fails, such as of a learning rate that is too high, is over: it did not cross, and its last point says why.
    """
    path = folder / POINTS
    if not path.is_file():
        run = TrainingRun(recipe, folder, Accelerator(), lambda *_: None, lambda _: None)
        run.open(resume=bool(checkpoints(folder / "checkpoints")))
        metric = f"held_out/{protocol['benchmark']}/{protocol['metric']}"
        meter = Meter(run, metric, threshold, folder / "costs.jsonl")
        run.callbacks.insert(
            -1, meter
        )  # before the checkpoint, which must not know more than the costs
        try:
            run._iterate()  # no validation of the whole before and after
        except Crossed:
            pass
        except RewardFailed:  # nothing of the policy: it goes on once the reward is back
            raise
        except TrainingFailed as error:
            if not meter.points:
                raise
            meter.points[-1] |= {"failed": str(error)}
        if not meter.points:
            raise ConfigError(f"{folder} has no {metric}; expected a validation that measures it")
        write_atomic(path, json.dumps(meter.points, indent=1).encode())
    return read_points(folder, recipe)


def read_points(folder: Path, recipe: Recipe) -> list[dict]:
    """The validations of a finished run.

    Raises:
        ConfigError: it is a run of something else than the protocol asks for here.
    """
    stored = stored_recipe(folder)
    other = difference(as_chosen(recipe, stored), stored)
    if other:
        raise ConfigError(
            f"{folder} is a finished run of another protocol (other {', '.join(other[:3])}); choose another OUT, or "
            "remove that folder to have it made again"
        )
    return json.loads((folder / POINTS).read_text("utf-8"))


# --- the runs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Two sides by one protocol, and the folder that holds their runs."""

    protocol: dict[str, Any]
    sides: dict[str, Any]
    out: Path

    def __post_init__(self) -> None:
        counts = {name: len(side["settings"]) for name, side in self.sides.items()}
        if len(counts) != 2 or min(counts.values()) < 1 or len(set(counts.values())) > 1:
            raise ConfigError(
                f"expected two sides with as many settings a side, at least one, got {counts}"
            )
        seeds = self.protocol["confirm_seeds"]
        if not seeds or len(set(seeds)) < len(seeds):
            raise ConfigError(f"expected different confirm_seeds, at least one, got {seeds}")
        if self.protocol["screen_seed"] in seeds:
            raise ConfigError(
                f"seed {self.protocol['screen_seed']} chose the settings; confirm_seeds must be new ones"
            )

    @property
    def names(self) -> list[str]:
        """Every run, in the order in which they can be made."""
        screens = [
            f"{n}-screen-{i}" for n, s in self.sides.items() for i in range(len(s["settings"]))
        ]
        return screens + [
            f"{n}-seed-{s}" for s in self.protocol["confirm_seeds"] for n in self.sides
        ]

    def done(self, name: str) -> bool:
        """Whether a run is finished."""
        return (self.out / name / POINTS).is_file()

    def points(self, name: str) -> list[dict]:
        """The validations of a run that is finished, and is of this protocol."""
        return read_points(self.out / name, self.recipe(name))

    def make(self, name: str) -> list[dict]:
        """One run's validations.

        Raises:
            ConfigError: no such run, or one that needs others first.
        """
        if name not in self.names:
            raise ConfigError(f"no run {name!r}; expected one of {', '.join(self.names)}")
        last = np.inf if name.rsplit("-", 2)[1] == "screen" else self.protocol["thresholds"][-1]
        return measure(self.recipe(name), self.out / name, self.protocol, last)

    def recipe(self, name: str) -> Recipe:
        """What a run does, its seed included.

        Raises:
            ConfigError: it needs others first.
        """
        side, kind, number = name.rsplit("-", 2)
        if kind == "screen":
            settings, seed = self.sides[side]["settings"][int(number)], self.protocol["screen_seed"]
        else:
            settings, seed = self.best(side), int(number)
        images = self.protocol["screen_images" if kind == "screen" else "confirm_images"]
        recipe = recipe_of(self.sides[side], settings, self.protocol, images)
        return recipe.model_copy(update={"seed": seed})

    def best(self, side: str) -> list[str]:
        """The settings with the best last validation.

        Raises:
            ConfigError: not all were tried.
        """
        settings = self.sides[side]["settings"]
        names = [f"{side}-screen-{i}" for i in range(len(settings))]
        open_ones = [name for name in names if not self.done(name)]
        if open_ones:
            raise ConfigError(f"first make {', '.join(open_ones)}; the best of them is confirmed")
        scores = [self.points(name)[-1]["score"] for name in names]
        return settings[int(np.nanargmax(scores))]

    def found(self) -> dict[str, Any]:
        """All that is done so far, each side's screens and confirming runs."""
        return {side: self._side(side) for side in self.sides}

    def _side(self, side: str) -> dict[str, Any]:
        settings = self.sides[side]["settings"]
        screened = [
            {"settings": of, "points": self.points(name)}
            for i, of in enumerate(settings)
            if self.done(name := f"{side}-screen-{i}")
        ]
        confirmed = {}
        for seed in self.protocol["confirm_seeds"]:
            if self.done(name := f"{side}-seed-{seed}"):
                points = self.points(name)
                confirmed[seed] = {"points": points, "spent": points[-1]} | {
                    str(threshold): crossing(points, threshold)
                    for threshold in self.protocol["thresholds"]
                }
        best = self.best(side) if len(screened) == len(settings) else []
        return {"screened": screened, "best": best, "confirmed": confirmed}


def main() -> None:
    """Make what is asked for, print the table and write `result.json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--run", help="make this run alone")
    what.add_argument("--list", action="store_true", help="name the runs")
    what.add_argument("--table", action="store_true", help="print what is done")
    try:
        _main(parser.parse_args())
    except ConfigError as error:
        parser.exit(2, f"{error}\n")
    except TrainingFailed as error:
        parser.exit(3, f"{error}\n")


def _main(arguments: argparse.Namespace) -> None:
    file = read_protocol(arguments.protocol)
    whole = Comparison(file["protocol"], file["sides"], arguments.out)
    if arguments.list:
        print("\n".join(f"{'done' if whole.done(n) else 'open'} {n}" for n in whole.names))
        return
    quiet()
    torch.set_num_threads(1)
    for name in () if arguments.table else (arguments.run,) if arguments.run else whole.names:
        arguments.out.mkdir(parents=True, exist_ok=True)
        points = whole.make(name)
        print(
            f"{name}: {points[-1]['score']:.3f} after {points[-1]['images']:g} images", flush=True
        )
    found, thresholds = whole.found(), file["protocol"]["thresholds"]
    lines = [*lines_of(found, thresholds), *ratios(found, thresholds)]
    print("\n".join(lines))
    if arguments.out.is_dir():
        result = json.dumps(found | {"protocol": file["protocol"], "table": lines}, indent=1)
        write_atomic(arguments.out / "result.json", result.encode())


if __name__ == "__main__":
    main()
