"""ImageReward against image-reward 1.5 and DiffusionNFT's scorer: pixels, tokens, network, rewards."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards.base import Prompt
from rewards.certify import Check, Checks, compare
from rewards.certify.loaded import ANY, load_blank, load_seeded, replaced
from rewards.certify.preprocessing import golden_file, read_golden
from rewards.certify.seeded import seeded_state
from rewards.images import preprocess
from rewards.images.preprocess import CLIP_MEAN, CLIP_STD
from rewards.vlm.blip import BlipReward, blip_reward, published
from rewards.vlm.imagereward import INFO, padded

PACKAGE = "image-reward 1.5 ImageReward/ImageReward.py"
TRAINER = "NVlabs/DiffusionNFT@24af555 flow_grpo/imagereward_scorer.py"
TOLERANCE = 5e-6
"""Of a reward in float32 on the CPU; the reference's own single and batched calls differ by 6e-7."""


def pixels(folder: Path) -> Iterator[Check]:
    """What the network is given of each picture: bytes before normalising, moments after it."""
    golden = _json(folder, "preprocessing")["transforms"]["imagereward"]
    names, images = _images(folder, list(golden))
    inputs = [_handed(image) for image in images]
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    raw = [((x * std + mean) * 255).round().byte().permute(1, 2, 0).numpy() for x in inputs]
    digests = [hashlib.sha256(each.tobytes()).hexdigest() for each in raw]
    yield compare(
        "preprocessing imagereward: pictures with other bytes",
        [
            mine != golden[name]["uint8_hwc_sha256"]
            for mine, name in zip(digests, names, strict=True)
        ],
        np.zeros(len(names)),
        tolerance=0,
        reference=f"{PACKAGE} _transform",
    )
    ours = [[x.double().mean(), x.double().std(correction=0), x.min(), x.max()] for x in inputs]
    theirs = [[golden[name][key] for key in ("mean", "std", "min", "max")] for name in names]
    yield compare(
        "preprocessing imagereward: mean, deviation, extremes",
        ours,
        theirs,
        tolerance=1e-6,
        reference=f"{PACKAGE} _transform",
    )


def _handed(image: np.ndarray) -> torch.Tensor:
    """What the loaded reward hands to its network."""
    reward, given = load_blank(INFO.key), []

    def record(pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        given.append(pixels[0])
        return torch.zeros(len(pixels))

    record.image_size = reward.net.image_size  # type: ignore[attr-defined]
    with replaced(reward, net=record):
        reward.score(image[None], [ANY])
    return given[0]


def tokens(folder: Path) -> Iterator[Check]:
    """Ids and masks as the text encoder gets them, prompts longer than 35 tokens among them."""
    golden = _json(folder, "reward_imagereward")
    ids, mask = padded(golden["untruncated_token_ids"])
    for name, ours, theirs in (("ids", ids, "input_ids"), ("mask", mask, "attention_mask")):
        yield compare(
            f"text {name} cut and padded to 35",
            ours,
            golden[theirs],
            tolerance=0,
            reference=f"{PACKAGE} score",
        )


@torch.no_grad()
def rewards(folder: Path) -> Iterator[Check]:
    """The whole reward at full size (447 million parameters) with weights rebuilt from their names."""
    golden = _json(folder, "reward_imagereward")
    names, images = _images(folder, golden["images"])
    reward = load_seeded(INFO.key, golden["weight_seed"])
    yield from _network(reward.net, golden, names, images)
    yield from _scores(reward, golden, names, images)


def seeded_network(seed: int) -> BlipReward:
    """The full-size network whose parameters follow from their published names."""
    with torch.device("meta"):
        empty = BlipReward().state_dict()
    state = seeded_state({published(name): old for name, old in empty.items()}, seed)
    return blip_reward(state, Path("name-seeded weights"))


def _network(
    net: BlipReward, golden: dict[str, Any], names: list[str], images: list[np.ndarray]
) -> Iterator[Check]:
    inputs = torch.stack([preprocess.clipscore_openai(image) for image in images])
    seen = torch.cat([net.look(one) for one in inputs.split(1)])
    places = [golden["images"].index(name) for name in names]
    visual = [golden["visual_cls"][place] for place in places]
    yield compare(
        "image encoder: norm of [CLS]",
        seen[:, 0].norm(dim=-1),
        [each["norm"] for each in visual],
        tolerance=2e-6,
        relative=True,
        reference=PACKAGE,
    )
    yield compare(
        "image encoder: first values of [CLS]",
        seen[:, 0, :8],
        [each["first8"] for each in visual],
        tolerance=5e-5,
        reference=PACKAGE,
    )
    ids, mask = padded(golden["untruncated_token_ids"])
    table = [net.read(one.expand(len(ids), -1, -1), ids, mask).tolist() for one in seen.split(1)]
    yield compare(
        "rewards, every image with every prompt",
        table,
        [golden["rewards_image_by_prompt"][place] for place in places],
        tolerance=TOLERANCE,
        reference=f"{PACKAGE} score",
    )


def _scores(
    reward: Any, golden: dict[str, Any], names: list[str], images: list[np.ndarray]
) -> Iterator[Check]:
    """Through `ImageReward.score`: the first and the last pair, whose prompts are short and too long."""
    texts = golden["prompts_used_to_draw_ids"]
    known = dict(zip(texts, golden["untruncated_token_ids"], strict=True))
    reward.tokenize = known.__getitem__  # BERT's vocabulary is not in the golden files
    places = [golden["images"].index(names[end]) for end in (0, -1)]
    prompts = [Prompt(id=str(place), text=texts[place]) for place in places]
    pairs = zip((images[0], images[-1]), prompts, strict=True)
    scores = [reward.score(image[None], [prompt]) for image, prompt in pairs]
    yield compare(
        "scores of each image for its own prompt",
        [each.values for each in scores],
        [golden["nft_scorer_diagonal"][place] for place in places],
        tolerance=TOLERANCE,
        reference=TRAINER,
    )
    yield compare(
        "prompts found to be cut",
        [each.parts["truncated"] for each in scores],
        [len(known[prompt.text]) > golden["max_length"] for prompt in prompts],
        tolerance=0,
        reference=f"{PACKAGE} score",
    )


def _json(folder: Path, name: str) -> dict[str, Any]:
    return read_golden(folder, f"{name}.json")


def _images(folder: Path, names: list[str]) -> tuple[list[str], list[np.ndarray]]:
    """Those of the named pictures that the folder has; a smaller copy of it has fewer."""
    with np.load(golden_file(folder, "preprocessing.npz")) as stored:
        there = [name for name in names if f"image/{name}" in stored.files]
        return there, [stored[f"image/{name}"] for name in there]


CHECKS: dict[str, tuple[Checks, ...]] = {INFO.key: (pixels, tokens, rewards)}
FULL_SIZE: dict[str, tuple[Checks, ...]] = {INFO.key: (rewards,)}
"""Checks that build the full-size network: half a minute and 3 GB."""
