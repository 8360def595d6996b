"""HPSv2: against open_clip's own features, and what its checkpoint may hold."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import rewards
from rewards.base import ConfigError, MissingWeights, Prompt
from rewards.clip.hpsv2 import HpsV2, load_open_clip
from rewards.clip.towers import OpenClipTower
from rewards.images import preprocess
from tests.helpers.models import tiny_clip

TEXTS = ["a photo of a dog", "an astronaut\u2019s glove", "a photo of a dog", "word " * 100]
PROMPTS = [Prompt(id=str(i), text=text) for i, text in enumerate(TEXTS)]
TRANSFORMS = {"nft": preprocess.hpsv2_nft, "2024": preprocess.hpsv2_2024}


def config() -> dict:
    return tiny_clip.OPEN_CLIP


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 48, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """As the published one: half precision, under `state_dict`."""
    path = tmp_path_factory.mktemp("hps") / "hps.pt"
    torch.save({"state_dict": tiny_clip.open_clip_model().half().state_dict()}, path)
    return path


def scorer(path, variant: str) -> HpsV2:
    tower = OpenClipTower(
        load_open_clip(path, "cpu", "float32", config),
        tiny_clip.open_clip_tokenizer(),
        autocast=variant == "2024",
    )
    return HpsV2(tower, transform=TRANSFORMS[variant], info=tiny_clip.info("hpsv2"))


@pytest.mark.parametrize("variant", TRANSFORMS)
def test_the_value_is_open_clips_cosine(checkpoint, images, variant):
    model = tiny_clip.open_clip_model().half().float()
    pixels = torch.stack([TRANSFORMS[variant](image, tiny_clip.SIZE) for image in images])
    with torch.no_grad():
        text = normalize(model.encode_text(tiny_clip.open_clip_tokenizer()(TEXTS)), dim=-1)
        expected = (normalize(model.encode_image(pixels), dim=-1) @ text.T).diagonal().numpy()
    values = scorer(checkpoint, variant).score(images, PROMPTS).values
    np.testing.assert_allclose(values, expected, atol=2e-6)
    assert values.std() > 0.01


def test_antialiasing_tells_the_variants_apart(checkpoint, images):
    values = [scorer(checkpoint, variant).score(images, PROMPTS).values for variant in TRANSFORMS]
    assert np.abs(values[0] - values[1]).max() > 1e-3


def test_the_network_is_loaded_once_a_precision(checkpoint):
    first, half, second = (
        load_open_clip(checkpoint, "cpu", dtype, config)
        for dtype in ("float32", "float16", "float32")
    )
    assert first is second
    assert (first.visual.proj.dtype, half.visual.proj.dtype) == (torch.float32, torch.float16)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {}}, "hold model; expected state_dict"),
        ({"state_dict": {"visual.proj": torch.zeros(3)}}, "do not fit their network: .*missing"),
        ({"state_dict": {"more": torch.zeros(3)}}, "unexpected"),
    ],
)
def test_another_checkpoint_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=words):
        load_open_clip(tmp_path / "other.pt", "cpu", "float32", config)


class Unwanted:
    """What a pickle could bring along."""


def test_a_pickle_of_anything_else_is_never_built(tmp_path):
    torch.save({"state_dict": Unwanted()}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError, match="not a file of plain tensors"):
        load_open_clip(tmp_path / "evil.pt", "cpu", "float32", config)


def test_a_file_cut_short_is_refused(checkpoint, tmp_path):
    (tmp_path / "short.pt").write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="not a file of plain tensors"):
        load_open_clip(tmp_path / "short.pt", "cpu", "float32", config)


def test_registered_variants(monkeypatch, tmp_path):
    assert rewards.resolve("hpsv2") == "hpsv2@nft"
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    for key in ("hpsv2@nft", "hpsv2@2024"):
        assert rewards.reward_info(key).files[0].sha256.startswith("c57a38fb")
        with pytest.raises(MissingWeights, match=f"nftbench rewards pull {key}"):
            rewards.load_reward(key)
