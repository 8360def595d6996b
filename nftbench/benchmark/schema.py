"""What a benchmark's TOML may say, and the protocol whose hash stands beside every number."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from nftbench.benchmark import data_cache as data
from nftbench.benchmark.faults import in_words, refuse_repeated
from nftbench.benchmark.own import equal_as_one
from nftbench.benchmark.prompts import load_prompts, with_origins
from nftbench.resources import data_folder
from rewards.base import ConfigError, Prompt, Weight


class Frozen(BaseModel):
    """A record that says no to what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_as_such(cls, value: Any, info: ValidationInfo) -> Any:
        """A text or a switch where a number is meant is another value than was written, as `"3"` and `true` for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        kinds = {kind, *get_args(kind)}
        if isinstance(value, bool | str) and {int, float} & kinds:
            raise PydanticKnownError("int_type" if int in kinds else "float_type")
        return value


class SamplingSettings(Frozen):
    """How images are drawn, as a suite, a benchmark or a checkpoint fixes it; None leaves one as it is."""

    height: int | None = Field(default=None, ge=8)
    width: int | None = Field(default=None, ge=8)
    num_inference_steps: int | None = Field(default=None, ge=1)
    guidance: Literal["native", "off", "cfg", "embedded"] | None = None
    """`cfg` asks the network twice, `embedded` tells it the scale, `native` is as the model has it; None with a scale
    is the model's own kind at that scale, and without one `native`."""
    guidance_scale: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """1 is no guidance."""
    max_sequence_length: int | None = Field(default=None, ge=0)
    """Length of the long text encoder's input."""
    negative_prompt: str | None = None
    solver: str | None = None
    """Asked for, a name that `--solver` knows; drawn, also the class and the digest of its configuration."""

    asked: ClassVar[bool] = True
    """Whether it is what somebody wrote down; as drawn, some guidance is no one scale."""

    @model_validator(mode="after")
    def _kind_with_its_scale(self) -> Self:
        kind, scale = (self.guidance if self.asked else None), self.guidance_scale
        if kind == "native" and scale is not None:
            raise ValueError("guidance native is the model's own scale; leave out guidance_scale")
        if kind == "off" and scale not in (None, 1):
            raise ValueError(f"guidance off has the scale 1, not {scale:g}; leave out one of them")
        if kind in ("cfg", "embedded") and scale is None:
            raise ValueError(f"guidance {kind} goes with a guidance_scale, such as 4.5")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """Those that are fixed."""
        return self.model_dump(exclude_none=True)


def over(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others over them; kind and scale of guidance go together."""
    guided = any(name.startswith("guidance") for name in changes)
    kept = {k: v for k, v in settings.items() if not (guided and k.startswith("guidance"))}
    return {**kept, **changes}


class SamplingParameters(SamplingSettings):
    """How images are drawn, in evaluation and in training; None leaves a setting to the model."""

    asked: ClassVar[bool] = False
    seed: int = Field(default=0, ge=0)

    @property
    def about(self) -> str:
        """What fixes these settings, for messages."""
        return "the recipe"

    def filled(self, own: Mapping[str, Any]) -> Self:
        """The same with a checkpoint's own settings where nothing is asked."""
        guided = self.guidance not in (None, "native") or (
            self.guidance is None and self.guidance_scale is not None
        )
        mine = type(self).model_fields
        free = {k: v for k, v in own.items() if k in mine and getattr(self, k) is None}
        free = {k: v for k, v in free.items() if not (guided and k.startswith("guidance"))}
        if "guidance_scale" in free and self.guidance == "native":
            free["guidance"] = None
        return self.model_copy(update=free)


PROTOCOL_1 = (
    "height", "width", "num_inference_steps", "guidance_scale", "max_sequence_length", "seed", "benchmark",
    "version", "prompts_sha256", "limit", "images_per_prompt", "dtype", "noise", "pixels", "aggregation",
)  # fmt: skip
"""Fields that protocols had before they said how the network was really called."""


UNKNOWN = ("service", "given")
"""Of `Protocol.noise`: images of which nobody knows how they were drawn."""


class Protocol(SamplingParameters):
    """Everything that moves a number, but for the reward: a row names that itself, with its variant.

    Two rows of one metric may be compared when their protocols have one hash. Asked for, a field may be None: the
    model's own; once a model is loaded, every field says what is drawn.
    """

    protocol_version: Literal[1, 2] = 1
    """1 held what the pipeline was told, 2 holds what its network saw. Manifests of before name none."""
    network_calls: float | None = None
    """An image and solver step; 2 is classifier-free guidance."""
    further: str | None = None
    """Arguments of the pipeline that no other field names, such as `use_resolution_binning=False`."""
    text_encoders: str | None = None
    """Those that the checkpoint has, and those that were left out of it."""
    precision: str | None = None
    """Of the weights as they are loaded, part by part where parts differ."""
    numerics: str | None = None
    """What approximates beyond rounding: `tf32`, `vae tiling`, `attention BACKEND`; None where nothing does."""
    benchmark: str
    version: int
    prompts_sha256: str
    limit: int | None = Field(default=None, ge=1)
    """Only so many prompts were asked: never publishable."""
    images_per_prompt: int = Field(ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] | None = "float32"
    """None where nobody knows."""
    noise: Literal["cpu-generator-per-image", "service", "given"] = "cpu-generator-per-image"
    """`service`: whom nobody can tell a seed; `given`: the images were made by something else, nobody knows how."""
    pixels: Literal["uint8-png"] = "uint8-png"
    aggregation: Literal["mean", "task_mean"]

    @property
    def solver_name(self) -> str | None:
        """As `--solver` has it, without class and digest; None where it was not recorded."""
        return self.solver.partition(" ")[0] if self.solver else None

    @property
    def about(self) -> str:
        """What fixes these settings, for messages."""
        return f"protocol {self.hash} of {self.benchmark}"

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the sha256 of all fields that are set, as canonical JSON.

        A protocol of version 1 keeps the hash it had: of its own fields, set or not.
        """
        fields = self.model_dump(mode="json")
        if self.protocol_version == 1:
            fields = {k: fields[k] for k in PROTOCOL_1}
        else:
            fields = {k: v for k, v in fields.items() if v is not None}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]

    def difference(self, other: "Protocol") -> str:
        """The fields in which two protocols differ, in words; empty when they do not."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return ", ".join(
            f"{k}: {mine[k]!r} here, {theirs[k]!r} there" for k in mine if mine[k] != theirs[k]
        )


