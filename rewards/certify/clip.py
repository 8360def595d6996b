"""The CLIP family against its references: preprocessing, tokens, and whole networks rebuilt from names."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rewards import preprocess
from rewards.base import Prompt, Reward
from rewards.certify import Check, Checks, compare
from rewards.certify.preprocessing import crop_of, pictures_of, preprocessing, read_golden
from rewards.certify.seeded import seeded_state
from rewards.certify.seeded.clip_networks import PATH, empty_state, seeded_tower
from rewards.clip import models as clip_models
from rewards.clip.aesthetic import Aesthetic, AestheticHead, aesthetic, build_head
from rewards.clip.clipscore import ClipScore
from rewards.clip.clipscore import nft as clipscore_nft
from rewards.clip.hpsv2 import HpsV2
from rewards.clip.hpsv2 import nft as hpsv2_nft
from rewards.clip.pickscore import TRAIN_SCALE, PickScore, pickscore
from rewards.clip.towers import Tower
from rewards.geneval.colours import ClipColorHead, Crop
from rewards.preprocess import Preprocess

NFT = "NVlabs/DiffusionNFT@24af555 flow_grpo"
HPS_PACKAGE = "hpsv2x 1.2.0"
GENEVAL = "djghosh13/geneval@af4902f evaluation/evaluate_images.py"

# --- names, shapes, tokens ------------------------------------------------------------------------


def _names(file: str, network: str) -> Checks:
    """A check that a network has the names and shapes of the reference's, without weights."""

    def check(folder: Path) -> Iterator[Check]:
        golden = read_golden(folder, file)
        facts, state = golden["state_dict"], empty_state(network)
        lines = "\n".join(sorted(f"{name} {list(value.shape)}" for name, value in state.items()))
        wrong = hashlib.sha256(lines.encode()).hexdigest() != facts["sorted_key_shape_sha256"]
        name = f"names and shapes of {facts['n_keys']} tensors"
        yield compare(name, [wrong], [0], tolerance=0, reference=_reference(golden))

    return check


def _reference(golden: Mapping[str, Any]) -> str:
    first = golden["reference"][0] if isinstance(golden["reference"], list) else golden["reference"]
    return f"{first['repo']}@{first['commit'][:7]} {first['file']}"


def _tokens(file: str, field: str) -> Checks:
    """A check of token ids, which differ between scorers on purpose."""

    def check(folder: Path) -> Iterator[Check]:
        golden = read_golden(folder, file)
        if field == "tokens":
            from open_clip import SimpleTokenizer

            ids = SimpleTokenizer()(golden["prompts"], context_length=clip_models.CONTEXT)
        else:
            ids = clip_models.clip_tokenizer()(
                golden["prompts"],
                padding="max_length",
                truncation=True,
                max_length=clip_models.CONTEXT,
                return_tensors="pt",
            )["input_ids"]
        yield compare("token ids", ids, golden[field], tolerance=0, reference=_reference(golden))

    return check


# --- whole networks, at full size -----------------------------------------------------------------


def _scores(
    reward: Reward,
    rows: Iterable[tuple[str, int, float]],
    golden: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
) -> tuple[list[float], list[float]]:
    """Our values and the reference's of (picture, prompt, value), each by a call of its own."""
    ours, theirs = [], []
    for image, prompt, value in rows:
        if image in pictures:
            text = Prompt(id=str(prompt), text=golden["prompts"][prompt])
            ours.append(float(reward.score(pictures[image][None], [text]).values[0]))
            theirs.append(value)
    return ours, theirs


def _rows(golden: Mapping[str, Any], field: str) -> list[tuple[str, int, float]]:
    return [(row["image"], row["prompt"], row["score"]) for row in golden[field]]


def _embeds(
    name: str, ours: Tensor, theirs: Iterable[Mapping[str, Any]], reference: str
) -> Iterator[Check]:
    """First numbers of embeddings, and their lengths unless they are 1."""
    theirs = list(theirs)
    lengths = np.array([t["norm"] for t in theirs])
    if np.abs(lengths - 1).max() > 1e-5:
        yield compare(
            f"lengths of {name} embeddings",
            ours.double().norm(dim=-1),
            lengths,
            tolerance=2e-6,
            relative=True,
            reference=reference,
        )
    yield compare(
        f"first numbers of {name} embeddings",
        ours[:, :8],
        [t["first8"] for t in theirs],
        tolerance=5e-5,
        reference=reference,
    )


