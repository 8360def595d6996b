"""What a suite or a training needs and this machine may lack, all at once: prompts, weights, checkpoints, a judge."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import rewards
from nftbench.benchmark import data_cache
from nftbench.benchmark.registry import load_benchmark, load_suite
from nftbench.benchmark.suites import Suite
from rewards.base import ConfigError, Prompt, Weight
from rewards.extras import EXTRAS, extra_of
from rewards.weights import pull

PROBE = Prompt(
    id="probe",
    text="""a sign that says "OK", or 'OK'""",
    tag="single_object",
    target={"include": [{"class": "circle", "count": 1}]},
)
"""A prompt that every kind of reward can be asked about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """One thing that an evaluation or a training cannot do without."""

    kind: Literal["prompts", "weights", "checkpoint", "extra", "reward"]
    name: str
    here: bool
    size: int = 0
    """Bytes to fetch; 0 where that is not known or there is nothing to fetch."""
    remedy: str = ""
    """What makes it be here."""
    file: Weight | None = None
    """What `nftbench pull` fetches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """What is wanted, by its names."""

    benchmarks: Sequence[str] = ()
    """Whose prompts are asked."""
    training: Sequence[str] = ()
    """Benchmarks whose training prompts are asked."""
    rewards: Sequence[str] = ()
    checkpoint: str = ""


def needs(names: Sequence[str]) -> list[Need]:
    """What suites and benchmarks need, each thing once.

    Args:
        names: of suites or benchmarks.

    Raises:
        ConfigError: no such suite or benchmark; the near name is suggested.
    """
    suites = [load_suite(name) for name in names]
    benchmarks = [name for suite in suites for name in suite.benchmarks]
    keys = [key for suite in suites for key in _rewards(suite)]
    return needs_of(Named(benchmarks=benchmarks, rewards=keys))


def needs_of(named: Named) -> list[Need]:
    """What is needed of what is named, each thing once."""
    found = [_checkpoint(named.checkpoint)] if named.checkpoint else []
    found += [n for name in dict.fromkeys(named.benchmarks) for n in _prompts(name)]
    found += [n for name in dict.fromkeys(named.training) for n in _training_prompts(name)]
    found += [n for key in dict.fromkeys(named.rewards) for n in _of_reward(rewards.resolve(key))]
    return list({(need.kind, need.name): need for need in found}.values())


def all_lacking(name: str) -> str:
    """All that a suite needs and this machine lacks, in one line; empty where that is one thing at most.

    Args:
        name: of a suite or benchmark.
    """
    missing = [need for need in needs([name]) if not need.here]
    if len(missing) < 2:
        return ""
    things = ", ".join(f"{need.kind} {need.name}" for need in missing)
    return (
        f"{name} needs {len(missing)} things that are not here: {things}; nftbench pull {name} fetches what can be "
        "fetched and says how to get the rest, or choose what is here with --rewards"
    )


def _rewards(suite: Suite) -> list[str]:
    """Rewards of a suite's columns, and those of benchmarks that have no column."""
    columned = {column.benchmark for column in suite.columns}
    own = [load_benchmark(name).rewards for name in suite.benchmarks if name not in columned]
    return [*(column.reward for column in suite.columns), *(key for some in own for key in some)]


def _checkpoint(name: str) -> Need:
    from nftbench.generation.sources.ahead import is_here  # brings diffusers

    remedy = "comes from the hub when it is first loaded"
    return Need(kind="checkpoint", name=name, here=is_here(name), remedy=remedy)


def _prompts(name: str) -> Iterator[Need]:
    benchmark = load_benchmark(name)
    for source in benchmark.sources:
        if source.url:
            yield _prompt_file(source.asset(benchmark.licence), f"nftbench pull {name}")


def _training_prompts(name: str) -> Iterator[Need]:
    benchmark = load_benchmark(name)
    if benchmark.training and benchmark.training.url:
        asset = benchmark.training.asset(benchmark.licence)
        yield _prompt_file(asset, f"nftbench data pull {name} --training")


def _prompt_file(asset: Weight, remedy: str) -> Need:
    here = data_cache.state(asset) == "cached"
    return Need(
        kind="prompts", name=asset.name, here=here, size=asset.size, remedy=remedy, file=asset
    )


def _of_reward(key: str) -> Iterator[Need]:
    extra = extra_of(key)
    if extra:
        here = find_spec(EXTRAS[extra].module) is not None
        remedy = f"pip install 'nftbench[{extra}]'"
        yield Need(kind="extra", name=extra, here=here, remedy=remedy)
        if not here:
            return
    files = rewards.reward_info(key).files
    for file in files:
        here = pull.state(file) == "cached"
        remedy = f"nftbench rewards pull {key}"
        yield Need(
            kind="weights", name=file.name, here=here, size=file.size, remedy=remedy, file=file
        )
    if not files and not extra:
        yield _tried(key)


def _tried(key: str) -> Need:
    """A reward with nothing to fetch: whether it can be asked, which of a judge only its server says."""
    try:
        rewards.load_reward(key).check([PROBE])
    except ConfigError as error:
        return Need(kind="reward", name=key, here=False, remedy=str(error))
    return Need(kind="reward", name=key, here=True)
