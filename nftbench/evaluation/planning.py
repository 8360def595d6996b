"""What an evaluation has to do: each protocol with its prompts and its rewards, refused before an image is made."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from nftbench.benchmark.registry import choose, load_benchmark
from nftbench.benchmark.samples import Sample, samples
from nftbench.benchmark.schema import Protocol
from nftbench.evaluation.scoring.files import refuse_unscorable
from nftbench.evaluation.scoring.in_turn import Turns
from nftbench.evaluation.scoring.loading import load_named
from nftbench.generation.checkpoint import LoadedModel
from nftbench.generation.settings.described import as_drawn
from nftbench.generation.settings.effective import Effective, learn_settings
from nftbench.generation.settings.preflight import check_prompt_seen, count_cut
from rewards.base import ConfigError, Prompt, Reward


@dataclass(frozen=True, kw_only=True)
class Work:
    """One benchmark of a run, under one protocol."""

    name: str
    """Of its folder within the run: see `folder_names`."""
    protocol: Protocol
    prompts: Sequence[Prompt]
    rewards: Mapping[str, Reward]
    batch_size: int
    settings: Effective | None = None
    """How the model draws it, see `fitted`; None before a model is loaded."""
    cut: int = 0
    """Prompts that no text encoder of the model reads whole."""

    @cached_property
    def samples(self) -> list[Sample]:
        """All images, in the order they are made."""
        return samples(self.prompts, self.protocol.images_per_prompt)

    def batches(self) -> Iterator[tuple[int, list[Sample]]]:
        """The images in numbered batches: the same ones whatever is there already."""
        everything = self.samples
        for start in range(0, len(everything), self.batch_size):
            yield start // self.batch_size, everything[start : start + self.batch_size]


def folder_names(protocols: Sequence[Protocol]) -> list[str]:
    """Where a run keeps each protocol's images: `BENCHMARK`, or `BENCHMARK+HASH` for a benchmark that it has twice."""
    times = Counter(p.benchmark for p in protocols)
    return [
        p.benchmark if times[p.benchmark] == 1 else f"{p.benchmark}+{p.hash}" for p in protocols
    ]


def plan(
    protocols: Sequence[Protocol],
    rewards: Mapping[str, Reward],
    batch_size: int,
    wanted: Sequence[Sequence[str]] | None = None,
) -> list[Work]:
    """Give each protocol its prompts and its rewards.

    Args:
        protocols: what is asked, and how.
        rewards: by key.
        batch_size: images made and scored at once.
        wanted: keys of each protocol's rewards; None gives it all that can score its prompts.

    Raises:
        ConfigError: a reward that can score none of the prompts, or not those it is wanted for.
    """
    works = []
    names = folder_names(protocols)
    for place, protocol in enumerate(protocols):
        prompts = prompts_of(protocol)
        if wanted is None:
            keys = [key for key, reward in rewards.items() if not _refusal(reward, prompts)]
        else:
            keys = wanted[place]
        works.append(
            Work(
                name=names[place],
                protocol=protocol,
                prompts=prompts,
                rewards={key: rewards[key] for key in keys},
                batch_size=batch_size,
            )
        )
    _refuse_misfits(works, rewards)
    return works


def prompts_of(protocol: Protocol) -> list[Prompt]:
    """What a protocol asks, `limit` of each task where it has one."""
    return choose(load_benchmark(protocol.benchmark).load(), protocol.limit)


def _refusal(reward: Reward, prompts: Sequence[Prompt]) -> str:
    """Why a reward cannot judge some of the prompts; empty where it can."""
    try:
        refuse_unscorable(reward, prompts)
    except ConfigError as error:
        return str(error)
    return ""


def _refuse_misfits(works: Sequence[Work], rewards: Mapping[str, Reward]) -> None:
    for work in works:
        for reward in work.rewards.values():
            refuse_unscorable(reward, work.prompts)
    for key, reward in rewards.items():
        if not any(key in work.rewards for work in works):
            why = _refusal(reward, works[-1].prompts)
            raise ConfigError(f"reward {key!r} can judge none of these benchmarks: {why}")


