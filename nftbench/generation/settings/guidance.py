"""What a pipeline's guidance arguments do, found by turning each and watching the network.

An argument is *cfg* where it decides whether the network is asked a second time (and what the solver is then given
shows the scale: given = unguided + s (guided - unguided)), *embedded* where it reaches the network itself, and
*ignored* where nothing changes. Pipelines differ in the scale that means "none": 1 for most, 0 where they add
s (guided - unguided) to the guided output, which is a scale of s + 1 in everybody else's words.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from nftbench.generation.recorder.call_arguments import flat, same
from nftbench.generation.settings.probe import Observation, SolverStep
from rewards.base import ConfigError

Kind = Literal["cfg", "embedded", "ignored"]
Draw = Callable[[Mapping[str, Any]], Observation]
"""One short call of the pipeline with these arguments besides the usual ones."""

CANDIDATES = re.compile(r"(guidance|cfg|pag)_scale$")
"""Names of arguments that may be a guidance scale; what they are is seen."""
HIGH = 3.0
NEGATIVES = ("", " ")
"""Negative prompts that say nothing; some text encoders take no empty text."""
OTHERS = ("a photo of a cat", "a house")
"""Negative prompts that say something."""
TOLERANCE = 0.02
"""Of a fitted scale, relative; half precision blurs it."""
ROUNDING = 1e-7
"""Of a cosine, by which two directions that are the same may differ in single precision."""
REST = 5e-3
"""Of what the solver was given, the share that a sum of two predictions may leave unexplained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """One guidance argument of a pipeline."""

    name: str
    kind: Kind
    default: float | None
    """The pipeline's own; None where it has none."""
    off: float | None = None
    """Of a cfg knob: the value at which the network is called once; None where no value does it."""
    shift: float = 0.0
    """Of a cfg knob: the scale in everybody's words is the argument's value plus this."""
    negative: str | None = None
    """The negative prompt without which it does nothing; None where it needs none."""

    @property
    def needs_negative(self) -> bool:
        """Whether it works only beside a negative prompt."""
        return self.negative is not None

    @property
    def used_by_default(self) -> bool:
        """Whether the pipeline's own default asks for this guidance."""
        return self.default is not None and self.default != self.off


def candidates(pipeline: DiffusionPipeline) -> dict[str, float | None]:
    """The arguments of a pipeline that may be guidance scales, with their defaults."""
    parameters = inspect.signature(pipeline.__call__).parameters
    return {
        name: float(p.default) if isinstance(p.default, int | float) else None
        for name, p in parameters.items()
        if CANDIDATES.search(name)
        and (
            p.default is None
            or (isinstance(p.default, int | float) and not isinstance(p.default, bool))
        )
    }


def find_knobs(
    pipeline: DiffusionPipeline, draw: Draw, natural: Observation, *, with_negative: bool
) -> list[Knob]:
    """Turn each guidance argument and see what it does.

    One of which the pipeline refuses values is turned again beside the others' values that are off: some draw without
    classifier-free guidance only where perturbed attention is off as well.

    Args:
        pipeline: any.
        draw: one short call for one image.
        natural: of a call that names no guidance argument.
        with_negative: whether an argument that does nothing is tried once more beside a negative prompt.
    """
    negative = "negative_prompt" in inspect.signature(pipeline.__call__).parameters
    refused: set[str] = set()

    def watched(arguments: Mapping[str, Any]) -> Observation:
        try:
            return draw(arguments)
        except ConfigError:
            refused.update(arguments)
            raise

    found = []
    for name, default in candidates(pipeline).items():
        knob = _turn(watched, name, default, natural, {})
        for text in NEGATIVES if negative and with_negative else ():
            if knob.kind == "ignored":
                beside = _turn(watched, name, default, natural, {"negative_prompt": [text]})
                knob = replace(beside, negative=text) if beside.kind == "cfg" else knob
        found.append(knob)
    off = {k.name: k.off for k in found if k.kind == "cfg" and not k.needs_negative}
    again = [k.kind == "ignored" and k.name in refused and bool(off) for k in found]
    return [
        _turn(draw, k.name, k.default, natural, off) if turned else k
        for k, turned in zip(found, again, strict=True)
    ]


def negative_is_heard(
    draw: Draw, arguments: Mapping[str, Any], seen: Observation, asked: str
) -> bool:
    """Whether anything turns on a negative prompt; where nothing does, a row would name what was not drawn with.

    Args:
        draw: one short call for one image.
        arguments: of the call that was seen, besides the negative prompt.
        seen: that call.
        asked: its negative prompt.
    """
    other = next(text for text in OTHERS if text != asked.strip())
    turned = draw({**arguments, "negative_prompt": [other]})
    given = [[step.model_output for step in one.steps] for one in (seen, turned)]
    return len(given[0]) != len(given[1]) or not all(map(same, *given))


def main_knob(knobs: Sequence[Knob]) -> Knob | None:
    """The knob that is meant where there are several: one that the model uses itself, and the plainest name."""
    order = sorted(knobs, key=lambda k: (k.needs_negative, not k.used_by_default, len(k.name)))
    return order[0] if order else None