def _both(
    tower: Tower, transform: Preprocess, golden: Mapping[str, Any], folder: Path, *, unit: bool
) -> Iterator[Check]:
    """Embeddings of all prompts and of the pictures that the folder holds, and all their cosines."""
    pictures, reference = pictures_of(folder), _reference(golden)
    names = "features" if unit else "embeds"
    here = [i for i, image in enumerate(golden["images"]) if image in pictures]
    pixels = torch.stack([transform(pictures[golden["images"][i]], 224) for i in here])
    texts, images = tower.embed_texts(golden["prompts"]), tower.embed_images(pixels)
    unit_texts, unit_images = normalize(texts, dim=-1), normalize(images, dim=-1)
    cosines = np.array(golden["cosine_text_by_image"])[:, here]
    pairs = (unit_texts, unit_images) if unit else (texts, images)
    yield from _embeds("text", pairs[0], golden[f"text_{names}"], reference)
    yield from _embeds("image", pairs[1], [golden[f"image_{names}"][i] for i in here], reference)
    yield compare(
        "cosines of every text and image",
        unit_texts @ unit_images.T,
        cosines,
        tolerance=2e-6,
        reference=reference,
    )


def clipscore_network(folder: Path) -> Iterator[Check]:
    """CLIPScore's embeddings and values."""
    golden, pictures = read_golden(folder, "reward_clipscore.json"), pictures_of(folder)
    tower = seeded_tower("openai", golden["weight_seed"])
    yield from _both(tower, preprocess.clipscore_nft, golden, folder, unit=False)
    reward = ClipScore(tower, transform=preprocess.clipscore_nft, info=clipscore_nft.info)
    ours, theirs = _scores(reward, _rows(golden, "scores"), golden, pictures)
    yield compare("values", ours, theirs, tolerance=2e-6, reference=_reference(golden))


def aesthetic_network(folder: Path) -> Iterator[Check]:
    """The aesthetic score's embeddings and values, its head rebuilt from names as well."""
    golden, pictures = read_golden(folder, "reward_aesthetic.json"), pictures_of(folder)
    reference = _reference(golden)
    tower = seeded_tower("openai", golden["weight_seed"])
    with torch.device("meta"):
        state = AestheticHead().state_dict()
    head = build_head(seeded_state(state, golden["weight_seed"]), PATH)
    reward = Aesthetic(tower, head, info=aesthetic.info)
    here = [i for i, image in enumerate(golden["images"]) if image in pictures]
    images = [pictures[golden["images"][i]] for i in here]
    pixels = torch.stack([preprocess.aesthetic_nft(image, 224) for image in images])
    theirs = [golden["image_embeds"][i] for i in here]
    yield from _embeds("image", tower.embed_images(pixels), theirs, reference)
    ours = [reward.score(image[None], [Prompt(id="", text="")]).values[0] for image in images]
    theirs = [golden["scores"][i] for i in here]
    yield compare("values", ours, theirs, tolerance=5e-6, reference=reference)


def pickscore_network(folder: Path) -> Iterator[Check]:
    """PickScore's embeddings, and its values in native units and in training's."""
    golden, pictures = read_golden(folder, "reward_pickscore.json"), pictures_of(folder)
    reference = _reference(golden)
    tower = seeded_tower("pickscore", golden["weight_seed"])
    yield from _both(tower, preprocess.pickscore, golden, folder, unit=False)
    reward = PickScore(tower, info=pickscore.info)
    diagonal = zip(
        golden["images"],
        range(len(golden["images"])),
        golden["raw_scale_scores_batch_diagonal"],
        strict=True,
    )
    ours, theirs = _scores(reward, diagonal, golden, pictures)
    yield compare("values, native units", ours, theirs, tolerance=5e-4, reference=reference)
    single, divided = _scores(reward, _rows(golden, "scores_single_pairs"), golden, pictures)
    divided += [
        v
        for v, image in zip(golden["scores_batch_diagonal"], golden["images"], strict=True)
        if image in pictures
    ]
    scaled = np.array(single + ours) / TRAIN_SCALE
    yield compare("values / 26", scaled, divided, tolerance=2e-5, reference=reference)


def hpsv2_network(folder: Path) -> Iterator[Check]:
    """HPSv2's features, and its values against both references, which antialias both."""
    golden, pictures = read_golden(folder, "reward_hpsv2.json"), pictures_of(folder)
    tower = seeded_tower("hpsv2", golden["weight_seed"])
    yield from _both(tower, preprocess.hpsv2_nft, golden, folder, unit=True)
    reward = HpsV2(tower, transform=preprocess.hpsv2_nft, info=hpsv2_nft.info)
    for field, reference in (("scores", _reference(golden)), ("package_scores", HPS_PACKAGE)):
        ours, theirs = _scores(reward, _rows(golden, field), golden, pictures)
        yield compare("values", ours, theirs, tolerance=2e-6, reference=reference)


