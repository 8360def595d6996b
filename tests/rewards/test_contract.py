"""What every reward of the registry keeps, whatever it judges by.

A reward whose weights are not shipped is put together through its own class from a small network with random weights
(`SMALL`); the others are loaded by name, where their packages are installed.
"""

import json
import math
import re
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
import torch

from nftbench.pocket.world import drawing, scenes
from rewards import available, load_reward, reward_info
from rewards.base import MissingExtra, MissingWeights, Prompt, Reward
from rewards.images import preprocess
from tests.helpers.models import tiny_clip
from tests.helpers.paths import GOLDEN
from tests.helpers.servers.fake_judge import judging

FOLDER = GOLDEN
COUNT = 3
"""Images of a batch."""


@pytest.fixture(scope="module", autouse=True)
def _judge():
    """Where UnifiedReward finds its judge."""
    with judging() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NFTBENCH_JUDGE_URL", url)
        yield


# --- small networks -------------------------------------------------------------------------------


def clip_tower(**more):
    from rewards.clip.towers import ClipTower

    return ClipTower(tiny_clip.model(**more), tiny_clip.tokenizer())


def small_clipscore(transform):
    from rewards.clip.clipscore import ClipScore

    return partial(ClipScore, clip_tower(), transform=transform)


def small_pickscore():
    from rewards.clip.pickscore import PickScore

    return partial(PickScore, clip_tower())


def small_hpsv2(transform, *, autocast):
    from rewards.clip.hpsv2 import HpsV2
    from rewards.clip.towers import OpenClipTower

    network, tokenizer = tiny_clip.open_clip_model(), tiny_clip.open_clip_tokenizer()
    return partial(HpsV2, OpenClipTower(network, tokenizer, autocast=autocast), transform=transform)


def small_aesthetic():
    from rewards.clip.aesthetic import Aesthetic, AestheticHead

    torch.manual_seed(0)
    return partial(Aesthetic, clip_tower(projection=768), AestheticHead())


def small_imagereward():
    from transformers import BlipTextConfig, BlipVisionConfig

    from rewards.vlm.blip import BlipReward
    from rewards.vlm.imagereward import ImageReward, bert_tokenize

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *tiny_clip.LETTERS]
    shared = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = BlipVisionConfig(hidden_size=32, image_size=32, patch_size=8, **shared)
    text = BlipTextConfig(
        vocab_size=len(words) + 2, hidden_size=24, encoder_hidden_size=32, **shared
    )
    torch.manual_seed(0)
    return partial(ImageReward, BlipReward(vision, text), bert_tokenize(words))


@cache
def mask2former():
    """Sure of itself, so that objects are found."""
    from transformers import Mask2FormerForUniversalSegmentation

    from rewards.geneval.mask2former import swin_s_config

    swin = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
    sides = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim")
    config = swin_s_config(
        backbone_config=swin,
        **dict.fromkeys(sides, 32),
        dim_feedforward=64,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=10,
    )
    torch.manual_seed(0)
    network = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        network.class_predictor.weight.normal_(std=1)
    return network


def small_geneval(variant):
    from rewards.geneval.colours import ClipColorHead
    from rewards.geneval.variants import PRESETS, assemble, detector_of

    detector = detector_of(variant, mask2former(), scale=(96, 64))
    head = ClipColorHead(clip_tower(activation=PRESETS[variant].activation))
    return lambda *, info: assemble(variant, detector, head)


SMALL: dict[str, Callable[[], Callable[..., Reward]]] = {
    "aesthetic": small_aesthetic,
    "clipscore@nft": partial(small_clipscore, preprocess.clipscore_nft),
    "clipscore@openai": partial(small_clipscore, preprocess.clipscore_openai),
    "geneval@flowgrpo": partial(small_geneval, "flowgrpo"),
    "geneval@hf": partial(small_geneval, "hf"),
    "geneval@nft": partial(small_geneval, "nft"),
    "geneval@official": partial(small_geneval, "official"),
    "geneval@promptrl": partial(small_geneval, "promptrl"),
    "hpsv2@2024": partial(small_hpsv2, preprocess.hpsv2_2024, autocast=True),
    "hpsv2@nft": partial(small_hpsv2, preprocess.hpsv2_nft, autocast=False),
    "imagereward": small_imagereward,
    "pickscore": small_pickscore,
}
"""Key -> what makes the reward, once it is given the key's own `info`."""
ELSEWHERE = {
    "geneval@mmdet": "tests/extras, with the extra",
    **dict.fromkeys(("ocr@pp2.9", "ocr@pp2.9-nfkc"), "an engine over weights that are fetched"),
    **dict.fromkeys(("ocr@pp3", "ocr@pp3-nfkc"), "the extra [paddle], with weights of its own"),
}
"""Rewards over fetched weights that no small network stands in for, and where they are tested."""