def _turn(
    draw: Draw,
    name: str,
    default: float | None,
    natural: Observation,
    beside: Mapping[str, Any],
) -> Knob:
    ignored = Knob(name=name, kind="ignored", default=default)
    high_value = HIGH if default != HIGH else HIGH + 1
    high = _drawn(draw, {name: high_value, **beside})
    if high is None or (_alike(high, natural) and not high.guided):
        return ignored
    seen = {v: one for v in (1.0, 0.0) if (one := _drawn(draw, {name: v, **beside}))}
    if not seen or all(_alike(one, high) for one in seen.values()):
        return ignored
    if any(_rows(one) < _rows(high) for one in seen.values()):
        off = max(v for v, one in seen.items() if _rows(one) < _rows(high))
        shift = _shift(high, high_value, off)
        return Knob(name=name, kind="cfg", default=default, off=off, shift=shift)
    return ignored if beside else _without_second_call(ignored, seen[max(seen)], high, high_value)


def _without_second_call(
    knob: Knob, low: Observation, high: Observation, high_value: float
) -> Knob:
    """What an argument is that changes no number of calls."""
    if _reaches_network(low, high):
        return replace(knob, kind="embedded")
    fitted = fitted_scale(high.last)
    if high.guided and fitted is not None:  # guided in every call; the sum shows by how much
        shift = float(round(fitted - high_value))
        return replace(knob, kind="cfg", off=1 - shift, shift=shift)
    return knob


def _drawn(draw: Draw, arguments: Mapping[str, Any]) -> Observation | None:
    """One call; None where the pipeline refuses the value."""
    try:
        return draw(arguments)
    except ConfigError:
        return None


def _alike(a: Observation, b: Observation) -> bool:
    """Whether two calls asked their networks the same and gave their solvers the same."""
    return len(a.steps) == len(b.steps) and all(
        same(one.model_output, two.model_output)
        and len(one.calls) == len(two.calls)
        and all(
            same(dict(p.arguments), dict(q.arguments))
            for p, q in zip(one.calls, two.calls, strict=True)
        )
        for one, two in zip(a.steps, b.steps, strict=True)
    )


def _rows(seen: Observation) -> float:
    return sum(seen.calls_per_step.values())


def _shift(high: Observation, value: float, off: float) -> float:
    """What must be added to the argument: from what the solver was given, else from the value that is off."""
    fitted = fitted_scale(high.last)
    if fitted is not None and abs(fitted - value - round(fitted - value)) < 0.1:
        return float(round(fitted - value))
    for shift in (0.0, 1.0):
        if high.last and _points_along(high.last, value + shift):
            return shift
    return 1.0 - off


def _reaches_network(low: Observation, high: Observation) -> bool:
    """Whether two calls that differ in one argument hand the network other arguments at their first step."""
    for one, two in zip(low.steps, high.steps, strict=False):
        for a, b in zip(one.calls, two.calls, strict=False):
            if not same(dict(a.arguments), dict(b.arguments)):
                return not same(a.output, b.output)
        if not same(one.model_output, two.model_output):  # from here on the samples differ
            return False
    return False


def _pair(step: SolverStep | None) -> tuple[Any, Any] | None:
    """The two predictions of a guided step; None where there are not two."""
    if step is None:
        return None
    rows: list[Any] = [row for call in step.calls for row in call.output]
    tensors = [r for r in rows if isinstance(r, Tensor)]
    if len(rows) != 2 or len(tensors) != 2 or tensors[0].shape != tensors[1].shape:
        return None
    return tensors[0].double(), tensors[1].double()


def fitted_scale(step: SolverStep | None) -> float | None:
    """The scale s of given = unguided + s (guided - unguided), from a solver step for one image.

    Returns:
        None where the solver was given something else, such as a rescaled sum.
    """
    pair, given = _pair(step), flat(step.model_output) if step else None
    if pair is None or given is None or given.shape[0] != 1:
        return None
    target = given[0].double()
    rows = [p.reshape(-1)[: target.numel()] for p in pair]
    if rows[0].shape != target.shape:
        return None
    for sign in (1.0, -1.0):
        for unguided, guided in (rows, rows[::-1]):
            away, wanted = guided - unguided, sign * target - unguided
            if not away.norm() > 0:
                continue
            scale = float(wanted @ away / (away @ away))
            rest = float((wanted - scale * away).norm() / (target.norm() + away.norm()))
            if rest < REST and scale >= 0.5:
                return scale
    return None


def follows(step: SolverStep | None, scale: float) -> bool:
    """Whether a guided step shows this scale, or shows none that could be read off."""
    fitted = fitted_scale(step)
    if fitted is None or abs(fitted - scale) <= TOLERANCE * scale:
        return True
    # Where guidance moves little, sums of all scales point about the same way: this one has to do so as well as any.
    assert step is not None
    off = _off_direction(step, scale)
    return off < TOLERANCE**2 and off <= ROUNDING + 10 * _off_direction(step, fitted)


def _points_along(step: SolverStep, scale: float) -> bool:
    """Whether what the solver was given is the guided sum of this scale up to a factor a position."""
    return _off_direction(step, scale) < TOLERANCE**2


def _off_direction(step: SolverStep, scale: float) -> float:
    """How far what the solver was given points off the guided sum of this scale, at the worst position: 1 - cosine."""
    pair = _pair(step)
    given = step.model_output
    if pair is None or not isinstance(given, Tensor) or given[0].shape != pair[0].shape:
        return 1.0
    target = given[0].double()
    found = []
    for unguided, guided in (pair, pair[::-1]):
        mixed = unguided + scale * (guided - unguided)
        for dim in (-1, 0):
            cosine = torch.nn.functional.cosine_similarity(mixed, target, dim=dim)
            found.append(1 - float(cosine.abs().min()))
    return min(found)