def colours_network(folder: Path) -> Iterator[Check]:
    """GenEval's colour head under QuickGELU: its texts, logits and answers."""
    golden, pictures = read_golden(folder, "reward_geneval_color.json"), pictures_of(folder)
    reference = _reference(golden)
    tower = seeded_tower("openai, open_clip's names", golden["weight_seed"])
    head = ClipColorHead(tower, colors=golden["colors"])
    rows = [row for row in golden["rows"] if row["image"] in pictures]
    for name in sorted({row["classname"] for row in rows}):
        columns = golden["classifier_columns"][name]
        yield from _embeds(f"{name!r} colour", head.classifier(name).T, columns, reference)
    crops = [Crop(name=r["classname"], pixels=crop_of(pictures[r["image"]], r)) for r in rows]
    ours, theirs = 100 * head.cosines(crops), np.array([row["logits"] for row in rows])
    yield compare("logits", ours, theirs, tolerance=2e-4, reference=reference)
    best = np.sort(theirs)[:, -2:]
    clear = np.flatnonzero(best[:, 1] - best[:, 0] > 2e-4)
    answers = [head.colors[int(row.argmax())] != rows[i]["color"] for i, row in enumerate(ours)]
    wrong = [answers[i] for i in clear]
    yield compare("wrong answers", wrong, np.zeros(len(wrong)), tolerance=0, reference=reference)


# --- checks by reward -----------------------------------------------------------------------------

_PIL = {"tolerance": 5e-7}
_FLOATS = {"tolerance": 1e-5}
_CROPS = preprocessing("geneval_crop", preprocess.geneval_crop, **_PIL, reference=GENEVAL)
_OPENAI = (
    _names("reward_clipscore.json", "openai"),
    _tokens("reward_clipscore.json", "input_ids"),
)
_HPS = (_names("reward_hpsv2.json", "hpsv2"), _tokens("reward_hpsv2.json", "tokens"))

CHEAP: dict[str, tuple[Checks, ...]] = {
    "clipscore@nft": (
        preprocessing(
            "clipscore_nft",
            preprocess.clipscore_nft,
            **_FLOATS,
            reference=f"{NFT}/clip_scorer.py",
        ),
        *_OPENAI,
    ),
    "clipscore@openai": (
        preprocessing(
            "imagereward",
            preprocess.clipscore_openai,
            **_PIL,
            reference="image-reward 1.5 _transform, which is CLIP's own",
        ),
        *_OPENAI,
    ),
    "pickscore": (
        preprocessing(
            "pickscore",
            preprocess.pickscore,
            **_PIL,
            reference="transformers 4.40 CLIPImageProcessor",
        ),
        _names("reward_pickscore.json", "pickscore"),
        _tokens("reward_pickscore.json", "input_ids_padded_to_longest"),
    ),
    "hpsv2@nft": (
        preprocessing(
            "hpsv2_nft", preprocess.hpsv2_nft, **_FLOATS, reference=f"{NFT}/hpsv2_scorer.py"
        ),
        preprocessing(
            "hpsv2_package",
            preprocess.hpsv2_nft,
            **_FLOATS,
            reference=f"{HPS_PACKAGE}, torchvision 0.21",
        ),
        *_HPS,
    ),
    "hpsv2@2024": (
        preprocessing(
            "hpsv2_package_torchvision016_no_antialias",
            preprocess.hpsv2_2024,
            **_FLOATS,
            reference=f"{HPS_PACKAGE}, torchvision 0.16.2",
        ),
        *_HPS,
    ),
    "aesthetic": (
        preprocessing(
            "aesthetic_nft",
            preprocess.aesthetic_nft,
            **_PIL,
            reference=f"{NFT}/aesthetic_scorer.py",
        ),
        _OPENAI[0],
    ),
    "geneval@official": (
        _CROPS,
        _names("reward_geneval_color.json", "openai, open_clip's names"),
    ),
}
"""Seconds each."""
FULL_SIZE: dict[str, tuple[Checks, ...]] = {
    "clipscore@nft": (clipscore_network,),
    "clipscore@openai": (clipscore_network,),
    "aesthetic": (aesthetic_network,),
    "geneval@official": (colours_network,),
    "pickscore": (pickscore_network,),
    "hpsv2@nft": (hpsv2_network,),
    "hpsv2@2024": (hpsv2_network,),
}
"""Half a minute to minutes each, 2 to 5 GB; neighbours share a network."""
CHECKS = {key: CHEAP[key] + FULL_SIZE[key] for key in CHEAP}
