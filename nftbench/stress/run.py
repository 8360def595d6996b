"""The hacking check: one checkpoint asked in other words, by other seeds and guidance, beside the one it came from.

OUT/card.md, card.json      the card
OUT/manifest.json, ARM/     a run folder with every image and score: `as-asked`, `seed-1`, `guidance-2`, ...
OUT/base/                   the same of the base checkpoint
"""

import gc
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from nftbench.benchmark.registry import Protocol
from nftbench.evaluation.evaluate import Work, evaluate
from nftbench.evaluation.loading import quiet
from nftbench.generation.checkpoint import LoadedModel, load_model, packaged, trained_folder
from nftbench.runs.run_folder import RUNS, Run, folder_name, read_image
from nftbench.stats.paired import PAIR
from nftbench.stress import checks as stress_lines
from nftbench.stress.card import Card, save
from nftbench.stress.checks import Line, not_run
from nftbench.stress.plan import (
    ASKED,
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
)
from nftbench.training.checkpoints import RECIPE, stored_recipe
from nftbench.training.guards import picture_statistics
from rewards import parse_rewards
from rewards.base import Progress


def stress(
    checkpoint: str,
    effort: Effort,
    *,
    base: str | None,
    benchmark: str | None,
    out: Path | None,
    report: Progress,
) -> tuple[Path, Card]:
    """Draw, judge, and write the card.

    Args:
        checkpoint: as `load_model` takes it.
        effort: how much.
        base: what it is compared with; None takes the checkpoint that a trained policy says it came from.
        benchmark: whose prompts; None takes the checkpoint's own.
        out: folder; None makes one under `runs/`. One that was begun goes on.
        report: told of progress.

    Returns:
        The folder, and the card in it.

    Raises:
        ConfigError: anything asked for that cannot be.
    """
    quiet()
    base = base or origin(checkpoint)
    benchmark = benchmark or own_benchmark(checkpoint)  # before weights are looked for
    policy = load_model(checkpoint)
    plan = make_plan(benchmark, effort, whole(policy.pipeline))
    works = arms(plan)
    folder = out or RUNS / _name(checkpoint, base, [w.protocol for w in works])
    own, theirs = _draw(Run(folder), works, policy, report), {}
    del policy  # never two large networks at once
    gc.collect()
    if base:
        theirs = _draw(Run(folder / "base"), base_arms(plan), load_model(base), report)
    card = Card(
        checkpoint=checkpoint,
        base=base,
        benchmark=plan.benchmark.name,
        metric=plan.metric,
        effort=asdict(effort),
        missing=plan.missing,
        lines=judge_all(plan, own, theirs, trained_on(checkpoint)),
    )
    save(folder, card)
    return folder, card


def _name(checkpoint: str, base: str | None, protocols: Sequence[Protocol]) -> str:
    asked = hashlib.sha256(f"{base} {[p.hash for p in protocols]}".encode()).hexdigest()[:8]
    return f"{folder_name(checkpoint)}-stress-{asked}"


def _draw(
    run: Run, works: Sequence[Work], policy: LoadedModel, report: Progress
) -> dict[str, pd.DataFrame]:
    """Every arm's table of scored images, with each image's file and its brightness and saturation."""
    evaluate(run, works, policy, "stress", report)
    tables = {}
    for work in works:
        table = pd.read_parquet(run.samples_path(work.name))
        table["path"] = [str(run.folder / work.name / name) for name in table["image"]]
        seen = pd.DataFrame([picture_statistics(read_image(Path(p))[None]) for p in table["path"]])
        tables[work.name] = table.assign(**seen)
    return tables


# --- where it comes from --------------------------------------------------------------------------


def _folder(checkpoint: str) -> Path:
    return packaged().get(checkpoint, Path(checkpoint))


def origin(checkpoint: str) -> str | None:
    """The checkpoint that a trained policy was trained from; None where nothing says so."""
    trained = trained_folder(checkpoint)
    return trained.base if trained else None


def trained_on(checkpoint: str) -> list[str]:
    """Names of the rewards that a training run's recipe trains on; empty where there is no recipe."""
    folder = _folder(checkpoint)
    if not (folder / RECIPE).is_file():
        return []
    stages = stored_recipe(folder).stages
    names = [s.key.partition("@")[0] for stage in stages for s in parse_rewards(stage.rewards)]
    return list(dict.fromkeys(names))


