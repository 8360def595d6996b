"""GenEval's registered variants: their knobs, what their parts see, and whole rewards from files in a cache."""

import hashlib
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPModel
from transformers.activations import ACT2FN, QuickGELUActivation

from rewards import available, load_reward, reward_info
from rewards.base import ConfigError, MissingExtra, MissingWeights, Prompt
from rewards.certify import geneval as certify
from rewards.clip import models as clip_models
from rewards.geneval import mask2former, variants
from rewards.geneval.classes import CLASSES
from rewards.geneval.detector import Detections
from rewards.geneval.judge import COLORS
from rewards.geneval.reward import through_jpeg
from rewards.geneval.variants import PRESETS, assemble, detector_of
from tests.helpers.models import tiny_clip
from tests.helpers.paths import GOLDEN

CAT = Prompt(id="0", text="", target={"include": [{"class": "cat", "count": 1, "color": "red"}]})


def test_knobs():
    """Every column of the table in which the implementations differ."""
    rows = {
        name: (k.channel_order, k.jpeg_quality, k.activation, k.rule, k.detector)
        for name, k in PRESETS.items()
    }
    assert rows == {
        "official": ("rgb", None, "quick_gelu", "official", "converted"),
        "nft": ("bgr", None, "gelu", "nft", "converted"),
        "flowgrpo": ("bgr", 75, "gelu", "nft", "converted"),
        "promptrl": ("bgr", 75, "quick_gelu", "nft", "converted"),
        "hf": ("rgb", None, "quick_gelu", "official", "hub"),
        "mmdet": ("rgb", None, "quick_gelu", "official", "mmdet"),
    }


def test_all_are_registered():
    assert {f"geneval@{name}" for name in PRESETS} <= set(available())
    assert reward_info("geneval").key == "geneval@official"
    for name, knobs in PRESETS.items():
        info = reward_info(f"geneval@{name}")
        assert info.needs == "geneval metadata" and len(info.files) == 2
        assert (info.low, info.high) == ((0, 1) if knobs.rule == "official" else (-14, 1))


def test_classes_are_cocos_under_genevals_names():
    assert len(set(CLASSES)) == 80
    assert CLASSES.index("person") == 0 and CLASSES.index("toothbrush") == 79
    assert [CLASSES[i] for i in (64, 65, 66)] == [
        "computer mouse",
        "tv remote",
        "computer keyboard",
    ]


# --- what the parts see ---------------------------------------------------------------------------


class Watcher:
    """Detects one cat in the top left quarter, names every colour red, and remembers what it saw."""

    classes = CLASSES
    colors = COLORS

    def __init__(self):
        self.seen = self.crops = None

    def detect(self, images):
        self.seen = images.copy()
        half = images.shape[1] // 2
        box = np.array([[0, 0, half, half, 0.95]], dtype=np.float32)
        return [Detections(boxes={"cat": box})] * len(images)

    def classify(self, crops):
        self.crops = list(crops)
        return ["red"] * len(crops)


@pytest.fixture
def pictures():
    y, x = np.mgrid[:32, :32]
    plane = np.stack([8 * x, 255 - 8 * y, (4 * x + 4 * y)], axis=-1)
    return np.stack([plane, plane[::-1]]).astype(np.uint8)


@pytest.mark.parametrize("name", ["official", "nft", "flowgrpo", "promptrl"])
def test_jpeg_is_seen_by_detector_and_colour_check(name, pictures):
    watcher = Watcher()
    before = pictures.copy()
    scores = assemble(name, watcher, watcher).score(pictures, [CAT, CAT])
    expected = pictures
    if PRESETS[name].jpeg_quality:
        expected = np.stack([through_jpeg(picture, 75) for picture in pictures])
        assert 0 < np.abs(expected.astype(int) - pictures).mean() < 10
    assert np.array_equal(watcher.seen, expected) and np.array_equal(pictures, before)
    assert all(
        np.array_equal(crop.pixels, picture[:16, :16])
        for crop, picture in zip(watcher.crops, expected, strict=True)
    )
    assert scores.values.tolist() == [1, 1]


def test_through_jpeg_is_pillows_default_quality(pictures):
    file = BytesIO()
    Image.fromarray(pictures[0]).save(file, "JPEG")
    assert np.array_equal(through_jpeg(pictures[0], 75), np.asarray(Image.open(file)))


def test_the_value_is_that_of_the_rule(pictures):
    """Two cats asked, one found: wrong for the official rule, half a point for DiffusionNFT's."""
    two = Prompt(id="0", text="", target={"include": [{"class": "cat", "count": 2}]})
    values = {
        name: float(assemble(name, Watcher(), Watcher()).score(pictures[:1], [two]).values[0])
        for name in PRESETS
    }
    assert values == {
        "official": 0,
        "nft": 0.5,
        "flowgrpo": 0.5,
        "promptrl": 0.5,
        "hf": 0,
        "mmdet": 0,
    }