@cache
def reward_of(key: str) -> Reward:
    if key in SMALL:
        return SMALL[key]()(info=reward_info(key))
    try:
        return load_reward(key)
    except (MissingExtra, MissingWeights) as error:
        pytest.skip(str(error))


# --- what is judged -------------------------------------------------------------------------------


@cache
def images() -> np.ndarray:
    """Signs with words on them, 64x64."""
    return np.stack([drawing.render(scene) for scene in signs()])


@cache
def signs() -> list:
    return [scenes.random_scene(np.random.default_rng(i), "sign") for i in range(COUNT)]


def prompts(key: str) -> list[Prompt]:
    """That suit the reward."""
    name = scenes.SHAPES[0] if "pocket" in key else "bench"
    target = {"include": [{"class": name, "count": 1, "color": "red"}]}
    quote = "'" if key.startswith("ocr-words") else '"'
    texts = [scene.caption.replace('"', quote) for scene in signs()]
    return [Prompt(id=str(i), text=text, target=target) for i, text in enumerate(texts)]


def corrupt(key: str) -> Prompt | None:
    """A prompt that the reward cannot judge; None where it takes any."""
    if key.startswith("unifiedreward@"):
        return Prompt(id="bad", text="nonsense")
    if reward_info(key).needs == "text":
        return None
    return Prompt(id="bad", text="nothing quoted and nothing asked")


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", available())
def test_info_is_complete(key):
    info = reward_info(key)
    assert info.key == key
    assert info.summary and info.licence and info.source
    assert math.isfinite(info.low) and math.isfinite(info.high) and info.low < info.high
    assert math.isfinite(info.train_scale) and info.train_scale > 0
    for file in info.files:
        assert re.fullmatch(r"[\w.+-]+/[\w.+-]+", file.name), file.name
        assert re.match(r"https://|hf://[\w.-]+/[\w.-]+@[0-9a-f]{40}/", file.url), file.url
        assert re.fullmatch(r"([0-9a-f]{8,64})?", file.sha256) and file.size >= 0 and file.licence


def test_every_network_has_a_small_one():
    over_files = {key for key in available() if reward_info(key).files}
    assert over_files - SMALL.keys() - ELSEWHERE.keys() == set()
    assert SMALL.keys() <= over_files


@pytest.mark.parametrize("key", available())
def test_scores(key):
    """float32, one a picture, within the range told, the same again and one by one; nothing is written to."""
    reward, pictures, given = reward_of(key), images().copy(), prompts(key)
    assert isinstance(reward, Reward) and reward.info.key == key
    reward.check(given)
    scores = reward.score(pictures, given)
    np.testing.assert_array_equal(pictures, images())
    assert scores.values.dtype == np.float32 and scores.values.shape == (COUNT,)
    assert scores.reasons == ("",) * COUNT
    assert ((scores.values >= reward.info.low) & (scores.values <= reward.info.high)).all()
    assert all(part.dtype == np.float32 for part in scores.parts.values())
    json.dumps(scores.evidence)
    again = reward.score(pictures, given)
    np.testing.assert_array_equal(again.values, scores.values)
    assert again.evidence == scores.evidence
    alone = [reward.score(pictures[[i]], given[i : i + 1]) for i in reversed(range(COUNT))][::-1]
    for name, part in (("value", scores.values), *scores.parts.items()):
        ones = [one.values[0] if name == "value" else one.parts[name][0] for one in alone]
        np.testing.assert_allclose(ones, part, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("key", [key for key in available() if corrupt(key)])
def test_a_corrupt_item_is_nan_alone(key):
    reward, given = reward_of(key), prompts(key)
    good = reward.score(images(), given).values
    given[1] = corrupt(key)
    scores = reward.score(images(), given)
    assert np.isnan(scores.values[1]) and scores.reasons[1]
    np.testing.assert_allclose(scores.values[[0, 2]], good[[0, 2]], rtol=1e-5, atol=1e-5)
    assert scores.reasons[0] == scores.reasons[2] == ""


@pytest.mark.parametrize("key", available())
@pytest.mark.parametrize("shape", [(0, 64, 64, 3), (2, 0, 64, 3), (2, 1, 70_000, 3)])
def test_pictures_that_are_none(key, shape):
    """No pictures have no scores; pictures without pixels, or all edge, are NaN with a reason or a number."""
    scores = reward_of(key).score(np.zeros(shape, np.uint8), prompts(key)[: shape[0]])
    assert scores.values.dtype == np.float32 and len(scores.values) == shape[0]
    if 0 in shape[1:3]:
        assert np.isnan(scores.values).all() and all(scores.reasons)
