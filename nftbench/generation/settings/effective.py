"""How images will really be drawn: what was asked, fitted to one pipeline by watching it, or refused in one line.

What is left open (None) is the checkpoint's own choice; what comes out has a value for everything that could be seen,
and the keyword arguments that make the pipeline do it.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from diffusers import DiffusionPipeline

from nftbench.benchmark.schema import SamplingParameters
from nftbench.generation.sampling import drawing_with
from nftbench.generation.settings import probe
from nftbench.generation.settings.guidance import (
    HIGH,
    TOLERANCE,
    Knob,
    candidates,
    find_knobs,
    fitted_scale,
    follows,
    main_knob,
    negative_is_heard,
)
from nftbench.generation.settings.solvers import chosen_solver, described_solver, said_levels
from rewards.base import ConfigError

PROBE = "a photo of a cat"
Guidance = Literal["off", "cfg", "embedded"]
SWITCHED_OFF = ("use_resolution_binning", "clean_caption")
"""Drawing at another size and shrinking the image; rewriting prompts, which is done only where ftfy and bs4 are."""
UNSEEDED = "draws random numbers beside its generators: each image alone, all of them from its seed"
AREA = "max_area"
"""Pipelines with it take of height and width the proportion alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effective:
    """Settings as the network saw them."""

    height: int
    width: int
    num_inference_steps: int
    guidance: Guidance
    guidance_scale: float | None
    """In everybody's words: given = unguided + scale (guided - unguided); 1 where guidance is off, None where a
    pipeline guides in a way that is not such a sum."""
    network_calls: float
    """Network calls an image and solver step, mean; of several stages the sum."""
    max_sequence_length: int | None
    negative_prompt: str | None
    seed: int
    arguments: Mapping[str, Any]
    """Of the pipeline's call, besides prompt, generator and output type."""
    one_by_one: bool = False
    """Whether images must be drawn one at a time: the pipeline takes no list of generators."""
    unseeded: bool = False
    """Whether the pipeline draws random numbers beside its generators, which no two images may share."""
    further: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that no flag names, and what they are set to: `use_resolution_binning` off, `clean_caption` off."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know."""
    solver: str | None = None
    """Name, class and digest of the configuration of what draws."""
    other_solver: Any = None
    """What takes the place of the pipeline's own solver; None leaves that in."""
    text_encoders: str | None = None
    """Present and absent."""
    precision: str | None = None
    """Of the loaded weights."""

    def at(self, *, num_inference_steps: int | None = None, seed: int | None = None) -> "Effective":
        """The same with another number of steps or seed."""
        steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
        arguments = dict(self.arguments)
        if "num_inference_steps" in arguments:
            arguments["num_inference_steps"] = steps
        seed = self.seed if seed is None else seed
        return replace(self, num_inference_steps=steps, seed=seed, arguments=arguments)


def learn_settings(pipeline: DiffusionPipeline, requested: SamplingParameters) -> Effective:
    """Fit what is asked to a pipeline; a few calls of two steps for one image.

    Args:
        pipeline: any text-to-image pipeline.
        requested: what is left None is the pipeline's own.

    Raises:
        ConfigError: what the pipeline cannot do, or does not do as asked; in one line, with what it can.
    """
    known = _KNOWN.setdefault(pipeline, {})
    wanted = {k: getattr(requested, k) for k in SamplingParameters.model_fields if k not in UNSEEN}
    fields = repr((described_solver(pipeline), requested.num_inference_steps is None, wanted))
    if fields not in known:
        other = chosen_solver(pipeline, requested.solver)
        with drawing_with(pipeline, other) as own:
            learner = _Learner(pipeline, requested)
            learned = learner.finished(learner.guidance())
            known[fields] = replace(
                learned,
                notes=(*learned.notes, *said_levels(own, other)),
                solver=described_solver(pipeline),
                other_solver=other,
                text_encoders=probe.described_encoders(pipeline),
                precision=probe.described_precision(pipeline),
            )
    return known[fields].at(num_inference_steps=requested.num_inference_steps, seed=requested.seed)


