"""Signs that a policy is going wrong, read off the numbers of a run. Pure: numbers in, findings out.

A reward does not see everything. A policy that is trained on one alone tends to inflate its velocities, to brighten or
saturate its images, or to gain where it is trained and lose elsewhere; and a run can go on for hours without learning.
Each guard watches one number, warns from one value on and stops the run from another on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nftbench.stats.estimates import Estimate
from nftbench.training.config.recipe import GuardConfig, Threshold

SPAN = 3
"""Iterations that a value is the mean of, at the start as later: one odd iteration neither warns nor stops."""

MOST_ERRORS = 999.0
"""A change that is the same for every prompt has no standard error: it is said to be this many."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a guard saw."""

    guard: str
    level: Literal["warn", "stop"]
    text: str
    """What was seen, the limits, what it may mean."""


@dataclass(frozen=True, slots=True)
class _Watch:
    """How a metric is watched and what is said of it."""

    since: Literal["start", "one", "zero"]
    """What its size is measured from: the run's first iterations, 1, or 0."""
    relative: bool
    """To the start, or in the metric's own units."""
    seen: str
    """With {size} and {way}."""
    ways: tuple[str, str]
    """Words for more and for less."""
    advice: str


_GRIDS = "policies trained on a reward alone often drift so; look at grids/"
_SLOWER = "raise stages.kl_weight or lower stages.lr (where it is not set: optimizer.lr)"
_WATCHES = {
    "x_0_norm": _Watch(
        "start",
        True,
        "clean latents are {size:.0%} {way} than at the start",
        ("larger", "smaller"),
        _GRIDS,
    ),
    "velocity_ratio": _Watch(
        "one",
        False,
        "velocities are {size:.0%} {way} than the reference policy's",
        ("larger", "smaller"),
        f"images over-sharpen or wash out so; {_SLOWER}",
    ),
    "brightness": _Watch(
        "start",
        False,
        "images are {size:.2f} {way} than at the start",
        ("brighter", "darker"),
        _GRIDS,
    ),
    "saturation": _Watch(
        "start",
        False,
        "images are {size:.2f} {way} saturated than at the start",
        ("more", "less"),
        _GRIDS,
    ),
    "zero_spread": _Watch(
        "zero",
        False,
        "in {size:.0%} of groups all images got one reward, which teaches nothing",
        ("", ""),
        "the prompts are too easy or too hard, or the reward is too coarse",
    ),
    "kl_exploded": _Watch(
        "zero",
        False,
        "{size:.0%} of pairs of image and time are more than 1 away from the reference policy",
        ("", ""),
        "a tail that runs away drags the rest after it; set stages.trust_region",
    ),
    "kl_p99": _Watch(
        "zero",
        False,
        "one pair of image and time in a hundred is more than {size:.3g} away from the reference policy",
        ("", ""),
        "a tail that runs away drags the rest after it; set stages.trust_region",
    ),
    "kl": _Watch(
        "zero",
        False,
        "the policy is {size:.3g} away from the reference policy",
        ("", ""),
        _SLOWER,
    ),
}


