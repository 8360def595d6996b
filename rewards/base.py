"""What a reward is: pixels and prompts in, one number an image out, in the reference's own units.

Everything that scores an image keeps this contract, in evaluation and in training alike:

- images are uint8 RGB, (N, H, W, 3): the rounded pixels that are saved are the pixels scored;
- a value depends on its image and prompt alone: never on the batch, the order or the process count;
- what could not be scored is NaN with the reason beside it: never 0, never left out.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np  # imported where it is used: the command line reads this file for its errors

MAX_PIXELS = 89_478_485
"""Pictures with more pixels are not scored: Pillow's own limit against decompression bombs."""
SHARES = frozenset({"truncated"})
"""Sub-scores that are 0 or 1 whatever the reward's own units are."""
MAX_RATIO = 200
"""Pictures whose sides differ by more are not scored: 224 pixels of one side would leave one of the other, or
make 45 thousand of it."""
Progress = Callable[[str, int, int], None]
"""Told how far some work is: its stage, what is done of it, and out of how much (0: not known)."""


PART = ":"
"""Parts a reward's key from a sub-score's name: `geneval@pocket:strict`."""
PART_NAME = re.compile(r"[\w.-]+")
WORDS = ("reason", "evidence")
"""What stands beside a value in the same way, and is no sub-score."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A reward's value or one of its sub-scores; written `geneval@pocket:strict`, in tables and as a column alike."""

    name: str
    variant: str = ""
    part: str = ""

    @classmethod
    def parse(cls, text: str) -> "Metric":
        """What `str` of a metric, or a bare reward's key, means."""
        key, _, part = text.partition(PART)
        name, _, variant = key.partition("@")
        return cls(name, variant, part)

    @property
    def key(self) -> str:
        """Of its reward: `name@variant`, or the bare name where there is only one variant."""
        return f"{self.name}@{self.variant}" if self.variant else self.name

    def __str__(self) -> str:
        return f"{self.key}{PART}{self.part}" if self.part else self.key


class ConfigError(ValueError):
    """The user asked for what cannot be: says what was expected, what came and what to do."""


class MissingWeights(ConfigError):
    """Weights are not on this machine; the message names the command that fetches them."""


class MissingExtra(ConfigError):
    """An optional package is not installed; the message names the pip command."""


