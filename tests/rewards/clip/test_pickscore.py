"""PickScore against transformers' own logits."""

import numpy as np
import pytest
import torch

import rewards
from rewards.base import MissingWeights, Prompt
from rewards.clip.pickscore import PickScore
from rewards.clip.towers import ClipTower
from rewards.images import preprocess
from tests.helpers.models import tiny_clip

PROMPTS = [Prompt(id=str(i), text=text) for i, text in enumerate(tiny_clip.TEXTS)]


def test_the_value_is_transformers_logit():
    images = np.random.default_rng(0).integers(0, 256, (4, 48, 40, 3), dtype=np.uint8)
    model, tokenizer = tiny_clip.model("gelu"), tiny_clip.tokenizer()
    reward = PickScore(ClipTower(tiny_clip.model("gelu"), tokenizer), info=tiny_clip.info("pick"))
    tokens = tokenizer(
        tiny_clip.TEXTS,
        padding=True,
        truncation=True,
        max_length=tiny_clip.LENGTH,
        return_tensors="pt",
    )
    pixels = torch.stack([preprocess.pickscore(image, tiny_clip.SIZE) for image in images])
    with torch.no_grad():
        expected = model(**tokens, pixel_values=pixels).logits_per_image.diagonal().numpy()
    values = reward.score(images, PROMPTS).values
    np.testing.assert_allclose(values, expected, atol=2e-5)
    assert values.max() > 1, "native units, not divided by the training scale"


def test_the_bare_name_is_the_published_model_and_training_divides_by_26():
    assert rewards.resolve("pickscore") == "pickscore"
    info = rewards.reward_info("pickscore")
    assert info.key == "pickscore" and info.train_scale == 26
    assert rewards.reward_info("pickscore@pocket").train_scale == 26


def test_missing_weights_name_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match="nftbench rewards pull pickscore"):
        rewards.load_reward("pickscore")
