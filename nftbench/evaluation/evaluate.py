"""Generate, score, aggregate: stage by stage, batch by batch, each going on where it stopped.

A batch is always made of the same images, so a run that was killed and resumed ends with the same bytes as one that
was not. Rewards are loaded and shown the prompts before the first image is made.
"""

import datetime
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import pandas as pd

import nftbench
from nftbench.benchmark.registry import choose, load_benchmark
from nftbench.benchmark.schema import Protocol
from nftbench.evaluation.scoring import score_files
from nftbench.generation.checkpoint import LoadedModel
from nftbench.generation.preflight import check_prompt_seen, count_cut
from nftbench.generation.sampling import Sample, generate, image_seed, samples
from nftbench.generation.settings import Effective, as_drawn, learn_settings
from nftbench.runs.contact_sheet import contact_sheet
from nftbench.runs.io import sweep, write_table
from nftbench.runs.rows import Provenance, Row, summarise
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError, Progress, Prompt, Reward, RewardInfo

SAID_OF_INTERVALS = frozenset({"ends"})
"""Of what a reward says of itself: what moves no score."""
PACKAGES = ("diffusers", "numpy", "onnxruntime", "rapidocr", "torch", "torchvision", "transformers")


@dataclass(frozen=True, kw_only=True, slots=True)
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

    @property
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
        rewards: the judges, by key.
        batch_size: images made and scored at once.
        wanted: keys of each protocol's rewards; None gives it all that can judge its prompts.

    Raises:
        ConfigError: a reward that can judge none of the prompts, or not those it is wanted for.
    """
    works = []
    names = folder_names(protocols)
    for place, protocol in enumerate(protocols):
        prompts = choose(load_benchmark(protocol.benchmark).load(), protocol.limit)
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


def _refusal(reward: Reward, prompts: Sequence[Prompt]) -> str:
    """Why a reward cannot judge some of the prompts; empty where it can."""
    try:
        reward.check(prompts)
    except ConfigError as error:
        return str(error)
    return ""


def _refuse_misfits(works: Sequence[Work], rewards: Mapping[str, Reward]) -> None:
    for work in works:
        for reward in work.rewards.values():
            reward.check(work.prompts)
    for key, reward in rewards.items():
        if not any(key in work.rewards for work in works):
            why = _refusal(reward, works[-1].prompts)
            raise ConfigError(f"reward {key!r} can judge none of these benchmarks: {why}")


def begin(run: Run, works: Sequence[Work], policy: LoadedModel, suite: str) -> None:
    """Write the run's manifest, or check that an existing one asks for the same.

    Raises:
        ConfigError: the pipeline cannot be told the protocol, or the folder holds a run of another checkpoint,
            protocol, batch size or reward; the field is named.
    """
    manifest = {
        "checkpoint": {
            "name": policy.name,
            "digest": policy.digest,
            "pipeline": type(policy.pipeline).__name__,
        },
        "loaded": policy.said,
        "loras": [report.manifest for report in policy.loras],
        "suite": suite,
        "batch_size": works[0].batch_size,
        "protocols": {w.name: w.protocol.model_dump(mode="json") for w in works},
        "protocol_hashes": {w.name: w.protocol.hash for w in works},
        "drawn": {w.name: _drawn(w) for w in works},
        "rewards": {w.name: {k: asdict(r.info) for k, r in w.rewards.items()} for w in works},
        "versions": versions(),
    }
    old = run.manifest
    if old:
        _refuse_change(run, old, manifest)
        refuse_other_rewards(run, {w.name: w.rewards for w in works})
        if old["versions"] != manifest["versions"]:
            manifest["versions_before"] = [*old.get("versions_before", []), old["versions"]]
        for name, known in old["rewards"].items():
            manifest["rewards"][name] = known | manifest["rewards"].get(name, {})
        sweep(run.folder)
    run.save_manifest(manifest)


def fitted(works: Sequence[Work], model: LoadedModel) -> list[Work]:
    """What a suite asks, fitted to one checkpoint: every setting gets the value that its network will see.

    Raises:
        ConfigError: the model cannot draw what is asked, or does not see its prompts; nothing was drawn then.
    """
    found = []
    for work in works:
        asked = work.protocol.filled(model.own)
        settings = learn_settings(model.pipeline, asked)
        settings = check_prompt_seen(model.pipeline, settings, work.prompts)
        protocol = as_drawn(asked, settings)
        name = work.name.replace(f"+{work.protocol.hash}", f"+{protocol.hash}")
        cut = count_cut(model.pipeline, settings, work.prompts)
        found.append(replace(work, name=name, protocol=protocol, settings=settings, cut=cut))
    return found


def _drawn(work: Work) -> dict[str, Any]:
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
        scale = "" if p["guidance"] == "off" else f" {p['guidance_scale']}"
        calls = f"{p['network_calls']:g} network call(s) a step"
        size = f"{p['height']}x{p['width']}, {p['num_inference_steps']} steps"
        lines.append(f"{name}: drawn at {size}, guidance {p['guidance']}{scale} ({calls})")
        if about.get("prompts_cut"):
            lines.append(
                f"{name}: warning: {about['prompts_cut']} prompts are cut by every text encoder"
            )
        lines += [f"{name}: note: {note}" for note in about.get("notes", ())]
    return lines


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
    known = run.protocols()
    for name, fields in new["protocols"].items():
        changed = Protocol(**fields).difference(known[name])
        if changed:
            raise ConfigError(
                f"{run.folder} holds a run of another protocol of {name} ({changed}); choose another --out"
            )


def refuse_other_rewards(run: Run, rewards: Mapping[str, Mapping[str, Reward]]) -> None:
    """Refuse to mix scores of two judges under one name, such as before and after new weights.

    Args:
        run: an existing run.
        rewards: of each benchmark.

    Raises:
        ConfigError: the run was scored by a reward of the same name that says something else of itself.
    """
    known = run.manifest["rewards"]
    for benchmark, judges in rewards.items():
        for key, judge in judges.items():
            before = known[benchmark].get(key)
            now = json.loads(json.dumps(asdict(judge.info)))
            changed = [
                f
                for f in now
                if before is not None and f not in SAID_OF_INTERVALS and before.get(f) != now[f]
            ]
            if changed:
                raise ConfigError(
                    f"{run.folder} holds scores of another {key} (other {', '.join(changed)}); choose another --out"
                )


def versions() -> dict[str, str]:
    """Versions of what moves a number."""
    return {"nftbench": nftbench.__version__, "python": platform.python_version()} | {
        p: version(p) for p in PACKAGES
    }


def make_images(run: Run, work: Work, policy: LoadedModel, progress: Progress) -> None:
    """Generate every batch that is not whole on disk."""
    for number, batch in work.batches():
        if not run.has_images(work.name, batch):
            run.drop_scores(work.name, number)
            for sample, pixels in zip(
                batch, generate(policy.pipeline, batch, work.settings or work.protocol), strict=True
            ):
                run.save_image(work.name, sample, pixels)
        progress(
            f"{work.name}: images",
            min((number + 1) * work.batch_size, len(work.samples)),
            len(work.samples),
        )


def score_images(run: Run, work: Work, progress: Progress) -> None:
    """Score every batch that a reward has not scored yet, then write the sample table."""
    for key, reward in work.rewards.items():
        for number, batch in work.batches():
            if not run.scores_path(work.name, key, number).is_file():
                paths = [run.image_path(work.name, s) for s in batch]
                scores = score_files(reward, paths, [s.prompt for s in batch])
                run.save_scores(work.name, key, number, batch, scores)
            progress(
                f"{work.name}: {key}",
                min((number + 1) * work.batch_size, len(work.samples)),
                len(work.samples),
            )


def sample_table(run: Run, work: Work) -> pd.DataFrame:
    """One row an image: what was asked, where the image is, every reward's value, parts, reason and evidence."""
    table = pd.DataFrame(
        {
            "key": [s.key for s in work.samples],
            "prompt_id": [s.prompt.id for s in work.samples],
            "prompt": [s.prompt.text for s in work.samples],
            "tag": [s.prompt.tag for s in work.samples],
            "image_index": [s.index for s in work.samples],
            "seed": [image_seed(work.protocol.seed, s.prompt.id, s.index) for s in work.samples],
            "image": [f"images/{s.key}.png" for s in work.samples],
            "sha256": [run.image_digest(work.name, s) for s in work.samples],
        }
    )
    for key in scored(run, work):
        table = table.merge(
            run.read_scores(work.name, key), on="key", how="left", validate="one_to_one"
        )
    return table


