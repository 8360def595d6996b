"""A recipe: everything that a training run is made of, one TOML under `nftbench/recipes/` or the user's own."""

import difflib
import tomllib
import types
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nftbench.benchmark.schema import in_words
from nftbench.training.algorithms.nft import OldSchedule
from rewards.base import ConfigError

ATTENTION = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
)
"""Names that diffusers gives the attention projections, whatever the architecture."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PolicyConfig(_Frozen):
    """What of the network is trained."""

    method: Literal["lora", "full"] = "lora"
    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=64, gt=0)
    """LoRA's output is scaled by alpha / rank."""
    targets: tuple[str, ...] = ATTENTION
    """Ends of the names of the layers that get a LoRA."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen weights; trained ones are always float32."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Automatic mixed precision of the update; fp16 scales the loss."""
    gradient_checkpointing: bool = False


class OptimizerConfig(_Frozen):
    """AdamW."""

    lr: float = Field(default=3e-4, gt=0)
    final_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the last iteration, reached by equal factors; None keeps `lr`."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.9, ge=0, lt=1)
    """Highest share of itself that the evaluation average keeps at an optimiser step."""

    def lr_at(self, share: float) -> float:
        """Learning rate when this share of the iterations, in [0, 1], is done."""
        return self.lr * ((self.final_lr or self.lr) / self.lr) ** share


class RolloutConfig(_Frozen):
    """How the old policy draws, but for the number of steps, which is a stage's."""

    height: int = Field(ge=8)
    width: int = Field(ge=8)
    max_sequence_length: int | None = Field(default=None, ge=0)
    guidance_scale: float = Field(default=1.0, ge=0)
    """Given to the pipeline; a value that makes it call the network twice a step is refused."""
    batch_size: int = Field(default=16, ge=1)
    """Images at once in a rollout; at most as many in one forward pass of the update."""


class FlowGrpoConfig(_Frozen):
    """The baseline's own settings."""

    variant: Literal["sde", "cps"] = "sde"
    noise_level: float = Field(default=0.7, gt=0)
    clip_range: float = Field(default=1e-4, gt=0)
    window: tuple[int, int] | None = None
    """First stochastic step and the one after the last; None is every step but the last."""


class EvaluationConfig(_Frozen):
    """What is held out."""

    benchmarks: tuple[str, ...] = ()
    """Their prompts are drawn by the averaged policy; rewards that cannot judge a benchmark pass it over."""
    every: int = Field(default=20, ge=1)
    """Iterations between two looks."""
    limit: int | None = Field(default=None, ge=1)
    """Prompts of each benchmark that a look asks; before and after the training all are asked."""
    images_per_prompt: int = Field(default=1, ge=1)
    """Of a look; before and after the training as the benchmark has it."""
    num_inference_steps: int | None = Field(default=None, ge=1)
    """None leaves the benchmark's own."""
    held_out_rewards: str = ""
    """Rewards that are watched and never trained on, besides the trained ones."""


class CheckpointConfig(_Frozen):
    """When the whole state is saved."""

    every: int = Field(default=20, ge=1)
    keep: int = Field(default=2, ge=1)
    """Newest ones kept, besides the best."""