def own_works(
    protocols: Sequence[Protocol],
    wanted: Sequence[Sequence[str]],
    batch_size: int,
    turns: Turns | None = None,
) -> list[Work]:
    """Each protocol with the rewards that its suite names; one that cannot be had is refused with a way round it."""
    keys = list(dict.fromkeys(key for some in wanted for key in some))
    loaded = load_named(keys, turns)
    full = [[loaded[key].info.key for key in some] for some in wanted]
    return plan(protocols, {r.info.key: r for r in loaded.values()}, batch_size, full)


def fitted(works: Sequence[Work], model: LoadedModel) -> list[Work]:
    """What a suite asks, fitted to one checkpoint: every setting gets the value that its network will see.

    Raises:
        ConfigError: the model cannot draw what is asked, or does not see its prompts; nothing was drawn then.
    """
    found = []
    for work in works:
        own = {"dtype": model.dtype, "numerics": model.numerics}
        requested = work.protocol.filled(model.own).model_copy(update=own)
        settings = learn_settings(model.pipeline, requested)
        count = requested.images_per_prompt
        settings = check_prompt_seen(model.pipeline, settings, work.prompts, count)
        protocol = as_drawn(requested, settings)
        name = work.name.replace(f"+{work.protocol.hash}", f"+{protocol.hash}")
        cut = count_cut(model.pipeline, settings, work.prompts)
        found.append(replace(work, name=name, protocol=protocol, settings=settings, cut=cut))
    return each_once(found)


def each_once(works: Sequence[Work]) -> list[Work]:
    """Works of one folder as one, with all their rewards: what differs as it is asked may be drawn alike."""
    found: dict[str, Work] = {}
    for work in works:
        rewards = found[work.name].rewards if work.name in found else {}
        found[work.name] = replace(work, rewards={**rewards, **work.rewards})
    if len(found) == len(works):
        return list(works)
    names = folder_names([work.protocol for work in found.values()])
    return [replace(work, name=name) for name, work in zip(names, found.values(), strict=True)]


def drawn(work: Work) -> dict[str, Any]:
    """For the manifest: what of the drawing a protocol does not say."""
    if work.settings is None:
        return {}
    return {
        "arguments": {k: repr(v) for k, v in work.settings.arguments.items()},
        "one_by_one": work.settings.one_by_one,
        "prompts_cut": work.cut,
        "notes": list(work.settings.notes),
    }


def drawn_as(manifest: Mapping[str, Any]) -> list[str]:
    """How a run's images were drawn, a line a benchmark, with what a reader of its numbers should know."""
    lines = []
    for name, about in manifest.get("drawn", {}).items():
        p = manifest["protocols"][name]
        if p["noise"] == "service":
            took = manifest.get("service", {}).get(name, {})
            counted = ", ".join(f"{k} {v:g}" for k, v in sorted(took.items()))
            lines.append(f"{name}: {p['height']}x{p['width']} by a service: {counted}")
            continue
        if p["noise"] == "given":
            lines += [f"{name}: note: {note}" for note in about["notes"]]
            continue
        scale = "" if p["guidance"] == "off" else f" {p['guidance_scale']}"
        calls = f"{p['network_calls']:g} network call(s) a step"
        size = f"{p['height']}x{p['width']}, {p['num_inference_steps']} steps"
        solver = f", solver {p['solver']}" if p.get("solver") else ""
        lines.append(f"{name}: drawn at {size}, guidance {p['guidance']}{scale} ({calls}){solver}")
        if about.get("prompts_cut"):
            lines.append(
                f"{name}: warning: {about['prompts_cut']} prompts are cut by every text encoder"
            )
        lines += [f"{name}: note: {note}" for note in about.get("notes", ())]
    return lines