def scored(run: Run, work: Work) -> list[str]:
    """The rewards of a run's manifest that have scored every batch; the others were stopped before their end."""
    numbers = [number for number, _ in work.batches()]
    return [
        key
        for key in run.manifest["rewards"][work.name]
        if all(run.scores_path(work.name, key, n).is_file() for n in numbers)
    ]


def aggregate(run: Run, work: Work) -> list[Row]:
    """Write the sample table and the contact sheet, and reduce the table to rows."""
    table = sample_table(run, work)
    write_table(run.samples_path(work.name), table)
    contact_sheet(run, work.name, work.samples)
    manifest = run.manifest
    known = manifest["rewards"][work.name]
    infos = [RewardInfo(**known[key]) for key in scored(run, work)]
    about = Provenance(
        model=manifest["checkpoint"]["name"],
        checkpoint=manifest["checkpoint"]["digest"],
        benchmark=work.protocol.benchmark,
        protocol=work.protocol.hash,
        # Prompts that nobody can be sure to have are as good as a part of them.
        limited=work.protocol.limit is not None
        or not load_benchmark(work.protocol.benchmark).pinned,
        by_task=work.protocol.aggregation == "task_mean",
        date=datetime.date.today(),
    )
    return summarise(table, infos, about)


def evaluate(
    run: Run, works: Sequence[Work], policy: LoadedModel, suite: str, progress: Progress
) -> list[Row]:
    """The whole of it: manifest, images, scores, rows.

    Args:
        run: a new folder, or one this very evaluation was begun in.
        works: what `plan` made of the suite.
        policy: the checkpoint.
        suite: its name, for the manifest.
        progress: told of progress after every batch.
    """
    if any(work.settings is None for work in works):
        works = fitted(works, policy)
    begin(run, works, policy, suite)
    for work in works:
        make_images(run, work, policy, progress)
    return score(run, works, progress)


def score(run: Run, works: Sequence[Work], progress: Progress) -> list[Row]:
    """Score a run's images and reduce them to rows; nothing is generated."""
    rows = []
    for work in works:
        score_images(run, work, progress)
        rows += aggregate(run, work)
    run.save_rows(rows)
    return rows