# --- what is said of it ---------------------------------------------------------------------------

Tables = Mapping[str, pd.DataFrame]


def judge_all(plan: Plan, own: Tables, base: Tables, trained: Sequence[str]) -> list[Line]:
    """All lines of the card.

    Args:
        plan: what was drawn.
        own: arm -> table.
        base: the same of the base; empty without one.
        trained: names of the rewards trained on.
    """
    asked, before, metric = own[ASKED], base.get(ASKED), plan.metric
    scale = plan.benchmark.sampling.guidance_scale
    scales = {g: own[guided(g)] for g in plan.effort.guidance if guided(g) in own}
    repeats = [own[f"seed-{s}"] for s in range(1, plan.effort.seeds)]
    return [
        _wording(plan, own, base),
        _others(plan, own),
        stress_lines.guidance({scale: asked, **scales}, scale, metric),
        stress_lines.seeds([asked, *repeats], metric),
        _diversity(plan, asked, before),
        stress_lines.drift(asked, before, "brightness"),
        stress_lines.drift(asked, before, "saturation"),
        stress_lines.strictness(asked, before, metric),
        _held_out(plan, asked, before, trained),
    ]


def _wording(plan: Plan, own: Tables, base: Tables) -> Line:
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
    other = (base[ASKED], base[f"{WORDED}-0"]) if base else None
    line = stress_lines.wording(own[ASKED], rounds, plan.metric, base=other)
    unread, every = plan.unreadable
    if not unread:
        return line
    left = (
        f"{unread} of {every} paraphrases were left out: its text encoders cannot read them whole."
    )
    return replace(line, verdict=f"{line.verdict} {left}")


def _others(plan: Plan, own: Tables) -> Line:
    kind, prompts = plan.others
    if not prompts:
        return not_run("unseen prompts", kind.rstrip("."))
    trained = plan.benchmark.training is not None
    line = stress_lines.other_prompts(
        own[ASKED], own[OTHERS], plan.metric, kind=kind, trained=trained
    )
    if not trained:
        return line
    why = f"Unseen objects were not asked: {plan.benchmark.name} has no other ones."
    return replace(line, verdict=f"{line.verdict} {why}")


def _diversity(plan: Plan, asked: pd.DataFrame, before: pd.DataFrame | None) -> Line:
    space, embed = _space(plan)
    apart = [None if t is None else pairwise(t, embed(_pixels(t))) for t in (asked, before)]
    return stress_lines.diversity(apart[0], apart[1], space=space)


def _pixels(table: pd.DataFrame) -> np.ndarray:
    return np.stack([read_image(Path(p)) for p in table["path"]])


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


def _space(plan: Plan) -> tuple[str, Any]:
    """In which distances are taken: CLIP's where its weights are here, else that of the pixels."""
    from rewards import preprocess
    from rewards.base import MissingWeights
    from rewards.clip import models as clip_models
    from rewards.clip.towers import load_clip

    try:
        if any(key.endswith("@pocket") for key in plan.rewards):
            from nftbench.pocket.rewards import checked

            name, tower = "the pocket world's CLIP", load_clip(checked("clip"))
        else:
            name, tower = "CLIP ViT-L/14", clip_models.openai_tower("clipscore@nft")
    except MissingWeights:
        return "pixels, CLIP's weights are not here", _unit_pixels

    def embed(images: np.ndarray) -> np.ndarray:
        found: Tensor = tower.unit_images(images, preprocess.clipscore_nft)
        return found.numpy()

    return name, embed


def _unit_pixels(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float64) - 127.5
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def _held_out(
    plan: Plan, asked: pd.DataFrame, before: pd.DataFrame | None, trained: Sequence[str]
) -> Line:
    check = "held-out rewards"
    if before is None:
        return not_run(check, stress_lines.NO_BASE)
    if not trained:
        return not_run(
            check, "the checkpoint has no recipe that names the rewards it was trained on"
        )
    better = [k for k, r in plan.rewards.items() if r.info.higher_is_better]
    ruled = [k for k in better if plan.rewards[k].info.needs == "geneval metadata"]
    line = stress_lines.held_out(asked, before, better, trained, ruled)
    here = {key.partition("@")[0] for key in better}
    absent = [name for name in trained if name not in here]
    more = f" Trained on, but no judge of these prompts: {', '.join(absent)}." if absent else ""
    return replace(line, verdict=line.verdict + more)