class PromptSource(Frozen):
    """A prompt file: one that ships with the project, or one of others that `nftbench data pull` fetches."""

    file: str
    """Name in `benchmarks/prompts`; where there is a `url`, in the data cache."""
    url: str = Field(default="", pattern="^(https://.+)?$")
    """Where the file comes from, at a pinned commit where there is one; empty where it ships."""
    layout: Literal["geneval", "text", "own"]
    member: str = ""
    """How the name of the file ends that is meant, where `file` is a zip archive."""
    count: int = Field(ge=0)
    """Distinct prompts; 0 where that is not known yet, of prompts to train on."""
    copies: int = Field(default=1, ge=1)
    """How often each stands in the file: it is one prompt, with so many images."""
    tag: str = ""
    """Task of all its prompts, where the file names none; their ids begin with it."""
    sha256: str = Field(pattern="^([0-9a-f]{64})?$")
    """Empty where nobody could pin it yet: what is measured then cannot be published."""
    size: int = Field(default=0, ge=0)
    """Bytes; 0 where it is not known."""
    blob: str = Field(default="", pattern="^([0-9a-f]{40})?$")
    """Git's own name of the file's content, at the pinned commit: pins a file whose sha256 nobody could take yet."""

    _home: Path | None = PrivateAttr(default=None)
    """Folder of the benchmark's TOML, where it is a user's own."""

    @model_validator(mode="after")
    def _shipped_is_pinned(self) -> "PromptSource":
        if not (self.url or self.sha256):
            raise ValueError("a file that ships has a sha256")
        if Path(self.file).is_absolute() or ".." in Path(self.file).parts:
            raise ValueError("expected the name of a file in the folder prompts/")
        return self

    def asset(self, licence: str) -> Weight:
        """The file as something that can be fetched."""
        return Weight(
            name=self.file, url=self.url, sha256=self.sha256, size=self.size, licence=licence
        )

    def path(self, *, remedy: str) -> Path:
        """Where the file lies.

        Raises:
            ConfigError: it was not fetched; names the command that does.
        """
        return (
            data.found(self.file, remedy=remedy)
            if self.url
            else (self._home or data_folder("benchmarks")) / "prompts" / self.file
        )

    def digest(self) -> str:
        """The pinned sha256, else what was recorded of the file, else its own; empty where it is missing."""
        return self.sha256 or data.digest(self.asset(""))

    def load(self, *, remedy: str, prefix: str = "") -> list[Prompt]:
        """The prompts, checked against digest and count.

        Args:
            remedy: the command that fetches the file.
            prefix: see `load_prompts`.
        """
        path = self.path(remedy=remedy)
        if self.blob and git_blob(path) != self.blob:
            raise ConfigError(
                f"{path}: expected git blob {self.blob[:12]}…, got {git_blob(path)[:12]}…; fetch the file again"
            )
        prompts = load_prompts(
            path,
            self.layout,
            count=self.count or None,
            sha256=self.digest(),
            prefix=f"{self.tag}-" if self.tag else prefix,
            member=self.member,
            copies=self.copies,
        )
        if self._home and self.copies == 1:
            prompts = with_origins(self.path(remedy=remedy), prompts)
            if self._home != data_folder("benchmarks"):  # what is published stays as it is
                prompts = equal_as_one(prompts, f"{self.tag}-" if self.tag else prefix)
        return [replace(p, tag=self.tag) for p in prompts] if self.tag else prompts


