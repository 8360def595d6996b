"""CLIPScore against transformers' own logits."""

import numpy as np
import pytest
import torch

import rewards
from rewards.base import MissingWeights, Prompt
from rewards.clip.clipscore import ClipScore
from rewards.clip.towers import ClipTower
from rewards.images import preprocess
from tests.helpers.models import tiny_clip

PROMPTS = [Prompt(id=str(i), text=text) for i, text in enumerate(tiny_clip.TEXTS)]
TRANSFORMS = {"nft": preprocess.clipscore_nft, "openai": preprocess.clipscore_openai}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 48, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def scorers():
    tower = ClipTower(tiny_clip.model(), tiny_clip.tokenizer())
    make = {k: ClipScore(tower, transform=t, info=tiny_clip.info(k)) for k, t in TRANSFORMS.items()}
    return make


@pytest.mark.parametrize("variant", TRANSFORMS)
def test_the_value_is_transformers_cosine(scorers, images, variant):
    model = tiny_clip.model()
    tokens = tiny_clip.tokenizer()(
        tiny_clip.TEXTS,
        padding=True,
        truncation=True,
        max_length=tiny_clip.LENGTH,
        return_tensors="pt",
    )
    pixels = torch.stack([TRANSFORMS[variant](image, tiny_clip.SIZE) for image in images])
    with torch.no_grad():
        logits = model(**tokens, pixel_values=pixels).logits_per_image.diagonal()
    expected = (logits / model.logit_scale.exp()).detach().numpy()
    scores = scorers[variant].score(images, PROMPTS)
    np.testing.assert_allclose(scores.values, expected, atol=2e-6)
    assert scores.values.std() > 0.01, "the oracle must be able to tell images apart"


def test_variants_are_told_apart(scorers, images):
    values = [scorers[variant].score(images, PROMPTS).values for variant in TRANSFORMS]
    assert np.abs(values[0] - values[1]).max() > 1e-4


def test_a_value_depends_on_its_image_and_prompt_alone(scorers, images):
    together = scorers["nft"].score(images, PROMPTS).values
    backwards = scorers["nft"].score(images[::-1], PROMPTS[::-1]).values[::-1]
    alone = [
        scorers["nft"].score(images[i : i + 1], PROMPTS[i : i + 1]).values[0] for i in range(4)
    ]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together, backwards, atol=1e-6)


def test_more_images_than_a_batch_holds(scorers):
    images = np.random.default_rng(1).integers(0, 256, (70, 33, 33, 3), dtype=np.uint8)
    prompts = [PROMPTS[i % 4] for i in range(70)]
    values = scorers["nft"].score(images, prompts).values
    for i in (0, 31, 32, 63, 64, 69):
        one = scorers["nft"].score(images[i : i + 1], prompts[i : i + 1]).values[0]
        assert values[i] == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "reason"), [((0, 40), "40x0 and has no pixel"), ((1, 300), "300x1; sides may differ")]
)
def test_pictures_that_cannot_be_seen_are_nan_with_a_reason(scorers, shape, reason):
    scores = scorers["nft"].score(np.zeros((2, *shape, 3), dtype=np.uint8), PROMPTS[:2])
    assert np.isnan(scores.values).all()
    assert all(reason in r for r in scores.reasons)


def test_no_picture_gives_no_score(scorers):
    scores = scorers["nft"].score(np.zeros((0, 8, 8, 3), dtype=np.uint8), [])
    assert scores.values.shape == (0,) and scores.reasons == ()


def test_the_bare_name_is_the_papers_variant():
    assert rewards.resolve("clipscore") == "clipscore@nft"
    for key in ("clipscore@nft", "clipscore@openai"):
        info = rewards.reward_info(key)
        assert (info.low, info.high, info.train_scale) == (-1, 1, 1)
        assert info.files[0].url.startswith("hf://openai/clip-vit-large-patch14@32bd6428")


def test_missing_weights_name_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match="nftbench rewards pull clipscore@openai"):
        rewards.load_reward("clipscore@openai")
