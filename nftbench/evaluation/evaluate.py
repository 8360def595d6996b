"""Generate, score, aggregate: stage by stage, batch by batch, each resuming where it stopped.

Where a GPU draws, the CPU scores what is drawn meanwhile (`EarlyScores`); scoring then finds that done.

A batch is always made of the same images, so a run that was killed and resumed ends with the same bytes as one that
was not. Nothing is reused because it lies in the right place: an image is of this run if it has the digest that was
noted when it was made, a score if it was given to that image, for that prompt, by that scorer. What does not match is
made again.

Several processes (torchrun) share the batches by number: the first one owns the folder and writes what is one for all,
each writes its own batches' files. So any number of processes leaves the same bytes, and a run may be resumed by more.
"""

import datetime
import gc
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd
import pyarrow

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.samples import image_seed
from nftbench.benchmark.schema import UNKNOWN, Protocol
from nftbench.evaluation.images import images_here, make_images
from nftbench.evaluation.planning import Work, drawn, fitted
from nftbench.evaluation.scoring.batches import bound_to, score_images
from nftbench.evaluation.scoring.early import EarlyScores, draws_elsewhere
from nftbench.evaluation.scoring.files import none_scored, scorer_identity
from nftbench.evaluation.scoring.in_turn import leave
from nftbench.evaluation.services import ask_for_images
from nftbench.generation.checkpoint import LoadedModel
from nftbench.generation.image_service import ImageService
from nftbench.parsing import parse_json
from nftbench.runs.contact_sheet import contact_sheet
from nftbench.runs.io import as_frame, sweep, write_table
from nftbench.runs.lock import hold, refuse_held_parts
from nftbench.runs.manifest import refuse_other_kind
from nftbench.runs.processes import ALONE, Processes
from nftbench.runs.rows import Provenance, Row, summarise
from nftbench.runs.run_folder import Run
from nftbench.runs.versions import versions
from rewards.base import ConfigError, Progress, Reward, RewardInfo

SAID_OF_INTERVALS = frozenset({"ends"})
"""Of what a reward says of itself: what moves no score."""


@contextmanager
def libraries_set_aside() -> Iterator[None]:
    """Within the block Python looks for garbage among new objects alone.

    Half a million older ones are the libraries' own, which are there to stay: to go over them takes .2 s each time.
    A program that has set some aside itself is left to its own ways.
    """
    theirs = gc.get_freeze_count()
    if not theirs:
        gc.collect(1)
        gc.freeze()
    try:
        yield
    finally:
        if not theirs:
            gc.unfreeze()


@libraries_set_aside()
def evaluate(
    run: Run,
    works: Sequence[Work],
    policy: LoadedModel | ImageService,
    suite: str,
    progress: Progress,
    *,
    retry_failed: bool = True,
    processes: Processes = ALONE,
) -> list[Row]:
    """The whole of it: manifest, images, scores, rows.

    Args:
        run: a new folder, or one this very evaluation was begun in.
        works: what `plan` made of the suite.
        policy: the checkpoint.
        suite: its name, for the manifest.
        progress: told of progress after every batch.
        retry_failed: whether images that a reward failed on are scored again.
        processes: that share the work.

    Raises:
        ConfigError: another command holds the folder, or it holds something else: see `begin`.
    """
    if isinstance(policy, LoadedModel) and any(work.settings is None for work in works):
        works = fitted(works, policy)
    if processes.count > 1:
        processes.refuse_unlike(facts(run, works, policy))
    with ExitStack() as held:

        def begun() -> None:
            held.enter_context(hold(run.folder))
            refuse_held_parts(run.folder)
            begin(run, works, policy, suite)

        processes.from_main(begun)
        leave(reward for work in works for reward in work.rewards.values())
        with EarlyScores(
            run, progress, wanted=draws_elsewhere(policy), retry_failed=retry_failed
        ) as early:
            for work in works:
                _make_images(run, work, policy, progress, processes, early)
        processes.wait()
        here = [images_here(run, work) for work in works]
        score_images(
            run, works, here, progress, processes, retry_failed=retry_failed, early=early.done
        )
        processes.wait()
        return processes.from_main(lambda: finish(run, works))


def _make_images(
    run: Run,
    work: Work,
    policy: LoadedModel | ImageService,
    progress: Progress,
    processes: Processes,
    early: EarlyScores,
) -> None:
    if isinstance(policy, ImageService):
        processes.from_main(partial(ask_for_images, run, work, policy, progress))
    else:
        make_images(run, work, policy, progress, processes, partial(early.follow, work))