class Threshold(_Frozen):
    """A guard warns from one value on and stops the run from the other on; None, in a TOML `off`, never does."""

    warn: float | None = Field(default=None, ge=0)
    stop: float | None = Field(default=None, ge=0)

    @field_validator("warn", "stop", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value == "off" else value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.warn is not None and self.stop is not None and self.stop < self.warn:
            raise ValueError("expected stop to be at least warn")
        return self


class GuardConfig(_Frozen):
    """Signs that a policy is going wrong: see `guards.py` for what each measures."""

    x_0_norm: Threshold = Threshold(warn=0.15, stop=0.4)
    """Relative change since the start."""
    velocity_ratio: Threshold = Threshold(warn=0.1, stop=0.3)
    """Relative to the reference policy."""
    brightness: Threshold = Threshold(warn=0.1, stop=0.25)
    """Change since the start, of pixels in [0, 1]."""
    saturation: Threshold = Threshold(warn=0.15, stop=0.35)
    """The same."""
    zero_spread: Threshold = Threshold(warn=0.8, stop=0.99)
    """Share of groups."""
    kl: Threshold = Threshold(warn=0.5, stop=5.0)
    """Mean squared difference of velocities (FlowGRPO: of its own divergence)."""
    held_out: Threshold = Threshold(warn=2.0, stop=None)
    """Standard errors that a watched reward fell while the trained one rose."""
    idle: Threshold = Threshold(warn=10, stop=None)
    """Iterations in a row."""

    @field_validator("*", mode="before")
    @classmethod
    def _completed(cls, value: Any, info: ValidationInfo) -> Any:
        """One limit given alone must not switch the other off."""
        default = cls.model_fields[str(info.field_name)].default
        return default.model_dump() | value if isinstance(value, dict) else value


class Stage(_Frozen):
    """A stretch of training with its own prompts, rewards and settings."""

    prompts: tuple[str, ...] = Field(min_length=1)
    """Benchmarks, whose training prompts are meant, or prompt files (.jsonl as GenEval's metadata, else text)."""
    rewards: str
    """Such as `ocr,pickscore:0.5`."""
    combine: Literal["sum", "advantages"] = "sum"
    """`sum` adds weighted rewards, each divided by its training scale; `advantages` adds weighted advantages, each
    reward's normalised on its own."""
    iterations: int = Field(ge=1)
    groups: int = Field(default=48, ge=1)
    """Prompts an iteration."""
    group_size: int = Field(default=24, ge=2)
    num_inference_steps: int = Field(default=10, ge=1)
    timesteps_per_image: Literal["all"] | int | float = 0.99
    """Times an image is trained at, drawn from the sampler's own: `all`, a share below 1, or a number."""
    updates: int = Field(default=1, ge=1)
    """Optimiser steps an iteration."""
    beta: float = Field(default=1.0, gt=0)
    kl_weight: float = Field(default=1e-4, ge=0)
    adv_clip: float = Field(default=5.0, gt=0)
    advantage_std: Literal["batch", "group"] = "batch"
    old_schedule: OldSchedule = "linear_to_0.5"
    zero_spread: Literal["train", "skip"] = "train"
    """Groups whose images all got one reward: `train` pulls them towards the old policy, `skip` saves their cost."""
    reset: tuple[Literal["old", "ema", "optimizer"], ...] = ()
    """What the stage begins anew; all else goes on from the stage before it."""

    @field_validator("timesteps_per_image", mode="before")
    @classmethod
    def _share_or_number(cls, value: Any) -> Any:
        share = isinstance(value, float) and 0 < value < 1
        number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (value == "all" or share or number):
            raise ValueError("expected 'all', a share between 0 and 1, or a whole number >= 1")
        return value

    def times(self, available: int) -> int:
        """How many of the sampler's times an image is trained at."""
        wanted = self.timesteps_per_image
        if wanted == "all":
            return available
        return (
            max(1, int(available * wanted)) if isinstance(wanted, float) else min(wanted, available)
        )


class Recipe(_Frozen):
    """A training run, whole."""

    name: str
    summary: str = ""
    evidence: str = ""
    """What has been measured with it."""
    checkpoint: str
    """Where it starts, as `nftbench eval` takes it."""
    algorithm: Literal["nft", "flow-grpo"] = "nft"
    seed: int = Field(default=0, ge=0)
    variants: dict[str, str] = {}
    """Variant that a bare reward name means in this recipe, such as `geneval = "pocket-nft"`."""
    policy: PolicyConfig = PolicyConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    rollout: RolloutConfig
    flow_grpo: FlowGrpoConfig = FlowGrpoConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    guards: GuardConfig = GuardConfig()
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Accelerate's trackers; `metrics.jsonl` is written in any case."""
    stages: tuple[Stage, ...] = Field(min_length=1)

    def changed(self, settings: Iterable[str]) -> "Recipe":
        """The recipe with single settings changed, as `load_recipe` takes them.

        Raises:
            ConfigError: an unknown key, or a value out of range.
        """
        fields = self.model_dump(mode="json")
        for setting in settings:
            _set(fields, setting)
        return _validated(fields, self.name)

    def difference(self, other: "Recipe") -> list[str]:
        """Dotted names of the settings in which two recipes differ."""
        mine, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))