def test_pictures_that_nobody_can_look_at():
    reward = assemble("flowgrpo", Watcher(), Watcher())
    for shape, reason in (((0, 5), "no pixel"), ((1, 400), "sides"), ((66000, 400), "JPEG")):
        scores = reward.score(np.zeros((1, *shape, 3), dtype=np.uint8), [CAT])
        assert np.isnan(scores.values[0]) and reason in scores.reasons[0]
        assert np.isnan(scores.parts["strict"][0])
    assert len(reward.score(np.zeros((0, 8, 8, 3), dtype=np.uint8), []).values) == 0


# --- whole rewards, from files --------------------------------------------------------------------


def pinned(weight, folder: Path):
    digest = hashlib.sha256((folder / weight.name).read_bytes()).hexdigest()
    return replace(weight, sha256=digest, size=0)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A cache with networks of the published names and a small size, pinned in place of the published ones."""
    facts = certify._facts(GOLDEN, "mmdet2")
    config = mask2former.swin_s_config(**facts["config"])
    for weight in (variants.MMDET, clip_models.VIT_L_14):
        (tmp_path / weight.name).parent.mkdir(parents=True)
    state = certify.rebuilt(facts["state"], facts["seed"])
    torch.save({"meta": {"epoch": 50}, "state_dict": state}, tmp_path / variants.MMDET.name)
    clip = tiny_clip.config()
    clip.text_config.vocab_size, clip.text_config.max_position_embeddings = 49408, 77
    clip.text_config.bos_token_id, clip.text_config.eos_token_id = 49406, 49407
    torch.manual_seed(0)
    state = {k: v.contiguous() for k, v in CLIPModel(clip).state_dict().items()}
    save_file(state, tmp_path / clip_models.VIT_L_14.name)
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(mask2former, "swin_s_config", lambda: config)
    monkeypatch.setattr(clip_models, "vit_l_14_config", lambda: clip)
    monkeypatch.setattr(variants, "MMDET", pinned(variants.MMDET, tmp_path))
    monkeypatch.setattr(clip_models, "VIT_L_14", pinned(clip_models.VIT_L_14, tmp_path))
    yield
    variants._network.cache_clear()
    clip_models.load_tower.cache_clear()


def activations(reward) -> set[type]:
    model = reward.color_head.tower.model
    return {type(m.activation_fn) for m in model.modules() if hasattr(m, "activation_fn")}


@pytest.mark.slow
def test_activation_class_of_each_variant(weights):
    classes = {
        name: activations(load_reward(f"geneval@{name}"))
        for name in ("official", "nft", "flowgrpo", "promptrl")
    }
    gelu = type(ACT2FN["gelu"])
    assert gelu is not QuickGELUActivation
    assert classes == {
        "official": {QuickGELUActivation},
        "promptrl": {QuickGELUActivation},
        "nft": {gelu},
        "flowgrpo": {gelu},
    }


def test_variants_share_their_networks(weights):
    official, nft = (load_reward(f"geneval@{name}") for name in ("official", "nft"))
    assert official.detector._model is nft.detector._model
    towers = [reward.color_head.tower.model for reward in (official, nft)]
    assert towers[0] is not towers[1]
    assert all(a is b for a, b in zip(*(t.parameters() for t in towers), strict=True))
    orders = [reward.detector._channel_order for reward in (official, nft)]
    assert orders == ["rgb", "bgr"]


def test_a_reward_from_files_judges_a_picture(weights):
    """Random weights see nothing above the threshold, so nothing is correct, and that is a value."""
    picture = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3), dtype=np.uint8)
    scores = load_reward("geneval@official").score(picture, [CAT])
    assert scores.values.tolist() == [0] and scores.reasons == ("",)
    assert "found 0" in scores.evidence[0]["reason"]


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    for name in ("official", "hf"):
        with pytest.raises(MissingWeights, match=f"nftbench rewards pull geneval@{name}"):
            load_reward(f"geneval@{name}")


@pytest.mark.skipif(find_spec("mmdet") is not None, reason="mmdet is installed")
def test_missing_mmdet_names_the_extra():
    with pytest.raises(MissingExtra, match=r"pip install 'nftbench\[mmdet\]'"):
        load_reward("geneval@mmdet")


def test_mmdet_runs_in_float32_only():
    with pytest.raises(ConfigError, match=r"geneval@mmdet runs in float32, got 'float16'"):
        detector_of("mmdet", None, dtype="float16")