def score(
    run: Run,
    works: Sequence[Work],
    progress: Progress,
    *,
    retry_failed: bool = True,
    processes: Processes = ALONE,
    hardware: Mapping[str, str] | None = None,
) -> list[Row]:
    """Score a run's images and reduce them to rows; nothing is generated.

    Other rewards may score the same run at the same time, each by a command of its own; `processes` share this one.
    `hardware` says on what rewards run, for the manifest.

    Raises:
        ConfigError: images that are gone altogether, or were changed since they were made; the run, or one of these
            rewards' scores, are held by another process; scores of another reward of the same name.
    """
    rewards = {w.name: w.rewards for w in works}
    with ExitStack() as held:

        def begun() -> list[dict[str, str]]:
            with hold(run.folder, brief=True):
                refuse_other_rewards(run, rewards)
                for key in dict.fromkeys(key for work in works for key in work.rewards):
                    held.enter_context(hold(run.folder, part=key))
                here = [images_here(run, work) for work in works]
                run.add_rewards(rewards)
                run.note_hardware(hardware or {})
                return here

        def finished() -> list[Row]:
            with hold(run.folder, brief=True):
                return finish(run, works)

        here = processes.from_main(begun)
        score_images(run, works, here, progress, processes, retry_failed=retry_failed)
        processes.wait()
        return processes.from_main(finished)


def facts(run: Run, works: Sequence[Work], policy: LoadedModel | ImageService) -> dict[str, str]:
    """What decides a run's bytes, in words: the same for all processes that share it."""
    found = {"--out": str(run.folder), "--batch-size": str(works[0].batch_size)}
    found["checkpoint"] = f"{policy.name} {policy.digest}"
    for work in works:
        found[f"protocol of {work.name}"] = work.protocol.hash
        scorers = {key: scorer_identity(reward) for key, reward in work.rewards.items()}
        found |= {f"reward {key}": scorer for key, scorer in scorers.items()}
    return found


# --- begin ----------------------------------------------------------------------------------------


def begin(run: Run, works: Sequence[Work], policy: LoadedModel | ImageService, suite: str) -> None:
    """Write the run's manifest, or check that an existing one asks for the same.

    Raises:
        ConfigError: the pipeline cannot be told the protocol; the folder holds something that is not an evaluation,
            or a run of another checkpoint, protocol, batch size or reward; the field is named.
    """
    refuse_other_kind(run.folder, "eval")
    manifest = {
        "kind": "eval",
        "checkpoint": {
            "name": policy.name,
            "digest": policy.digest,
            "pipeline": policy.kind,
        },
        "loaded": policy.said,
        "loras": [report.manifest for report in policy.loras],
        "hardware": dict(policy.hardware),
        "suite": suite,
        "batch_size": works[0].batch_size,
        "date": datetime.date.today().isoformat(),
        "protocols": {w.name: w.protocol.model_dump(mode="json") for w in works},
        "protocol_hashes": {w.name: w.protocol.hash for w in works},
        "drawn": {w.name: drawn(w) for w in works},
        "rewards": {w.name: {k: asdict(r.info) for k, r in w.rewards.items()} for w in works},
        "versions": versions(),
    }
    old = run.manifest
    if old:
        _refuse_change(run, old, manifest)
        refuse_other_rewards(run, {w.name: w.rewards for w in works})
        manifest["date"] = old.get("date") or manifest["date"]
        manifest["samples"] = old.get("samples", {})
        for about in ("versions", "hardware"):
            before = old.get(f"{about}_before", [])
            if old.get(about, manifest[about]) != manifest[about]:
                before = [*before, old[about]]
            if before:
                manifest[f"{about}_before"] = before
        for name, known in old["rewards"].items():
            manifest["rewards"][name] = known | manifest["rewards"].get(name, {})
    sweep(run.folder)
    run.save_manifest(manifest)  # first: it says whose folder this is
    run.keep_benchmarks(w.protocol.benchmark for w in works)


def _refuse_change(run: Run, old: Mapping, new: Mapping) -> None:
    for field in ("checkpoint", "batch_size"):
        if old[field] != new[field]:
            raise ConfigError(
                f"{run.folder} holds a run with {field} {old[field]}, not {new[field]}; choose another --out"
            )
    if set(old["protocols"]) != set(new["protocols"]):
        raise ConfigError(
            f"{run.folder} holds a run of {', '.join(old['protocols'])}, "
            f"not {', '.join(new['protocols'])}; choose another --out"
        )
    strengths = [
        [lora.get("norm", math.nan) for lora in one.get("loras", [])] for one in (old, new)
    ]
    if len(strengths[0]) == len(strengths[1]) and not np.allclose(*strengths, rtol=1e-3, atol=0):
        raise ConfigError(
            f"{run.folder} holds a run whose LoRAs changed the weights by {strengths[0]}, not {strengths[1]}: they "
            "were taken at another strength; choose another --out"
        )
    known = run.protocols()
    for name, fields in new["protocols"].items():
        changed = Protocol(**fields).difference(known[name])
        if changed:
            raise ConfigError(
                f"{run.folder} holds a run of another protocol of {name} ({changed}); choose another --out"
            )