def did_you_mean(name: str, there: Iterable[str], otherwise: str = "") -> str:
    """The end of a line that refuses a name: the near one, or else what was expected; never a long list after a hint.

    Args:
        name: as the user wrote it.
        there: names that exist.
        otherwise: what is said where none is near, such as `expected one of a, b`.
    """
    near = difflib.get_close_matches(name, list(there), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {otherwise}" if otherwise else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One thing asked of a model."""

    id: str
    """Stable name within its benchmark; images are seeded by it."""
    text: str
    tag: str = ""
    """Task within the benchmark, such as GenEval's `two_object`."""
    target: Mapping[str, Any] = field(default_factory=dict)
    """What a rule-based reward checks: GenEval's metadata (`include`, `exclude`)."""
    rewards: tuple[str, ...] = ()
    """Names of the only rewards that apply to it, in training; empty is every one that can score it."""
    cluster: str = ""
    """Prompts of one cluster, such as paraphrases, count as one for error bars; empty is a cluster of its own."""
    origin: str = field(default="", compare=False)
    """Where a user wrote it, `mine.jsonl, line 4`; empty where others did. It moves no number: what is doubtful in a
    user's own prompt is refused, and what others published is scored as they did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """A file of weights that is not shipped: where it comes from, and how it is known to be the right one."""

    name: str
    """Path in the cache, `folder/file`, such as `pickscore/model.safetensors`."""
    url: str
    """`hf://owner/name@revision/path` with a commit's 40 digits, or an https URL."""
    sha256: str
    """64 hexadecimal digits, or the first ones that the publisher gives; empty where none is known."""
    size: int
    """Bytes; 0 where it is not known."""
    licence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardInfo:
    """What a number of this reward means; printed by `nftbench rewards`, stored with every run."""

    name: str
    variant: str
    summary: str
    low: float
    """Lowest value possible or ever seen, native units."""
    high: float
    ends: tuple[float, float] | None = None
    """Values that scores and sub-scores pile up at: 0 and 1 of a share, 1 and 5 of marks. Confidence intervals allow
    for it. None where scores stay between `low` and `high`."""
    train_scale: float = 1.0
    """Training divides by this (PickScore 26, UnifiedReward 5); nothing else does."""
    higher_is_better: bool = True
    needs: Literal["text", "quoted text", "geneval metadata"] = "text"
    """What a prompt must carry."""
    weights: tuple[str, ...] = ()
    """Where the weights come from: `hub id @ revision`, URL or packaged file, with their sha256."""
    files: tuple[Weight, ...] = ()
    """Weights that `nftbench rewards pull` fetches; empty where all is shipped or none is needed."""
    licence: str = ""
    source: str = ""
    """Paper section or repo@commit:line that defines the reward."""

    @property
    def key(self) -> str:
        """`name@variant`, or the bare name where there is only one variant."""
        return Metric(self.name, self.variant).key

    @property
    def needs_metadata(self) -> bool:
        """Whether it scores by a prompt's metadata (GenEval's rules), whose tasks then weigh alike."""
        return self.needs == "geneval metadata"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a reward says of N images.

    Raises:
        AssertionError: lengths differ, or a NaN comes without a reason.
    """

    values: "np.ndarray"
    """float32 (N,), native units; NaN where the image could not be scored."""
    reasons: tuple[str, ...]
    """(N,) why a value is NaN; empty for a scored image."""
    parts: "Mapping[str, np.ndarray]" = field(default_factory=dict)
    """Named sub-scores, float32 (N,) each, such as GenEval's `strict`."""
    evidence: tuple[Mapping[str, Any], ...] = ()
    """(N,) or empty: what the value rests on (boxes, read text, a judge's reply), JSON-ready."""

    def __post_init__(self) -> None:
        import numpy as np

        count = len(self.values)
        for numbers in (self.values, *self.parts.values()):
            _refuse_masked(numbers)
        assert self.values.dtype == np.float32 and self.values.shape == (count,), (
            "values must be float32 (N,)"
        )
        assert len(self.reasons) == count, "one reason an image, empty where it was scored"
        assert len(self.evidence) in (0, count), "evidence for every image or for none"
        assert all(isinstance(reason, str) for reason in self.reasons), "a reason must be a text"
        for name, part in self.parts.items():
            assert PART_NAME.fullmatch(str(name)) and name not in WORDS, (
                f"no sub-score's name: {name!r}"
            )
            assert np.shape(part) == (count,), "one sub-score an image"
            assert np.asarray(part).dtype.kind in "biuf", f"sub-score {name!r} must be numbers"
        unexplained = [i for i, v in enumerate(self.values) if np.isnan(v) != bool(self.reasons[i])]
        assert not unexplained, f"NaN and reason must come together; not so at {unexplained}"

    @classmethod
    def of(cls, values: "Sequence[float] | np.ndarray", **more: Any) -> "Scores":
        """Scores of images that all could be scored."""
        import numpy as np

        _refuse_masked(values)
        array = np.asarray(values, dtype=np.float32)
        return cls(values=array, reasons=("",) * len(array), **more)


def _refuse_masked(values: Any) -> None:
    """What lies under a mask is a number to whoever does not look at the mask, as an array that takes it over."""
    import numpy as np

    assert not isinstance(values, np.ma.MaskedArray), (
        "a masked array; expected NaN, and the reason, where an image could not be scored"
    )


def unfit(images: "np.ndarray") -> str:
    """Why pictures (N, H, W, 3) cannot be scored; empty where they can."""
    height, width = images.shape[1:3]
    if not height or not width:
        return f"the picture is {width}x{height} and has no pixel"
    if height * width > MAX_PIXELS:
        return f"the picture is {width}x{height}; at most {MAX_PIXELS} pixels can be scored"
    if max(height, width) > MAX_RATIO * min(height, width):
        return f"the picture is {width}x{height}; sides may differ {MAX_RATIO} times at most"
    return ""


def unseen(images: "np.ndarray") -> Scores | None:
    """Scores of pictures that cannot be scored, or of none at all; None where they can be.

    Args:
        images: uint8 RGB (N, H, W, 3).
    """
    import numpy as np

    count = len(images)
    reason = unfit(images)
    if not count or reason:
        return Scores(values=np.full(count, np.nan, np.float32), reasons=(reason,) * count)
    return None


@runtime_checkable
class Reward(Protocol):
    """Scores images.

    It owns its preprocessing; the caller hands over saved pixels and nothing else.
    """

    info: RewardInfo

    def score(self, images: "np.ndarray", prompts: Sequence[Prompt]) -> Scores:
        """Score images.

        Args:
            images: uint8 RGB (N, H, W, 3), N >= 1; never written to.
            prompts: N prompts, one an image.

        Returns:
            Scores of the N images.
        """
        ...

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts this reward can never score, before any image is made.

        Raises:
            ConfigError: naming the first such prompt and what it lacks.
        """
        ...