def git_blob(path: Path) -> str:
    """Git's name of a file's content: sha1 of `blob SIZE`, a zero byte and the bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class SamplingDefaults(SamplingSettings):
    """The benchmark's own setting; flags of `nftbench eval` replace single fields, what is None is the model's own."""

    images_per_prompt: int = Field(ge=1)


class Benchmark(Frozen):
    """One TOML of `benchmarks/`."""

    kind: Literal["generating"] = "generating"
    """Images are made; `ranking`s (`nftbench.evaluation.ranking`) judge ready ones."""
    name: str
    version: int = Field(ge=1)
    title: str
    licence: str
    citation: str
    prompts: PromptSource
    more_prompts: tuple[PromptSource, ...] = ()
    """Further files, asked behind `prompts`."""
    tasks: Mapping[str, int] = {}
    """Prompts of each task; empty where there is one task only."""
    training: PromptSource | None = None
    """What may be trained on: never asked by the benchmark."""
    sampling: SamplingDefaults
    rewards: tuple[str, ...] = ()
    """Keys; without any, `--rewards` names them."""
    aggregation: Literal["mean", "task_mean"]

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not all(source.count for source in self.sources):
            raise ValueError("expected prompts.count to be at least 1")
        refuse_repeated(self.rewards, "reward")
        return self

    def lies_in(self, folder: Path) -> None:
        """Note where the benchmark's TOML lies: its prompt files are in `prompts/` beside it."""
        for source in (*self.sources, *((self.training,) if self.training else ())):
            source._home = folder

    @property
    def sources(self) -> tuple[PromptSource, ...]:
        """The files of prompts that are asked."""
        return (self.prompts, *self.more_prompts)

    @property
    def count(self) -> int:
        """Distinct prompts that are asked."""
        return sum(source.count for source in self.sources)

    @property
    def pinned(self) -> bool:
        """Whether everybody who names this benchmark means the same prompts; nothing is published of others."""
        return all(source.sha256 for source in self.sources)

    @property
    def digest(self) -> str:
        """The sha256 of the prompt file; of several, that of their digests; empty where one is not here."""
        digests = [source.digest() for source in self.sources]
        if len(digests) == 1 or not all(digests):
            return min(digests)
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def load(self) -> list[Prompt]:
        """The prompts, checked against count, tasks and digest.

        Raises:
            ConfigError: a file that was not fetched (names the command that does) or is another one.
        """
        remedy = f"nftbench data pull {self.name}"
        prompts = [p for source in self.sources for p in source.load(remedy=remedy)]
        self._refuse_doubles(prompts)
        found = dict(Counter(p.tag for p in prompts))
        if self.tasks and found != dict(self.tasks):
            raise ConfigError(
                f"benchmark {self.name}: expected tasks {dict(self.tasks)}, got {found}"
            )
        return prompts

    def _refuse_doubles(self, prompts: Sequence[Prompt]) -> None:
        """Refuse two prompts of one id in two files: one's images would be written over the other's."""
        named = Counter(prompt.id.lower() for prompt in prompts)
        twice = next((p.id for p in prompts if named[p.id.lower()] > 1), None)
        if twice:
            raise ConfigError(
                f"benchmark {self.name}: id {twice!r} stands in two of its files; name ids in them, or give each "
                "of the files a `tag`, which theirs then begin with"
            )

    def load_training(self) -> list[Prompt]:
        """The prompts to train on; their ids are none of those that are asked.

        Raises:
            ConfigError: the benchmark has none.
        """
        if self.training is None:
            raise ConfigError(f"benchmark {self.name} has no training prompts; name a prompt file")
        return self.training.load(remedy=f"nftbench data pull {self.name} --training", prefix="t")

    def protocol(self, *, limit: int | None = None, seed: int = 0, **changes: Any) -> Protocol:
        """The benchmark's protocol with single settings changed; None leaves a setting as it is.

        Raises:
            ConfigError: a value out of range.
        """
        given = {k: v for k, v in changes.items() if v is not None}
        fields = over(self.sampling.model_dump(), given)
        try:
            return Protocol(
                protocol_version=2,
                benchmark=self.name,
                version=self.version,
                prompts_sha256=self.digest,
                limit=limit,
                seed=seed,
                aggregation=self.aggregation,
                **fields,
            )
        except ValidationError as error:
            raise ConfigError(in_words(error, Protocol)) from None