def refuse_other_rewards(run: Run, rewards: Mapping[str, Mapping[str, Reward]]) -> None:
    """Refuse to mix scores of two rewards under one name, such as before and after new weights.

    Args:
        run: an existing run.
        rewards: of each benchmark.

    Raises:
        ConfigError: the run was scored by a reward of the same name that says something else of itself.
    """
    known = run.manifest["rewards"]
    for benchmark, mine in rewards.items():
        for key, reward in mine.items():
            before = known.get(benchmark, {}).get(key)
            now = parse_json(json.dumps(asdict(reward.info)))
            changed = [
                f
                for f in now
                if before is not None and f not in SAID_OF_INTERVALS and before.get(f) != now[f]
            ]
            if changed:
                raise ConfigError(
                    f"{run.folder} holds scores of another {key} (other {', '.join(changed)}); choose another --out"
                )


# --- rows -----------------------------------------------------------------------------------------


def finish(run: Run, works: Sequence[Work]) -> list[Row]:
    """Sample tables, contact sheets and rows of a run that was scored."""
    rows = [row for work in works for row in aggregate(run, work)]
    run.save_rows(rows)
    return rows


def aggregate(run: Run, work: Work) -> list[Row]:
    """Write the sample table and the contact sheet, and reduce the table to rows."""
    table = sample_table(run, work)
    write_table(run.samples_path(work.name), table)
    run.seal(work.name)
    contact_sheet(run, work.name, work.samples, table)
    manifest = run.manifest
    known = manifest["rewards"][work.name]
    infos = [RewardInfo(**info) for key, info in known.items() if key in table]
    about = Provenance(
        model=manifest["checkpoint"]["name"],
        checkpoint=manifest["checkpoint"]["digest"],
        benchmark=work.protocol.benchmark,
        protocol=work.protocol.hash,
        # Prompts that nobody can be sure to have are as good as a part of them, and so are images of unknown making.
        limited=work.protocol.limit is not None
        or work.protocol.noise in UNKNOWN
        or not load_benchmark(work.protocol.benchmark).pinned,
        by_task=work.protocol.aggregation == "task_mean",
        date=_day(manifest),
    )
    return summarise(table, infos, about)


def _day(manifest: Mapping) -> datetime.date:
    """When the images were made."""
    known = manifest.get("date")
    return datetime.date.fromisoformat(known) if known else datetime.date.today()


def sample_table(run: Run, work: Work) -> pd.DataFrame:
    """One row an image: what was asked, where the image is, every reward's value, parts, reason and evidence.

    A reward of the manifest that has not scored every image as it is now was stopped before its end: it is left out.
    """
    here = {s.key: run.image_digest(work.name, s) for s in work.samples}
    table = pd.DataFrame(
        {
            "key": [s.key for s in work.samples],
            "prompt_id": [s.prompt.id for s in work.samples],
            "prompt": [s.prompt.text for s in work.samples],
            "tag": [s.prompt.tag for s in work.samples],
            "image_index": [s.index for s in work.samples],
            "seed": [image_seed(work.protocol.seed, s.prompt.id, s.index) for s in work.samples],
            "image": [f"images/{s.key}.png" for s in work.samples],
            "sha256": list(here.values()),
        }
    )
    if any(s.prompt.cluster for s in work.samples):
        table["cluster"] = [s.prompt.cluster or s.prompt.id for s in work.samples]
    for key in run.manifest["rewards"][work.name]:
        parts = [
            run.batch_scores(work.name, key, number, bound_to(batch, here))
            for number, batch in work.batches()
        ]
        whole = [part for part in parts if part is not None]
        if len(whole) == len(parts):
            _refuse_other_parts(key, [part for part in whole if not none_scored(part, key)])
            found = as_frame(pyarrow.concat_tables(whole, promote_options="permissive"))
            table = pd.concat([table, found.drop(columns="key")], axis=1)  # bound to the keys above
    return table


def _refuse_other_parts(key: str, scored: Sequence[pyarrow.Table]) -> None:
    """Refuse sub-scores that only some batches have, such as of several processes: means over unlike images."""
    for part in scored[1:]:
        apart = set(part.column_names) ^ set(scored[0].column_names)
        if apart:
            raise ConfigError(
                f"{min(apart)} is a sub-score of some batches and not of others (from image {part['key'][0]} on); "
                f"expected reward {key!r} to give the same of every batch: mend it, and score with another --out"
            )
