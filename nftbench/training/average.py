"""The mean of trained policies' weights.

Trainings of one recipe that differ in their seed alone learn the same and are moved by different noise; most of a step
is noise (pocket/LOG.md, "How much of a step is signal"), and the mean of their weights has less of it than each.

Source: Wortsman et al., Model soups, arXiv:2203.05482; with rewards: Ramé et al., WARP, arXiv:2406.16768.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from nftbench.generation.checkpoint import (
    POLICY_FILE,
    LoadedModel,
    TrainedFolder,
    load_model,
    note_of,
    trained_folder,
)
from nftbench.generation.machine.hardware import Hardware
from nftbench.generation.recorder.trace import denoiser_of
from nftbench.generation.sources.lora import merge_loras
from nftbench.runs.io import followed, whole_folder
from nftbench.runs.seeds import is_parent
from nftbench.training.config.names import refuse_within
from nftbench.training.policy.trained import save_whole
from nftbench.training.seeds import runs_of, unfinished
from rewards.base import ConfigError

AVERAGE_FILE = "average.json"
"""Beside an average's `POLICY_FILE`: name and digest of every policy that is in it."""


def average(
    policies: Sequence[str], out: Path, say: Callable[[str], None] = lambda line: None
) -> None:
    """Write the mean of trained policies as one that `nftbench eval` and `train` take, in float32.

    Each counts as much. LoRAs are folded into the network first: the mean of their products is not the product of their
    means.

    Args:
        policies: trained policies of one base, by name or folder; a parent of several seeds means its finished runs.
        out: a new folder.
        say: told what is read.

    Raises:
        ConfigError: fewer than two, one twice, one that was not trained or from another base, or `out` is taken or
            within the base.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already; choose another --out for the average")
    names = [name for policy in policies for name in _runs(policy, say)]
    notes = _of_one_base(names)
    refuse_within(out, notes[0].base)
    model, digests = _mean(names, say)
    base, digest = notes[0].base, notes[0].base_digest
    told = [{"policy": n, "digest": d} for n, d in zip(names, digests, strict=True)]
    with whole_folder(followed(out)) as made:
        save_whole(model.pipeline, made, base)
        (made / AVERAGE_FILE).write_text(f"{json.dumps(told, indent=2)}\n", "utf-8")
        (made / POLICY_FILE).write_bytes(
            note_of(made, base=base, base_digest=digest, method="full")
        )


def _runs(policy: str, say: Callable[[str], None]) -> list[str]:
    parent = Path(policy)
    if not is_parent(parent):
        return [policy]
    for words in unfinished(parent):
        say(f"warning: {parent}: {words}")
    return [str(run) for run in runs_of(parent)]


def _of_one_base(names: Sequence[str]) -> list[TrainedFolder]:
    notes = []
    for name in names:
        note = trained_folder(name)
        if note is None:
            raise ConfigError(
                f"{name} is not a trained policy; expected runs of `nftbench train`, or a parent of several seeds"
            )
        notes.append(note)
    if len(names) < 2:
        raise ConfigError(
            f"an average takes two trained policies or more, got {len(names)}: name more runs, or a parent whose seeds "
            "are finished"
        )
    for name, note in zip(names[1:], notes[1:], strict=True):
        if note.base_digest != notes[0].base_digest:
            raise ConfigError(
                f"{name} was trained from {note.base} ({note.base_digest}), {names[0]} from {notes[0].base} "
                f"({notes[0].base_digest}); policies of two bases have no mean"
            )
    return notes


def _mean(names: Sequence[str], say: Callable[[str], None]) -> tuple[LoadedModel, list[str]]:
    """The first policy with the mean of all in place of its own weights, and the digest of each."""
    model = _loaded(names[0], say)
    mean, digests = _weights(model), [model.digest]
    for count, name in enumerate(names[1:], start=2):
        other = _loaded(name, say)
        if other.digest in digests:
            raise ConfigError(
                f"{name} has the weights of {names[digests.index(other.digest)]}; name each policy once"
            )
        digests.append(other.digest)
        for key, weight in _weights(other).items():
            mean[key].lerp_(weight, 1 / count)
    return model, digests


def _loaded(name: str, say: Callable[[str], None]) -> LoadedModel:
    say(f"reading {name}")
    model = load_model(name, hardware=Hardware(dtype="float32", device="cpu"))
    merge_loras(model.pipeline)
    return model


def _weights(model: LoadedModel) -> dict[str, torch.Tensor]:
    """The numbers of the network that training changes; not copies."""
    _, network = denoiser_of(model.pipeline)
    return {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
