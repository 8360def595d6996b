"""What a training run is made of: the models that a recipe, one TOML, is read into."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nftbench.benchmark.faults import refuse_repeated
from nftbench.benchmark.schema import SamplingParameters
from nftbench.training.algorithms import check_name
from nftbench.training.config.frozen import Frozen

OldSchedule = Literal["copy", "linear_to_0.5", "delayed_to_0.999", "keep"]
"""Those of `nft.old_decay`, said again: a recipe is read without importing torch."""
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


def _between(first: float, last: float | None, share: float) -> float:
    """By equal factors from the first to the last."""
    return first * ((last or first) / first) ** share


def _as_eval_calls_it(solver: Any) -> Any:
    """The name of `nftbench eval --solver`; recipes of before called one solver by a shorter one."""
    return "dpm++2" if solver == "dpm++" else solver


def _listed(value: Any) -> Any:
    """One name, or several with commas between, as they are written on a command line."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _off(value: Any) -> Any:
    """None, which neither a TOML nor a command line can say."""
    return None if value == "off" else value


AUTO = "auto"
"""Of a setting: chosen from the memory that is there, said, and kept in the run."""

Share = Annotated[float, Field(ge=0, lt=1)]

Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    refuse_repeated(names, "name")
    return names


class PolicyConfig(Frozen):
    """What of the network is trained."""

    method: Literal["lora", "full"] = "lora"
    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=64, gt=0)
    """LoRA's output is scaled by alpha / rank."""
    targets: Annotated[Names, AfterValidator(_once)] = ATTENTION
    """Ends of the names of the layers that get a LoRA."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Of the frozen weights; trained ones are always float32. `auto`: as the checkpoint is stored on a GPU, float32 on
    a CPU; bfloat16 where an update in float32 would not fit into the memory that is free."""
    precision: Literal["no", "bf16", "fp16", "auto"] = "no"
    """Automatic mixed precision of rollouts and updates; fp16 scales the loss. `auto`: bf16 where the device has units
    for it, else no."""
    gradient_checkpointing: bool | Literal["auto"] = False
    """Passes are computed again on the way back, which saves memory for time. `auto`: where an update would not fit
    into the memory that is free."""
    folded: bool = False
    """A LoRA is folded into its layers in the update too: faster for small networks, and a copy of the weights each
    for the trained, the old and the reference policy; expects dtype float32."""

    compiled: bool = False
    """The network is compiled for the machine (torch.compile; needs a C++ compiler on a CPU): some minutes once, then
    a pass takes half the time."""

    @model_validator(mode="after")
    def _exact(self) -> Self:
        if self.folded and self.dtype != "float32":
            raise ValueError("expected dtype float32 with folded: a LoRA drowns in rounded weights")
        return self

    @property
    def automatic(self) -> bool:
        """Whether anything is left to the memory that is there."""
        return AUTO in (self.dtype, self.gradient_checkpointing)


class OptimizerConfig(Frozen):
    """AdamW."""

    lr: float = Field(default=3e-4, gt=0)
    """Learning rate of stages that have none of their own."""
    final_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the last iteration, reached by equal factors; None (`off`) keeps `lr`."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    ema: Share = 0.9
    """Highest share of itself that the evaluation average keeps at an optimiser step."""

    _without = field_validator("final_lr", mode="before")(_off)

    def lr_at(self, share: float) -> float:
        """Learning rate when this share of the iterations, in [0, 1], is done."""
        return _between(self.lr, self.final_lr, share)


class RolloutConfig(Frozen):
    """How the old policy draws, but for the number of steps, which is a stage's."""

    height: int | None = Field(default=None, ge=8)
    width: int | None = Field(default=None, ge=8)
    max_sequence_length: int | None = Field(default=None, ge=0)
    """Size and text length are the checkpoint's own where they are left out."""
    guidance: Literal["native", "off", "cfg", "embedded"] | None = None
    """As `nftbench eval --guidance` has it; one that calls the network twice a step is refused."""
    guidance_scale: float | None = Field(default=1.0, ge=0)
    """Of that kind, or of the model's own; 1 is none, or what an embedded scale is told."""
    solver: Annotated[Literal["own", "dpm++2", "dpm2"], BeforeValidator(_as_eval_calls_it)] = "own"
    """NFT only: the pipeline's, or one of second order, which needs about half the steps: DPM-Solver++ as diffusers has
    it, or as DiffusionNFT's own rollouts use it (`dpm2`)."""
    batch_size: int = Field(default=16, ge=1)
    """Images at once in a rollout; at most as many in one forward pass of the update."""

    @property
    def sampling(self) -> SamplingParameters:
        """What the recipe itself says of the images."""
        fields = self.model_dump(exclude={"batch_size", "solver"})
        if self.guidance in ("off", "native"):
            fields["guidance_scale"] = None
        return SamplingParameters(**fields)


