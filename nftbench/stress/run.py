"""The hacking check: one checkpoint asked in other words, by other seeds and guidance, beside the one it came from.

OUT/card.md, card.json      the card
OUT/manifest.json, ARM/     a run folder with every image and score: `as-asked`, `seed-1`, `guidance-2`, ...
OUT/base/                   the same of the base checkpoint
"""

import gc
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

import rewards as registry
from nftbench.benchmark.schema import Protocol
from nftbench.evaluation.evaluate import evaluate
from nftbench.evaluation.planning import Work
from nftbench.evaluation.scoring.loading import quiet
from nftbench.generation.checkpoint import LoadedModel, load_model, trained_folder
from nftbench.runs.rows import metric_range
from nftbench.runs.run_folder import RUNS, Run, folder_name
from nftbench.stats.paired import PAIR, Averaging
from nftbench.stress import checks
from nftbench.stress.card import Card, save
from nftbench.stress.figures import NO_BASE, CheckResult, not_run
from nftbench.stress.plan import (
    ORIGINAL,
    OTHERS,
    WORDED,
    Effort,
    Plan,
    arms,
    base_arms,
    guided,
    make_plan,
    own_benchmark,
    whole,
    with_guidance_of,
)
from nftbench.training.callbacks.guards import picture_statistics
from nftbench.training.config.record import RECIPE, stored_recipe
from rewards.base import Metric, MissingWeights, Progress
from rewards.images.pixels import read_picture


def stress(
    checkpoint: str,
    effort: Effort,
    *,
    base: str | None,
    benchmark: str | None,
    out: Path | None,
    progress: Progress,
    load: Callable[[str], LoadedModel] = load_model,
) -> tuple[Path, Card]:
    """Generate, score, and write the card.

    Args:
        checkpoint: as `load_model` takes it.
        effort: how much.
        base: what it is compared with; None takes the checkpoint that a trained policy says it came from.
        benchmark: whose prompts; None takes the checkpoint's own.
        out: folder; None makes one under `runs/`. One that was begun goes on.
        progress: called as the work goes on.
        load: loads both checkpoints.

    Returns:
        The folder, and the card in it.

    Raises:
        ConfigError: anything asked for that cannot be.
    """
    quiet()
    base = base or origin(checkpoint)
    benchmark = benchmark or own_benchmark(checkpoint)  # before weights are looked for
    policy = load(checkpoint)
    plan = make_plan(benchmark, effort, whole(policy.pipeline), policy.own)
    plan = with_guidance_of(plan, policy)
    works = arms(plan)
    folder = out or RUNS / _name(checkpoint, base, [w.protocol for w in works])
    own, theirs = _generate(Run(folder), works, policy, progress), {}
    del policy  # never two large networks at once
    gc.collect()
    if base:
        theirs = _generate(Run(folder / "base"), base_arms(plan), load(base), progress)
    card = Card(
        checkpoint=checkpoint,
        base=base,
        benchmark=plan.benchmark.name,
        metric=plan.metric,
        effort=asdict(plan.effort),
        missing=plan.missing,
        lines=check_all(plan, own, theirs, trained_on(checkpoint)),
    )
    save(folder, card)
    return folder, card


def _name(checkpoint: str, base: str | None, protocols: Sequence[Protocol]) -> str:
    digest = hashlib.sha256(f"{base} {[p.hash for p in protocols]}".encode()).hexdigest()[:8]
    return f"{folder_name(checkpoint)}-stress-{digest}"


def _generate(
    run: Run, works: Sequence[Work], policy: LoadedModel, progress: Progress
) -> dict[str, pd.DataFrame]:
    """Every arm's table of scored images, with each image's file and its brightness and saturation."""
    evaluate(run, works, policy, "stress", progress)
    tables = {}
    for work in works:
        table = run.read_samples(work.name)
        table["path"] = [str(run.folder / work.name / name) for name in table["image"]]
        seen = pd.DataFrame(
            [picture_statistics(read_picture(Path(p)).pixels[None]) for p in table["path"]]
        )
        tables[work.name] = table.assign(**seen)  # pyright: ignore[reportArgumentType]
    return tables


# --- where it comes from --------------------------------------------------------------------------


def origin(checkpoint: str) -> str | None:
    """The checkpoint that a trained policy was trained from; None where nothing says so.

    Raises:
        ConfigError: what its folder says of it cannot be read.
    """
    trained = trained_folder(checkpoint)
    return trained.base if trained else None


def trained_on(checkpoint: str) -> list[str]:
    """Names of the rewards that a training run's recipe trains on; empty where there is no recipe."""
    trained = trained_folder(checkpoint)
    if trained is None or not (trained.folder / RECIPE).is_file():
        return []
    stages = stored_recipe(trained.folder).stages
    items = [item for stage in stages for item in stage.rewards.split(",")]
    # By name alone: the reward itself may be one of a file, or of a package, that is not here.
    return list(dict.fromkeys(Metric.parse(item.strip()).name for item in items))


# --- what it shows ---------------------------------------------------------------------------------

Tables = Mapping[str, pd.DataFrame]


