"""What is asked and how: benchmarks, suites and the protocol whose hash stands beside every number."""

import difflib
import hashlib
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nftbench.prompts import load_prompts
from rewards.base import ConfigError, Prompt


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Drawing(_Frozen):
    """How images are drawn, in evaluation and in training."""

    height: int = Field(ge=8)
    width: int = Field(ge=8)
    num_inference_steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=0, allow_inf_nan=False)
    """1 is no classifier-free guidance."""
    max_sequence_length: int | None = Field(default=None, ge=0)
    """Length of the long text encoder's input; None leaves the pipeline's own."""
    seed: int = Field(default=0, ge=0)

    @property
    def about(self) -> str:
        """What fixes these settings, for messages."""
        return "the recipe"


class Protocol(Drawing):
    """Everything that moves a number, but for the reward: a row names that itself, with its variant.

    Two rows of one metric may be compared when their protocols have one hash.
    """

    benchmark: str
    version: int
    prompts_sha256: str
    limit: int | None = Field(default=None, ge=1)
    """Only so many prompts were asked: never publishable."""
    images_per_prompt: int = Field(ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    noise: Literal["cpu-generator-per-image"] = "cpu-generator-per-image"
    pixels: Literal["uint8-png"] = "uint8-png"
    aggregation: Literal["mean", "task_mean"]

    @property
    def about(self) -> str:
        """What fixes these settings, for messages."""
        return f"protocol {self.hash} of {self.benchmark}"

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the sha256 of all fields, as canonical JSON."""
        fields = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:12]

    def difference(self, other: "Protocol") -> str:
        """The fields in which two protocols differ, in words; empty when they do not."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return ", ".join(
            f"{k}: {mine[k]!r} here, {theirs[k]!r} there" for k in mine if mine[k] != theirs[k]
        )


class PromptSource(_Frozen):
    """A prompt file that ships with the project."""

    file: str
    layout: Literal["geneval", "text"]
    count: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Sampling(_Frozen):
    """The benchmark's own setting; flags of `nftbench eval` replace single fields."""

    images_per_prompt: int = Field(ge=1)
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    max_sequence_length: int | None = None


class Benchmark(_Frozen):
    """One TOML of `benchmarks/`."""

    name: str
    version: int = Field(ge=1)
    title: str
    licence: str
    citation: str
    prompts: PromptSource
    training: PromptSource | None = None
    """What may be trained on: never asked by the benchmark."""
    sampling: Sampling
    rewards: tuple[str, ...] = Field(min_length=1)
    aggregation: Literal["mean", "task_mean"]

    def load(self) -> list[Prompt]:
        """The prompts, checked against count and digest."""
        return _prompts(self.prompts)

    def load_training(self) -> list[Prompt]:
        """The prompts to train on; their ids are none of those that are asked.

        Raises:
            ConfigError: the benchmark has none.
        """
        if self.training is None:
            raise ConfigError(f"benchmark {self.name} has no training prompts; name a prompt file")
        return _prompts(self.training, prefix="t")

    def protocol(self, *, limit: int | None = None, seed: int = 0, **changes: Any) -> Protocol:
        """The benchmark's protocol with single settings changed; None leaves a setting as it is.

        Raises:
            ConfigError: a value out of range.
        """
        fields = self.sampling.model_dump() | {k: v for k, v in changes.items() if v is not None}
        try:
            return Protocol(
                benchmark=self.name,
                version=self.version,
                prompts_sha256=self.prompts.sha256,
                limit=limit,
                seed=seed,
                aggregation=self.aggregation,
                **fields,
            )
        except ValidationError as error:
            raise ConfigError(in_words(error)) from None


def _prompts(source: PromptSource, prefix: str = "") -> list[Prompt]:
    path = folder() / "prompts" / source.file
    return load_prompts(
        path, source.layout, count=source.count, sha256=source.sha256, prefix=prefix
    )


class Suite(_Frozen):
    """Benchmarks that are run together: one TOML of `benchmarks/suites/`."""

    name: str
    title: str
    benchmarks: tuple[str, ...] = Field(min_length=1)


def folder() -> Path:
    """Where the benchmark files lie, in a checkout and in an installed wheel alike."""
    return Path(str(files("benchmarks")))


def names() -> list[str]:
    """All benchmarks."""
    return sorted(p.stem for p in folder().glob("*.toml"))


def suite_names() -> list[str]:
    """All suites."""
    return sorted(p.stem for p in (folder() / "suites").glob("*.toml"))


def load_benchmark(name: str) -> Benchmark:
    """Read a benchmark by name."""
    return _read(Benchmark, _known(name, names(), "benchmark"), folder())


def load_suite(name: str) -> Suite:
    """Read a suite by name; a benchmark's name is a suite of one.

    Raises:
        ConfigError: no such suite or benchmark; the near name is suggested.
    """
    if name in names():
        return Suite(name=name, title=load_benchmark(name).title, benchmarks=(name,))
    return _read(
        Suite, _known(name, suite_names() + names(), "suite or benchmark"), folder() / "suites"
    )


def choose(prompts: list[Prompt], limit: int | None) -> list[Prompt]:
    """At most `limit` prompts, spread evenly over the file; a very small limit leaves out rare tasks."""
    if limit is None or limit >= len(prompts):
        return prompts
    if limit < 1:
        raise ConfigError(f"expected a limit of at least 1, got {limit}")
    return [prompts[i * len(prompts) // limit] for i in range(limit)]


def _known(name: str, known: list[str], kind: str) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown {kind} {name!r};{hint} available: {', '.join(known)}")


_Model = TypeVar("_Model", bound=BaseModel)


def _read(model: type[_Model], name: str, where: Path) -> _Model:
    path = where / f"{name}.toml"
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {in_words(error)}") from None


def in_words(error: ValidationError) -> str:
    """The first thing that pydantic found wrong: field, fault, value."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}, got {first['input']!r}"