class FlowGrpoConfig(Frozen):
    """The baseline's own settings."""

    variant: Literal["sde", "cps"] = "sde"
    noise_level: float = Field(default=0.7, gt=0)
    clip_range: float = Field(default=1e-4, gt=0)
    window: tuple[int, int] | None = None
    """First stochastic step and the one after the last; None (`off`) is every step but the last."""

    _without = field_validator("window", mode="before")(_off)


class EvaluationConfig(Frozen):
    """Validation on held-out prompts."""

    benchmarks: Annotated[Names, AfterValidator(_once)] = ()
    """Their prompts are drawn by the averaged policy, each scored by the rewards that apply to it."""
    every: int = Field(default=20, ge=0)
    """Iterations between two validations; 0 is no validation at all, not even before and after."""
    limit: int | None = Field(default=None, ge=1)
    """Prompts of each benchmark in a validation, `off` all of them, as are drawn before and after the training."""
    images_per_prompt: int = Field(default=1, ge=1, le=10_000)
    """In a validation; before and after the training as the benchmark has it."""
    num_inference_steps: int | None = Field(default=None, ge=1, le=10_000)
    """None (`off`) leaves the benchmark's own."""
    held_out_rewards: str = ""
    """Rewards that are watched and never trained on, besides the trained ones."""

    _without = field_validator("limit", "num_inference_steps", mode="before")(_off)


class CheckpointConfig(Frozen):
    """When the whole state is saved."""

    every: int = Field(default=20, ge=1)
    keep: int = Field(default=2, ge=1)
    """Newest ones kept, besides the best."""


class Threshold(Frozen):
    """A guard warns from one value on and stops the run from the other on; None, in a TOML `off`, never does."""

    warn: float | None = Field(default=None, ge=0)
    stop: float | None = Field(default=None, ge=0)

    _without = field_validator("warn", "stop", mode="before")(_off)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.warn is not None and self.stop is not None and self.stop < self.warn:
            raise ValueError("expected stop to be at least warn")
        return self


class GuardConfig(Frozen):
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
    kl_exploded: Threshold = Threshold(warn=0.05, stop=None)
    """Share of pairs of image and time with a KL above 1 (NFT)."""
    kl_p99: Threshold = Threshold(warn=4.0, stop=None)
    """99th percentile of the KL over pairs."""
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


class TrustRegion(Frozen):
    """How far from the reference policy a pair of image and time is trained: see `nft.trust_region`."""

    kl: float = Field(default=0.5, gt=0)
    """Squared difference of velocities beyond which the policy term is dropped; NFT only, and `trust_region = "off"`
    drops it nowhere."""
    weight: float = Field(default=0.2, gt=0)
    """Of the excess, which is pulled back."""


