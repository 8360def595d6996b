"""What a stress test draws: prompts, their other words, settings; and the rewards. Nothing is generated here."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diffusers import DiffusionPipeline

from nftbench.benchmark.registry import choose, load_benchmark, load_suite
from nftbench.benchmark.schema import Benchmark
from nftbench.evaluation.planning import Work
from nftbench.evaluation.scoring.loading import load_rewards
from nftbench.generation.checkpoint import LoadedModel, own_suite
from nftbench.generation.settings.effective import Effective, learn_settings
from nftbench.stress.paraphrase import RULES, one_each, paraphrases
from rewards.base import ConfigError, Prompt, Reward

Readable = Callable[[str], bool]

ORIGINAL, WORDED, OTHERS = "as-asked", "other-words", "other-prompts"
GUIDANCE = (1.0, 2.0, 4.5)
UNSEEN = {"geneval": "geneval-unseen", "geneval-nft": "geneval-unseen"}
"""Benchmark -> the one that asks its tasks of other objects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is drawn."""

    prompts: int | None = 5
    """Of each task; None is all."""
    images: int = 2
    """Of each prompt."""
    seeds: int = 3
    """At least 2."""
    turns: int = 1
    """Paraphrases of each prompt."""
    guidance: tuple[float, ...] = GUIDANCE
    steps: int | None = None
    """Denoising steps; None is the benchmark's own."""
    batch_size: int = 16


FULL = Effort(prompts=None, images=4, seeds=5, turns=len(RULES))
"""What `--full` draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is generated and scored, before anything is."""

    benchmark: Benchmark
    effort: Effort
    prompts: Sequence[Prompt]
    rewards: Mapping[str, Reward]
    others: tuple[str, Sequence[Prompt]]
    """Other prompts, and what they are; without a prompt it is why there is none."""
    missing: Mapping[str, str]
    """Rewards that cannot be had, and why."""
    readable: Readable
    """Whether the text encoders take in all of a text; paraphrases that they do not are left out."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters that the checkpoint asks for where the benchmark leaves them open."""

    drawn: Effective | None = None
    """How the checkpoint draws what is asked; None before it is loaded."""
    unguided: str = ""
    """Why the model cannot be drawn with other scales; empty where it can."""

    @property
    def guidance_scale(self) -> float | None:
        """As the network sees it; None where the model's guidance is no such scale."""
        if self.drawn is not None:
            return self.drawn.guidance_scale
        return self.benchmark.protocol().filled(self.own).guidance_scale

    @property
    def metric(self) -> str:
        """The column that most checks are about: GenEval's, else the first."""
        ruled = [k for k, r in self.rewards.items() if r.info.needs_metadata]
        return [*ruled, *self.rewards][0]

    def words(self, turn: int) -> dict[str, tuple[str, Prompt]]:
        """Prompt id -> rule and paraphrase, of one turn."""
        return one_each(self.prompts, turn, self.readable)

    @property
    def unreadable(self) -> tuple[int, int]:
        """Paraphrases that are left out, and all there are."""
        texts = [p.text for prompt in self.prompts for p in paraphrases(prompt).values()]
        return sum(not self.readable(text) for text in texts), len(texts)

    def work(self, name: str, prompts: Sequence[Prompt], **changes: Any) -> Work:
        """One arm: prompts under the benchmark's protocol with some settings changed."""
        effort = {
            "images_per_prompt": self.effort.images,
            "num_inference_steps": self.effort.steps,
        }
        protocol = self.benchmark.protocol(limit=len(prompts), **effort, **changes)
        # Prompts of our own choice and wording: nobody may take this for the benchmark's number.
        whole = json.dumps([[p.id, p.text, p.tag, dict(p.target)] for p in prompts], sort_keys=True)
        digest = hashlib.sha256(whole.encode()).hexdigest()
        return Work(
            name=name,
            protocol=protocol.model_copy(update={"prompts_sha256": digest}),
            prompts=prompts,
            rewards=self.rewards,
            batch_size=self.effort.batch_size,
        )


# --- what is drawn --------------------------------------------------------------------------------


def whole(pipeline: DiffusionPipeline) -> Readable:
    """Whether a text reaches the network whole: one tokenizer at least neither cuts it nor misses a sign of it.

    (The pocket world reads 18 tokens, and words that it was not taught letter by letter.)
    """
    tokenizers = [
        t
        for name, t in pipeline.components.items()
        if name.startswith("tokenizer") and t is not None
    ]

    def readable(text: str) -> bool:
        return not tokenizers or any(
            len(t.tokenize(text)) + t.num_special_tokens_to_add() <= t.model_max_length
            and t.unk_token not in t.tokenize(text)
            for t in tokenizers
        )

    return readable