UNSEEN = ("seed", "num_inference_steps")
"""What a probe of two steps does not turn on."""
_KNOWN: WeakKeyDictionary[DiffusionPipeline, dict[str, Effective]] = WeakKeyDictionary()
"""What was learned of each pipeline: nothing of it changes with the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Guidance:
    kind: Guidance
    scale: float | None
    arguments: Mapping[str, Any]
    seen: probe.Observation
    notes: tuple[str, ...] = ()


class _Learner:
    """One pipeline and what is asked of it."""

    def __init__(self, pipeline: DiffusionPipeline, requested: SamplingParameters) -> None:
        self.pipeline, self.requested = pipeline, requested
        self.name = type(pipeline).__name__
        self.parameters = inspect.signature(pipeline.__call__).parameters
        self.one_by_one = False
        self.latent = True
        self.fixed = self._fixed()
        on = [n for n in SWITCHED_OFF if n in self.parameters and self.parameters[n].default]
        self.further: dict[str, Any] = dict.fromkeys(on, False)
        if AREA in self.parameters and {"height", "width"} <= self.fixed.keys():
            self.further[AREA] = self.fixed["height"] * self.fixed["width"]
        self.undefined = ""
        """Why the pipeline cannot be called without a guidance scale; empty where it can."""
        self.natural = self._first_call()

    def _fixed(self) -> dict[str, Any]:
        """What was asked besides guidance, as arguments."""
        names = ("height", "width", "num_inference_steps", "max_sequence_length", "negative_prompt")
        wanted = {n: v for n in names if (v := getattr(self.requested, n)) is not None}
        refused = [n for n in wanted if n not in self.parameters]
        if refused:
            sized = {"height", "width"} & set(refused)  # otherwise by the image that it begins with
            remedy = probe.begins_with_an_image(self.pipeline) if sized else ""
            raise ConfigError(
                f"{self.name} has no argument {', '.join(refused)}, which {self.requested.about} sets"
                f"{remedy or '; leave it out'}"
            )
        if "negative_prompt" in wanted:
            wanted["negative_prompt"] = [wanted["negative_prompt"]]
        return wanted

    # --- calls ----------------------------------------------------------------------------------------

    def draw(self, more: Mapping[str, Any], **call: Any) -> probe.Observation:
        """One call of two steps for one image, or of a few more where two are too few."""
        generator = torch.Generator("cpu").manual_seed(0)
        arguments = {
            "prompt": PROBE if self.one_by_one else [PROBE],
            "generator": generator if self.one_by_one else [generator],
            "output_type": "latent" if self.latent else "np",
            **self.fixed,
            "num_inference_steps": probe.brief_steps(self.pipeline),
            **self.further,
            **more,
            **call,
        }
        if negative := arguments.get("negative_prompt"):  # a list of its own: some write into it
            arguments["negative_prompt"] = negative[0] if self.one_by_one else [*negative]
        return probe.observe(self.pipeline, arguments)

    def _first_call(self) -> probe.Observation:
        """Find a way to call the pipeline at all, with its own guidance; and stop it from rewriting prompts."""
        errors, asked = [], self.requested.num_inference_steps or probe.MORE_STEPS
        lengths = (False, True) if asked >= probe.MORE_STEPS else (False,)
        for more, self.one_by_one, self.latent in product(lengths, (False, True), (True, False)):
            probe.needs_more_steps(self.pipeline, really=more)
            try:
                seen = self.draw({})
                break
            except ConfigError as error:
                errors.append(error)
        else:
            probe.needs_more_steps(self.pipeline, really=False)
            seen = self._only_with_a_scale(errors[1])
        if seen.sampled:
            seen = self._without_writing(seen)
        return seen

    def _only_with_a_scale(self, error: ConfigError) -> probe.Observation:
        """Call a pipeline whose own guidance does not go with the number of steps."""
        for name, parameter in self.parameters.items():
            if "guidance" in name and isinstance(parameter.default, tuple | list):
                self.further[name] = None  # a scale a step: for the pipeline's own number alone
        for name in candidates(self.pipeline):
            for self.one_by_one, self.latent in ((False, True), (False, False)):
                with suppress(ConfigError):
                    seen = self.draw({name: HIGH})
                    self.undefined = str(error)
                    return seen
        raise ConfigError(f"{error}{probe.begins_with_an_image(self.pipeline)}") from error

    def _without_writing(self, seen: probe.Observation) -> probe.Observation:
        """Switch off what lets a language model write in the prompt's place, where there is a switch."""
        switches = [
            n for n, p in self.parameters.items() if p.default is True and n not in self.further
        ]
        for name in switches:
            try:
                quiet = self.draw({name: False})
            except ConfigError:
                continue
            if len(quiet.sampled) < len(seen.sampled):
                self.further[name] = False
                seen = quiet
        return seen

    # --- guidance -------------------------------------------------------------------------------------

    def guidance(self) -> _Guidance:
        """What is asked, fitted to what the pipeline can."""
        kind, scale = self.requested.guidance, self.requested.guidance_scale
        guided = scale not in (None, 0, 1) and kind in (None, "cfg")
        guided |= "negative_prompt" in self.fixed
        knobs = find_knobs(self.pipeline, self.draw, self.natural, with_negative=guided)
        if kind == "native" or (kind is None and scale is None):
            if self.undefined:
                raise ConfigError(f"{self.undefined}; pass --guidance, such as cfg:4.5")
            return self._natural(knobs)
        if kind is None:
            kind, scale = self._mapped(knobs, float(scale or 0))
        if kind == "off":
            return self._off(knobs)
        if kind == "embedded":
            return self._embedded(knobs, float(scale or 0))
        return self._off(knobs) if scale == 1 else self._cfg(knobs, float(scale or 0))

    def _mapped(self, knobs: Sequence[Knob], scale: float) -> tuple[Guidance, float]:
        """A bare number: 1 is no guidance, any other the kind that the pipeline itself uses."""
        mine = [k for k in knobs if k.kind == "cfg" and (k.used_by_default or self.undefined)]
        if any(k.kind == "embedded" for k in knobs) and not [
            k for k in mine if not k.needs_negative
        ]:
            return "embedded", scale
        if scale in (0, 1):
            return "off", 1.0
        if not mine:
            raise ConfigError(self._cannot(f"guidance {scale:g}", knobs))
        return "cfg", scale

    def _cannot(self, what: str, knobs: Sequence[Knob]) -> str:
        kinds = {k.kind for k in knobs}
        always = "embedded" in kinds or (self.natural.guided and "cfg" not in kinds)
        can = [] if always or what == "guidance off" else ["off"]
        can += [f"{kind}:S" for kind in ("cfg", "embedded") if kind in kinds]
        ignored = [k.name for k in knobs if k.kind == "ignored"]
        why = f" (it ignores {', '.join(ignored)})" if ignored and what != "guidance off" else ""
        return f"{self.name} cannot draw with {what}{why}; this model takes --guidance {' or '.join(can) or 'native'}"

    def _natural(self, knobs: Sequence[Knob]) -> _Guidance:
        seen = self.natural
        if seen.guided:
            fitted = fitted_scale(seen.last)
            main = main_knob([k for k in knobs if k.kind == "cfg"])
            known = main.default + main.shift if main and main.default is not None else None
            if fitted is None or (known and abs(fitted - known) <= TOLERANCE * known):
                fitted = known  # what is fitted carries rounding
            return _Guidance(kind="cfg", scale=fitted, arguments={}, seen=seen)
        inside = main_knob([k for k in knobs if k.kind == "embedded"])
        if inside:
            return _Guidance(kind="embedded", scale=inside.default, arguments={}, seen=seen)
        return _Guidance(kind="off", scale=1.0, arguments={}, seen=seen)

    def _off(self, knobs: Sequence[Knob]) -> _Guidance:
        if any(k.kind == "embedded" for k in knobs):
            raise ConfigError(
                f"{self._cannot('guidance off', knobs)}: its network is told a scale in every call"
            )
        arguments = {k.name: k.off for k in knobs if k.kind == "cfg" and not k.needs_negative}
        arguments |= {
            k.name: k.off for k in knobs if k.needs_negative and "negative_prompt" in self.fixed
        }
        seen = self.draw(arguments)
        if seen.guided and abs((fitted_scale(seen.last) or 0) - 1) > TOLERANCE:
            raise ConfigError(
                f"{self._cannot('guidance off', knobs)}: it always makes {seen.calls:g} network calls a step"
            )
        return _Guidance(kind="off", scale=1.0, arguments=arguments, seen=seen)

    def _cfg(self, knobs: Sequence[Knob], scale: float) -> _Guidance:
        main = main_knob([k for k in knobs if k.kind == "cfg"])
        if main is None:
            raise ConfigError(self._cannot(f"classifier-free guidance {scale:g}", knobs))
        arguments: dict[str, Any] = {main.name: scale - main.shift}
        if main.needs_negative and "negative_prompt" not in self.fixed:
            arguments["negative_prompt"] = [main.negative]
        seen = self.draw(arguments)
        if not (seen.guided and follows(seen.last, scale)):
            got = f"{fitted_scale(seen.last):g}" if seen.guided else "none"
            raise ConfigError(
                f"{self.name} was asked for guidance {scale:g} and drew with {got}; nothing was drawn"
            )
        rest = [k for k in knobs if k is not main and k.kind != "ignored" and k.used_by_default]
        notes = tuple(
            f"{k.name} stays at the model's own {k.default:g}" for k in rest if not k.needs_negative
        )
        return _Guidance(kind="cfg", scale=scale, arguments=arguments, seen=seen, notes=notes)

    def _embedded(self, knobs: Sequence[Knob], scale: float) -> _Guidance:
        inside = main_knob([k for k in knobs if k.kind == "embedded"])
        if inside is None:
            raise ConfigError(self._cannot(f"embedded guidance {scale:g}", knobs))
        arguments = {k.name: k.off for k in knobs if k.kind == "cfg" and not k.needs_negative}
        arguments[inside.name] = scale
        return _Guidance(
            kind="embedded", scale=scale, arguments=arguments, seen=self.draw(arguments)
        )

    # --- all of it ------------------------------------------------------------------------------------

    def finished(self, guidance: _Guidance) -> Effective:
        """Draw one image as it will be drawn, and write down what came."""
        asked = self.requested.negative_prompt
        if asked is not None and not negative_is_heard(
            self.draw, guidance.arguments, guidance.seen, asked
        ):
            raise ConfigError(
                f"--negative-prompt has no effect on {self.name} where guidance is {guidance.kind}; leave it out"
            )
        self.latent = False
        seen = self.draw(guidance.arguments)
        _, height, width, _ = probe.image_of(seen, self.pipeline).shape
        self._check_size(height, width)
        length = self.requested.max_sequence_length
        given = {**self.fixed, **self.further, **guidance.arguments}
        steps = self._steps(seen)
        if "num_inference_steps" in self.parameters:
            given["num_inference_steps"] = steps
        negative = given.pop("negative_prompt", [None])[0]
        if negative is None and guidance.kind == "cfg":
            negative = self._own_negative()
        written = tuple(f"{n} writes text while drawing" for n in dict.fromkeys(seen.sampled))
        return Effective(
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance=guidance.kind,
            guidance_scale=None if guidance.scale is None else round(guidance.scale, 4),
            network_calls=round(guidance.seen.calls, 4),
            max_sequence_length=self._default("max_sequence_length") if length is None else length,
            negative_prompt=negative,
            seed=self.requested.seed,
            arguments=given,
            one_by_one=self.one_by_one,
            unseeded=seen.unseeded,
            further=self.further,
            notes=(*guidance.notes, *written, *seen.warnings, *([UNSEEDED] * seen.unseeded)),
        )

    def _steps(self, seen: probe.Observation) -> int:
        """What is asked, else the pipeline's own number; counted where it takes none."""
        steps = self.requested.num_inference_steps or self._default("num_inference_steps")
        if "num_inference_steps" not in self.parameters:
            steps = len(seen.stages[seen.last.scheduler]) if seen.last else 1
        if steps is None:
            raise ConfigError(f"{self.name} has no number of steps of its own; pass --steps")
        return steps

    def _own_negative(self) -> str | None:
        """The negative prompt that the pipeline takes unasked, if it says anything."""
        parameter = self.parameters.get("negative_prompt")
        text = parameter.default if parameter else None
        return text if isinstance(text, str) and text.strip() else None

    def _default(self, name: str) -> int | None:
        parameter = self.parameters.get(name)
        return parameter.default if parameter and isinstance(parameter.default, int) else None

    def _check_size(self, height: int, width: int) -> None:
        wanted = (self.requested.height or height, self.requested.width or width)
        if wanted != (height, width):
            raise ConfigError(
                f"{self.name} was asked for {wanted[0]}x{wanted[1]} pixels (height x width) and drew {height}x{width}; "
                "images are never resized: choose a --size that this model draws"
            )
