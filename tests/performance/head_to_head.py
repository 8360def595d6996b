"""How many images, CPU seconds and network calls two recipes need to a held-out score, by a protocol in a TOML.

Each side tries as many settings with one seed and one image budget; the best by its last validation is frozen and run
with new seeds until the running mean of three validations crosses the last threshold, or the budget is spent. All runs
are reported; one that does not cross is censored. Validation stands outside the clock. A run that is finished is not
made again, so that the whole can be stopped and begun again.

Run: python tests/performance/head_to_head.py head-to-head [--protocol FILE]
"""

import argparse
import contextlib
import json
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from nftbench.evaluation.loading import quiet
from nftbench.runs.io import write_atomic
from nftbench.training.callbacks.base import Iteration
from nftbench.training.config.overrides import load_recipe
from nftbench.training.config.recipe import Recipe
from nftbench.training.run import TrainingRun
from rewards.base import ConfigError

PROTOCOL = Path(__file__).with_name("head_to_head.toml")
COSTS = ("images", "cpu_seconds", "network_calls")
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
    cpu_seconds: float = 0.0
    network_calls: int = 0
    """Rows of forward passes."""
    points: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._iterate = self.run.trainer.iterate
        self.run.trainer.iterate = self._timed
        self.run.policy.denoiser.register_forward_pre_hook(self._count, with_kwargs=True)
        self._counting = False

    def __call__(self, iteration: Iteration) -> None:
        """Note a validation; Crossed where it is the last that is needed."""
        if self.metric not in iteration.metrics:
            return
        costs = (iteration.metrics["images"], self.cpu_seconds, self.network_calls)
        point = dict(zip(COSTS, costs, strict=True)) | {"score": iteration.metrics[self.metric]}
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
    recipe = load_recipe(side["recipe"], [*protocol["common"], *settings, *protocol["validation"]])
    if side.get("first_stage"):
        fields = recipe.model_dump(mode="json")
        fields["stages"] = fields["stages"][:1]
        fields["stages"][0] |= {"lr": None, "final_lr": None}
        recipe = Recipe.model_validate(fields)
    size = recipe.stages[0].groups * recipe.stages[0].group_size
    fields = recipe.model_dump(mode="json")
    fields["stages"][0]["iterations"] = images // size
    fields["evaluation"]["every"] = protocol["every_images"] // size
    return Recipe.model_validate(fields)


def measure(
    recipe: Recipe, seed: int, folder: Path, protocol: dict[str, Any], threshold: float
) -> list[dict]:
    """The validations of one run, made unless it is there."""
    path = folder / "points.json"
    if not path.is_file():
        recipe = recipe.model_copy(update={"seed": seed})
        run = TrainingRun(recipe, folder, Accelerator(), lambda *_: None, lambda _: None)
        meter = Meter(run, f"held_out/{protocol['benchmark']}/{protocol['metric']}", threshold)
        run.callbacks.append(meter)
        run.open(resume=False)
        with contextlib.suppress(Crossed):
            run._iterate()  # no validation of the whole before and after
        write_atomic(path, json.dumps(meter.points, indent=1).encode())
    return json.loads(path.read_text("utf-8"))


def compare(protocol: dict[str, Any], sides: dict[str, Any], out: Path) -> dict[str, Any]:
    """Screen and confirm both sides."""
    counts = {name: len(side["settings"]) for name, side in sides.items()}
    if min(counts.values()) < 1 or len(set(counts.values())) > 1:
        raise ConfigError(f"expected as many settings a side, at least one, got {counts}")
    found: dict[str, Any] = {}
    for name, side in sides.items():
        screened = []
        for i, settings in enumerate(side["settings"]):
            recipe = recipe_of(side, settings, protocol, protocol["screen_images"])
            folder = out / f"{name}-screen-{i}"
            points = measure(recipe, protocol["screen_seed"], folder, protocol, np.inf)
            screened.append({"settings": settings, "score": points[-1]["score"], "points": points})
            print(f"{name} screen {settings}: {points[-1]['score']:.3f}", flush=True)
        best = max(screened, key=lambda one: one["score"])
        recipe = recipe_of(side, best["settings"], protocol, protocol["confirm_images"])
        confirmed = {}
        for seed in protocol["confirm_seeds"]:
            points = measure(
                recipe, seed, out / f"{name}-seed-{seed}", protocol, protocol["thresholds"][-1]
            )
            confirmed[seed] = {"points": points}
            for threshold in protocol["thresholds"]:
                confirmed[seed][str(threshold)] = crossing(points, threshold)
            print(
                f"{name} seed {seed}: {confirmed[seed][str(protocol['thresholds'][0])]}", flush=True
            )
        found[name] = {"screened": screened, "best": best["settings"], "confirmed": confirmed}
    return found


def ratios(found: dict[str, Any], thresholds: Sequence[float]) -> list[str]:
    """Lines of the second side's cost over the first's: of the medians, and its range over all pairs of seeds."""
    one, other = found
    lines = []
    for threshold in map(str, thresholds):
        costs = {
            name: [run[threshold] for run in found[name]["confirmed"].values()] for name in found
        }
        crossed = {name: [c for c in runs if c] for name, runs in costs.items()}
        told = ", ".join(f"{n} {len(c)} of {len(costs[n])} crossed" for n, c in crossed.items())
        if not all(crossed.values()):
            lines.append(f"{threshold}: {told}: no ratio")
            continue
        for key in COSTS:
            mine, theirs = ([c[key] for c in crossed[n]] for n in (one, other))
            pairs = [b / a for a in mine for b in theirs]
            middle = np.median(theirs) / np.median(mine)
            lines.append(
                f"{threshold}: {key} {other} / {one} = {middle:.2f} ({min(pairs):.2f} to {max(pairs):.2f}); {told}"
            )
    return lines


def main() -> None:
    """Measure, print and write `result.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    asked = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    file = tomllib.loads(asked.protocol.read_text("utf-8"))
    asked.out.mkdir(parents=True, exist_ok=True)
    found = compare(file["protocol"], file["sides"], asked.out)
    lines = ratios(found, file["protocol"]["thresholds"])
    print("\n".join(lines))
    write_atomic(
        asked.out / "result.json", json.dumps(found | {"ratios": lines}, indent=1).encode()
    )


if __name__ == "__main__":
    main()