def make_plan(
    benchmark: str, effort: Effort, readable: Readable, own: Mapping[str, Any] | None = None
) -> Plan:
    """Choose prompts and rewards.

    Raises:
        ConfigError: a benchmark that does not generate, or none of its rewards can be had.
    """
    chosen = load_benchmark(benchmark)
    prompts = some_of_each(chosen.load(), effort.prompts)
    loaded, missing = {}, {}
    for key in chosen.rewards:
        try:
            loaded |= load_rewards(key)
        except ConfigError as error:
            missing[key] = str(error)
    if not loaded:
        raise ConfigError(f"no reward of {chosen.name} can be had: {'; '.join(missing.values())}")
    return Plan(
        benchmark=chosen,
        effort=effort,
        prompts=prompts,
        rewards=loaded,
        others=_other_prompts(chosen, effort),
        missing=missing,
        readable=readable,
        own=own or {},
    )


def with_guidance_of(plan: Plan, model: LoadedModel) -> Plan:
    """The plan with those guidance scales alone that a model can be drawn with, its own beside them.

    Raises:
        ConfigError: the model cannot draw what the benchmark asks at all.
    """
    protocol = plan.benchmark.protocol(num_inference_steps=plan.effort.steps).filled(model.own)
    drawn = learn_settings(model.pipeline, protocol)
    if drawn.guidance_scale is None:
        return replace(
            plan,
            drawn=drawn,
            effort=replace(plan.effort, guidance=()),
            unguided="its guidance is no one scale",
        )
    found, refused = [], ""
    for scale in dict.fromkeys(plan.effort.guidance):
        other = protocol.model_copy(update={"guidance": None, "guidance_scale": scale})
        try:
            learn_settings(model.pipeline, other)
            found.append(scale)
        except ConfigError as error:
            refused = str(error)
    effort = replace(plan.effort, guidance=tuple(found))
    others = set(found) - {drawn.guidance_scale}
    return replace(plan, drawn=drawn, effort=effort, unguided="" if others else refused)


def own_benchmark(checkpoint: str) -> str:
    """The first benchmark with GenEval's tasks of the checkpoint's own suite; `geneval` where it names no suite."""
    suite = own_suite(checkpoint)
    found = load_suite(suite).benchmarks if suite else ("geneval",)
    return next((n for n in found if load_benchmark(n).prompts.layout == "geneval"), found[0])


def some_of_each(prompts: Sequence[Prompt], count: int | None) -> list[Prompt]:
    """At most `count` prompts of each task, spread evenly over the task; None is all."""
    tags = dict.fromkeys(p.tag for p in prompts)
    return [p for tag in tags for p in choose([q for q in prompts if q.tag == tag], count)]


def _other_prompts(benchmark: Benchmark, effort: Effort) -> tuple[str, list[Prompt]]:
    try:
        if benchmark.name in UNSEEN:
            unseen = load_benchmark(UNSEEN[benchmark.name])
            chosen = some_of_each(unseen.load(), effort.prompts)
            # Ids of two files are alike, and noise is seeded by the id.
            return unseen.name, [replace(p, id=f"u{p.id}") for p in chosen]
        if benchmark.training is not None:
            distinct = {p.text: p for p in reversed(benchmark.load_training())}
            return "prompts to train on", some_of_each(
                list(distinct.values())[::-1], effort.prompts
            )
    except ConfigError as error:
        return str(error), []
    return (
        f"{benchmark.name} has neither prompts to train on nor a counterpart with unseen objects",
        [],
    )


def arms(plan: Plan) -> list[Work]:
    """Everything that is drawn of the checkpoint."""
    works = [plan.work(ORIGINAL, plan.prompts)]
    works += [plan.work(f"seed-{s}", plan.prompts, seed=s) for s in range(1, plan.effort.seeds)]
    works += [
        plan.work(guided(g), plan.prompts, guidance_scale=g)
        for g in dict.fromkeys(plan.effort.guidance)
        if g != plan.guidance_scale
    ]
    works += _worded(plan, plan.effort.turns)
    if plan.others[1]:
        works.append(plan.work(OTHERS, plan.others[1]))
    return works


def base_arms(plan: Plan) -> list[Work]:
    """Everything that is drawn of the base."""
    return [plan.work(ORIGINAL, plan.prompts), *_worded(plan, 1)]


def guided(scale: float) -> str:
    """Name of the arm of a guidance scale."""
    return f"guidance-{scale:g}"


def _worded(plan: Plan, turns: int) -> list[Work]:
    reworded = [[prompt for _, prompt in plan.words(turn).values()] for turn in range(turns)]
    return [plan.work(f"{WORDED}-{i}", prompts) for i, prompts in enumerate(reworded) if prompts]