def folder() -> Path:
    """Where the shipped recipes lie."""
    return Path(str(files("nftbench"))) / "recipes"


def names() -> list[str]:
    """All shipped recipes."""
    return sorted(p.stem for p in folder().glob("*.toml"))


def load_recipe(name: str, settings: Iterable[str] = (), **top: Any) -> Recipe:
    """Read a recipe and apply what the command line changes.

    Args:
        name: a shipped recipe or a TOML file.
        settings: `section.key=value` each, the value in TOML or bare text; `stages.key` means every stage,
            `stages[0].key` the first.
        top: values of top-level keys; None leaves one as it is.

    Raises:
        ConfigError: no such recipe, no TOML, an unknown key (the near one is named) or a value out of range.
    """
    fields = _toml(name)
    fields |= {k: v for k, v in top.items() if v is not None}
    for setting in settings:
        _set(fields, setting)
    return _validated(fields, name)


def _validated(fields: dict[str, Any], name: str) -> Recipe:
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"recipe {name}: {_explain(error)}") from None


def _toml(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith(".toml") else folder() / f"{name}.toml"
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"unknown recipe {name!r};{hint} shipped: {', '.join(names())}; or pass a .toml file"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None


def _set(fields: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise ConfigError(f"expected --set section.key=value, got {setting!r}")
    *sections, key = path.strip().split(".")
    for target in _targets(fields, sections, setting):
        target[key] = _value(text.strip())


def _targets(fields: dict[str, Any], sections: list[str], setting: str) -> list[dict[str, Any]]:
    """The tables that a dotted name means: one, or every stage."""
    tables: list[Any] = [fields]
    for section in sections:
        tables = [_inner(table, section, setting) for table in tables]
        tables = [t for table in tables for t in (table if isinstance(table, list) else [table])]
    return tables


def _inner(table: dict[str, Any], section: str, setting: str) -> Any:
    name, bracket, index = section.partition("[")
    inner = table.setdefault(name, {})
    if bracket:
        number = index.removesuffix("]")
        if not (isinstance(inner, list) and number.isdigit() and int(number) < len(inner)):
            raise ConfigError(f"--set {setting}: there is no {section}")
        inner = inner[int(number)]
    if not isinstance(inner, (dict, list)):
        raise ConfigError(f"--set {setting}: {name} is a value, not a section")
    return inner


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string: --set policy.method=full


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] != "extra_forbidden":
        return in_words(error)
    *place, key = first["loc"]
    known = _known(Recipe, place)
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(known)}"
    return f"unknown key {'.'.join(map(str, first['loc']))!r}{hint}"


def _known(model: type[BaseModel], place: Iterable[str | int]) -> list[str]:
    """Names of the fields of the section at `place`."""
    for step in place:
        if isinstance(step, str):
            model = _model_in(model.model_fields[step].annotation)
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation
    assert get_origin(annotation) is not None
    return next(_model_in(a) for a in get_args(annotation) if a is not Ellipsis)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        pairs = enumerate(value)
    else:
        return {name: value}
    inner = [_flat(v, f"{name}.{k}" if name else str(k)) for k, v in pairs]
    return {k: v for part in inner for k, v in part.items()}