class Stage(Frozen):
    """A stretch of training with its own prompts, rewards and settings."""

    prompts: Annotated[Names, AfterValidator(_once)] = Field(min_length=1)
    """Benchmarks, whose training prompts are meant, or prompt files: .txt, .csv or .jsonl, GenEval's metadata among
    these."""
    prompt_weights: dict[str, StrictInt] = Field(default_factory=dict)
    """Tag, or an entry of `prompts`, -> how often its prompts stand in a pass over all of them, such as
    `counting = 3`; the two multiply, and what is not named counts once."""
    rewards: str
    """Such as `ocr,pickscore:0.5`."""
    combine: Literal["sum", "advantages"] = "sum"
    """`sum` adds weighted rewards, each divided by its training scale; `advantages` adds weighted advantages, each
    reward's normalised on its own."""
    iterations: int = Field(ge=1)
    lr: float | None = Field(default=None, gt=0)
    """Learning rate of the stage's first iteration; None (`off`) follows the optimiser's over the whole run."""
    final_lr: float | None = Field(default=None, gt=0)
    """Of the stage's last iteration, reached by equal factors; None (`off`) keeps the stage's `lr`."""
    groups: int = Field(default=48, ge=1, le=100_000)
    """Prompts an iteration."""
    group_size: int = Field(default=24, ge=2, le=100_000)
    guided: float | None = Field(default=None, gt=1)
    """NFT only: the old policy draws with classifier-free guidance of this scale, and is the guided policy in the loss;
    the trained one learns to do without. Goes with `old_schedule = "keep"`, or guidance piles up; `off` is none."""
    num_inference_steps: int = Field(default=10, ge=1, le=10_000)
    timesteps_per_image: Literal["all"] | int | float = 0.99
    """Times an image is trained at, drawn from the sampler's own: `all`, a share below 1, or a number."""
    noise_range: tuple[float, float] = (0.0, 1.0)
    """Noise levels t, of 0 to 1 (noise), between which an image may be trained; NFT only."""
    updates: int = Field(default=1, ge=1)
    """Optimiser steps an iteration, each on its own part of the images."""
    beta: float = Field(default=1.0, gt=0)
    """NFT only: how far the good and the bad policy of the loss lie from the old one."""
    kl_weight: float = Field(default=1e-4, ge=0)
    trust_region: TrustRegion | None = None
    """NFT only; None is off."""
    adv_clip: float = Field(default=5.0, gt=0)
    advantage_std: Literal["batch", "group"] = "batch"
    old_schedule: OldSchedule = "linear_to_0.5"
    zero_spread: Literal["train", "skip"] = "train"
    """Groups whose images all got one reward: `train` pulls them towards the old policy, `skip` saves their cost."""
    reset: Annotated[
        tuple[Literal["theta", "old", "ema", "optimizer"], ...], AfterValidator(_once)
    ] = ()
    """What the stage begins anew, in this order: `theta` from the evaluation average, `old` and `ema` from theta, the
    optimizer without memory; all else continues from the stage before it."""

    _without = field_validator("lr", "final_lr", "guided", "trust_region", mode="before")(_off)

    @field_validator("timesteps_per_image", mode="before")
    @classmethod
    def _share_or_number(cls, value: Any) -> Any:
        share = isinstance(value, float) and 0 < value < 1
        number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (value == "all" or share or number):
            raise ValueError("expected 'all', a share between 0 and 1, or a whole number >= 1")
        return value

    @field_validator("prompt_weights")
    @classmethod
    def _at_least_once(cls, value: dict[str, int]) -> dict[str, int]:
        if any(weight < 1 for weight in value.values()):
            raise ValueError("expected whole numbers of at least 1")
        return value

    @field_validator("noise_range")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ValueError("expected two noise levels, 0 <= first < second <= 1")
        return value

    def lr_at(self, share: float) -> float | None:
        """The stage's own learning rate when this share of it is done; None where it has none."""
        return None if self.lr is None else _between(self.lr, self.final_lr, share)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.final_lr is not None and self.lr is None:
            raise ValueError("expected lr with final_lr")
        if self.guided and self.old_schedule != "keep":
            raise ValueError('expected old_schedule = "keep" with guided')
        if self.updates > (images := self.groups * self.group_size):
            raise ValueError(
                f"expected an image or more for each of {self.updates} updates, got {images} (groups x group_size)"
            )
        return self

    def timestep_count(self, trainable_times: int) -> int:
        """How many of so many times an image is trained at."""
        wanted = self.timesteps_per_image
        if wanted == "all":
            return trainable_times
        if isinstance(wanted, float):
            return max(1, int(trainable_times * wanted))
        return min(wanted, trainable_times)


class Recipe(Frozen):
    """A training run, whole."""

    name: str
    summary: str = ""
    evidence: str = ""
    """What has been measured with it."""
    checkpoint: str
    """Where it starts, as `nftbench eval` takes it."""
    algorithm: str = "nft"
    """A name of `nftbench.training.algorithms`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    variants: dict[str, str] = Field(default_factory=dict)
    """Variant that a bare reward name means in this recipe, such as `geneval = "pocket-nft"`."""
    policy: PolicyConfig = PolicyConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    rollout: RolloutConfig
    flow_grpo: FlowGrpoConfig = FlowGrpoConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    guards: GuardConfig = GuardConfig()
    loggers: Annotated[
        tuple[Literal["tensorboard", "wandb"], ...], BeforeValidator(_listed), AfterValidator(_once)
    ] = ("tensorboard",)
    """Accelerate's trackers; `metrics.jsonl` is written in any case."""
    stages: tuple[Stage, ...] = Field(min_length=1)

    @field_validator("algorithm")
    @classmethod
    def _known(cls, value: str) -> str:
        check_name(value)
        return value
