"""What a loaded reward of the CLIP family hands to its network: names, pixels, tokens, activation and scale."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards.base import Prompt
from rewards.certify import Check, compare
from rewards.certify.clip.facts import FACTS, reference_of
from rewards.certify.loaded import load_blank, pixels_of, replaced
from rewards.certify.preprocessing import preprocessing, read_golden
from rewards.certify.seeded.clip_networks import empty_state


def names(file: str, network: str, folder: Path) -> Iterator[Check]:
    """The network that is loaded has the names and shapes of the reference's."""
    golden = read_golden(folder, file)
    facts, state = golden["state_dict"], empty_state(network)
    lines = "\n".join(sorted(f"{name} {list(value.shape)}" for name, value in state.items()))
    wrong = hashlib.sha256(lines.encode()).hexdigest() != facts["sorted_key_shape_sha256"]
    name = f"names and shapes of {facts['n_keys']} tensors"
    yield compare(name, [wrong], [0], tolerance=0, reference=reference_of(golden))


def pixels(key: str, folder: Path) -> Iterator[Check]:
    """Every picture as the loaded reward hands it to its network."""
    reward, facts = load_blank(key), FACTS[key]
    for theirs, reference in facts.transforms:
        yield from preprocessing(
            theirs,
            lambda picture, _: pixels_of(reward, picture),
            tolerance=facts.tolerance,
            reference=reference,
        )(folder)


def tokens(key: str, folder: Path) -> Iterator[Check]:
    """Every prompt as the loaded reward hands it to its text encoder; scorers differ here on purpose."""
    golden, field = read_golden(folder, FACTS[key].file), FACTS[key].tokens
    found = load_blank(key).tower.tokens(golden["prompts"])
    ids = found.get("input_ids", found.get("text"))
    ids = ids[:, : len(golden[field][0])]
    yield compare("token ids", ids, golden[field], tolerance=0, reference=reference_of(golden))


def activation(tower: Any, wanted: str, reference: str) -> Iterator[Check]:
    """Every activation of the loaded network against its closed form."""
    x = torch.linspace(-4, 4, 81)
    exact = {
        "quick_gelu": x * torch.sigmoid(1.702 * x),
        "gelu": x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    }[wanted]
    found = [
        part
        for name, part in tower.model.named_modules()
        if name.rpartition(".")[2] in ("activation_fn", "gelu")
    ]
    ours = torch.stack([part(x) for part in found])
    name = f"activation {wanted} of {len(found)} layers"
    yield compare(name, ours, exact.expand_as(ours), tolerance=1e-6, reference=reference)


def scale(key: str, folder: Path) -> Iterator[Check]:
    """The activation; the value of two equal embeddings; the divisor in training."""
    reward, facts = load_blank(key), FACTS[key]
    golden = read_golden(folder, facts.file)
    reference = reference_of(golden)
    yield from activation(reward.tower, facts.activation, reference)
    if not facts.tokens:
        return
    ones = {
        name: lambda items: torch.ones(len(items), 768) for name in ("embed_images", "embed_texts")
    }
    with replaced(reward.tower, **ones):
        value = reward.score(np.zeros((1, 224, 224, 3), np.uint8), [Prompt(id="0", text="")]).values
    yield compare(
        "value of equal embeddings", value, [facts.scale], tolerance=1e-4, reference=reference
    )
    native = golden.get("raw_scale_scores_batch_diagonal", [1.0])
    trained = golden.get("scores_batch_diagonal", [1.0])
    ratio = np.mean(np.array(native) / np.array(trained))
    yield compare(
        "divisor in training",
        [reward.info.train_scale],
        [ratio],
        tolerance=1e-3,
        reference=reference,
    )