def check_all(plan: Plan, own: Tables, base: Tables, trained: Sequence[str]) -> list[CheckResult]:
    """All lines of the card.

    Args:
        plan: what was generated.
        own: arm -> table.
        base: the same of the base; empty without one.
        trained: names of the rewards trained on.
    """
    own_table, before, metric = own[ORIGINAL], base.get(ORIGINAL), plan.metric
    how = _averaging(plan, metric, by_task=True)
    repeats = [own[f"seed-{s}"] for s in range(1, plan.effort.seeds)]
    return [
        _wording(plan, own, base),
        _others(plan, own),
        _guidance(plan, own, how),
        checks.seeds([own_table, *repeats], metric, how),
        _diversity(plan, own_table, before),
        checks.drift(own_table, before, "brightness"),
        checks.drift(own_table, before, "saturation"),
        checks.strictness(own_table, before, metric),
        _held_out(plan, own_table, before, trained),
    ]


def _guidance(plan: Plan, own: Tables, how: Averaging) -> CheckResult:
    scale = plan.guidance_scale
    if plan.unguided or scale is None:
        return not_run("guidance", plan.unguided or "the benchmark states no scale")
    scales = {g: own[guided(g)] for g in plan.effort.guidance if guided(g) in own}
    return checks.guidance({scale: own[ORIGINAL], **scales}, scale, plan.metric, how)


def _averaging(plan: Plan, key: str, *, by_task: bool) -> Averaging:
    return Averaging(within=metric_range(plan.rewards[key].info), by_task=by_task)


def _wording(plan: Plan, own: Tables, base: Tables) -> CheckResult:
    rounds = []
    for turn in range(plan.effort.turns):
        table = own.get(f"{WORDED}-{turn}")
        if table is not None:
            rules = {key: rule for key, (rule, _) in plan.words(turn).items()}
            rounds.append(table.assign(rule=table["prompt_id"].map(rules)))
    if not rounds:
        return not_run(
            "other words", f"no prompt of {plan.benchmark.name} is in GenEval's phrasing"
        )
    other = (base[ORIGINAL], base[f"{WORDED}-0"]) if base else None
    how = _averaging(plan, plan.metric, by_task=True)
    line = checks.wording(own[ORIGINAL], rounds, plan.metric, how, base=other)
    unread, every = plan.unreadable
    if not unread:
        return line
    left = (
        f"{unread} of {every} paraphrases were left out: its text encoders cannot read them whole."
    )
    return replace(line, verdict=f"{line.verdict} {left}")


def _others(plan: Plan, own: Tables) -> CheckResult:
    kind, prompts = plan.others
    if not prompts:
        return not_run("unseen prompts", kind.rstrip("."))
    trained = plan.benchmark.training is not None
    how = _averaging(plan, plan.metric, by_task=True)
    line = checks.other_prompts(
        own[ORIGINAL], own[OTHERS], plan.metric, how, kind=kind, trained=trained
    )
    if not trained:
        return line
    why = f"Unseen objects were not tried: {plan.benchmark.name} has no other ones."
    return replace(line, verdict=f"{line.verdict} {why}")


def _diversity(plan: Plan, own_table: pd.DataFrame, before: pd.DataFrame | None) -> CheckResult:
    space, embed = _space(plan)
    own = pairwise(own_table, embed(_pixels(own_table)))
    base = None if before is None else pairwise(before, embed(_pixels(before)))
    return checks.diversity(own, base, space=space)


def _pixels(table: pd.DataFrame) -> np.ndarray:
    return np.stack([read_picture(Path(p)).pixels for p in table["path"]])


def pairwise(table: pd.DataFrame, vectors: np.ndarray) -> pd.DataFrame:
    """How far the images of one prompt lie apart.

    Args:
        table: N rows.
        vectors: (N, D) of length 1.

    Returns:
        One row a prompt with at least two images: `diversity`, the mean of 1 - cosine over its pairs, in [0, 2].
    """
    records = []
    places = table.reset_index(drop=True).groupby("prompt_id", sort=False).indices
    for prompt, rows in places.items():
        apart = [1 - float(vectors[i] @ vectors[j]) for i, j in combinations(rows, 2)]
        if apart:
            tag = table["tag"].iloc[rows[0]]
            records.append((prompt, tag, 0, float(np.mean(apart))))
    return pd.DataFrame(records, columns=[*PAIR, "diversity"])


def _space(plan: Plan) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """In which distances are taken: that of the CLIP beside the plan's rewards, else that of the pixels."""
    variants = dict.fromkeys(reward.info.variant for reward in plan.rewards.values())
    kin = (f"clipscore@{variant}" for variant in variants)
    key = next((key for key in kin if key in registry.available()), registry.resolve("clipscore"))
    try:
        reward = registry.load_reward(key)
    except MissingWeights:
        return f"pixels, the weights of {key} are not here", _unit_pixels
    embed = getattr(reward, "embed", None)
    if embed is None:  # another package's reward of that name may be of any kind
        return f"pixels, {key} embeds no images", _unit_pixels
    return f"CLIP of {key}", embed


def _unit_pixels(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float64) - 127.5
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def _held_out(
    plan: Plan, own_table: pd.DataFrame, before: pd.DataFrame | None, trained: Sequence[str]
) -> CheckResult:
    check = "held-out rewards"
    if before is None:
        return not_run(check, NO_BASE)
    if not trained:
        return not_run(
            check, "the checkpoint has no recipe that names the rewards it was trained on"
        )
    better = {
        key: _averaging(plan, key, by_task=reward.info.needs_metadata)
        for key, reward in plan.rewards.items()
        if reward.info.higher_is_better
    }
    line = checks.held_out(own_table, before, better, trained)
    here = {key.partition("@")[0] for key in better}
    absent = [name for name in trained if name not in here]
    more = (
        f" Trained on, but not able to score these prompts: {', '.join(absent)}." if absent else ""
    )
    return replace(line, verdict=line.verdict + more)