class Guards:
    """Watches one run; `state` and `load_state` make it go on exactly where it was."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._first: dict[str, list[float]] = {}
        self._last: dict[str, list[float]] = {}
        self._idle = 0
        self._warned: dict[str, float] = {}

    def check(self, measured: Mapping[str, float]) -> list[Finding]:
        """Look at one iteration.

        A warning comes again only when it had cleared, or has grown by half; a stop comes every time.

        Args:
            measured: what the trainer knows of `x_0_norm` (root mean square of clean latents), `velocity_ratio`
                (|v_theta| / |v_ref|), `brightness` and `saturation` (see `picture_statistics`), `zero_spread` (share
                of groups), `kl` and `old_deviation` (mean |v_theta - v_old|); other names are passed over.

        Returns:
            The findings, none for the run's first iterations but for numbers that are not finite.
        """
        findings = [self._metric(name, measured[name]) for name in _WATCHES if name in measured]
        if "old_deviation" in measured:
            findings.append(self._still(measured["old_deviation"]))
        return [f for f in findings if f]

    def held_out(
        self, trained: Mapping[str, Estimate], watched: Mapping[str, Estimate]
    ) -> list[Finding]:
        """Look at an evaluation: does the policy lose elsewhere what it gains where it is trained?

        Where several rewards are trained, one of them may be lost for another: each is watched, too.

        Args:
            trained: mean change since the start of each reward that is trained on, by name; above 0 is better.
            watched: the same of each reward that is not; above 0 is better there, too.
        """
        everything = {**trained, **watched}
        found = [
            self._fallen(name, change, {n: e.value for n, e in trained.items() if n != name})
            for name, change in everything.items()
            if name in watched or len(trained) > 1
        ]
        return [f for f in found if f]

    def restart(self) -> None:
        """Begin anew with the next iteration as the start: another stage's prompts make other images."""
        self._first, self._last, self._idle, self._warned = {}, {}, 0, {}

    def state(self) -> dict[str, Any]:
        """All that the guards remember, JSON-ready."""
        return {
            "first": {name: list(values) for name, values in self._first.items()},
            "last": {name: list(values) for name, values in self._last.items()},
            "idle": self._idle,
            "warned": dict(self._warned),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self._first = {name: list(values) for name, values in state["first"].items()}
        self._last = {name: list(values) for name, values in state["last"].items()}
        self._idle, self._warned = state["idle"], dict(state["warned"])

    def _metric(self, name: str, value: float) -> Finding | None:
        if not np.isfinite(value):
            return Finding(name, "stop", f"{name}: expected a finite number, got {value}")
        watch = _WATCHES[name]
        first = self._first.setdefault(name, [])
        if len(first) < SPAN:
            first.append(float(value))
        last = self._last[name] = [*self._last.get(name, []), float(value)][-SPAN:]
        if len(last) < SPAN:
            return None
        start = float(np.mean(first))
        change = float(np.mean(last)) - {"start": start, "one": 1.0, "zero": 0.0}[watch.since]
        size = abs(change) / (max(abs(start), 1e-12) if watch.relative else 1)
        seen = watch.seen.format(size=size, way=watch.ways[change < 0])
        return self._judge(name, name, size, seen, watch.advice)

    def _still(self, deviation: float) -> Finding | None:
        self._idle = self._idle + 1 if deviation == 0 else 0
        return self._judge(
            "idle",
            "idle",
            self._idle,
            f"the trained policy was the old one in every update of {self._idle} iterations",
            "NFT has no contrast then; take another old_schedule, or more updates an iteration",
        )

    def _fallen(self, name: str, change: Estimate, others: Mapping[str, float]) -> Finding | None:
        """A reward that fell while another one, which is trained on, rose."""
        rose = [f"{n} got better by {value:.3g}" for n, value in others.items() if value > 0]
        known = bool(rose) and not np.isnan(change.stderr)
        fall = max(0.0, -change.value) if known else 0.0
        errors = min(fall / max(change.stderr, 1e-12), MOST_ERRORS) if known else 0.0
        return self._judge(
            "held_out",
            f"held_out {name}",
            errors,
            f"{name} got worse by {fall:.3g}, {errors:.1f} standard errors, while the trained "
            f"{' and '.join(rose)}",
            "the policy exploits what it is trained on; look at grids/",
        )

    def _judge(self, guard: str, key: str, size: float, seen: str, advice: str) -> Finding | None:
        """A finding, unless it is below the limits or was said already."""
        limits: Threshold = getattr(self.config, guard)
        stop = limits.stop is not None and size >= limits.stop
        if not stop and (limits.warn is None or size < limits.warn):
            self._warned.pop(key, None)
            return None
        if not stop and size < 1.5 * self._warned.get(key, 0.0):
            return None
        self._warned[key] = size
        level = "stop" if stop else "warn"
        return Finding(guard, level, f"{guard}: {seen} {_limits(limits)}: {advice}")


def _limits(limits: Threshold) -> str:
    named = {"warn": limits.warn, "stop": limits.stop}
    return f"({', '.join(f'{k} at {v:g}' for k, v in named.items() if v is not None)})"


def picture_statistics(images: np.ndarray) -> dict[str, float]:
    """How bright and how colourful images are.

    Args:
        images: uint8 RGB (N, H, W, 3), N >= 1.

    Returns:
        `brightness`, the mean of all channels, and `saturation`, the mean difference of a pixel's largest and
        smallest channel; both in [0, 1] and means over all pixels.
    """
    red, green, blue = np.moveaxis(
        images, -1, 0
    )  # max(axis=-1) over three values is ten times slower
    largest = np.maximum(np.maximum(red, green), blue)
    spread = largest - np.minimum(np.minimum(red, green), blue)
    return {
        "brightness": float(images.mean(dtype=np.float64)) / 255,
        "saturation": float(spread.mean(dtype=np.float64)) / 255,
    }
