"""The aesthetic score: an affine map of the unit embedding, with the published head."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import rewards
from rewards.base import ConfigError, MissingWeights, Prompt
from rewards.certify.seeded import seeded_state
from rewards.clip.aesthetic import HEAD, WIDTHS, Aesthetic, AestheticHead, build_head
from rewards.clip.models import VIT_L_14, read_tensors
from rewards.clip.towers import ClipTower
from rewards.images import preprocess
from tests.helpers.models import tiny_clip
from tests.helpers.paths import DATA

PUBLISHED = DATA / "aesthetic" / Path(HEAD.name).name
DIMENSION = 768


@pytest.fixture(scope="module")
def head():
    if not PUBLISHED.is_file():
        pytest.skip(f"the published head is not at {PUBLISHED}")
    return build_head(read_tensors(PUBLISHED), PUBLISHED)


def seeded_head() -> AestheticHead:
    return build_head(seeded_state(AestheticHead().state_dict(), 0), Path("seeded"))


def affine(state) -> tuple[np.ndarray, float]:
    """The one matrix and the one offset that the layers amount to, in float64."""
    matrix, offset = np.eye(DIMENSION), np.zeros(DIMENSION)
    for i in WIDTHS:
        weight = state[f"layers.{i}.weight"].double().numpy()
        matrix = weight @ matrix
        offset = weight @ offset + state[f"layers.{i}.bias"].double().numpy()
    return matrix[0], float(offset[0])


def test_the_layers_are_one_affine_map():
    head = seeded_head()
    matrix, offset = affine(head.state_dict())
    embeds = normalize(torch.randn(9, DIMENSION, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        np.testing.assert_allclose(head(embeds), embeds.numpy() @ matrix + offset, atol=1e-5)


def test_the_value_is_the_heads_of_the_unit_embedding():
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 40, 3), dtype=np.uint8)
    model, head = tiny_clip.model(projection=DIMENSION), seeded_head()
    reward = Aesthetic(
        ClipTower(model, tiny_clip.tokenizer()), head, info=tiny_clip.info("aesthetic")
    )
    pixels = torch.stack([preprocess.pickscore(image, tiny_clip.SIZE) for image in images])
    with torch.no_grad():
        embeds = model.get_image_features(pixel_values=pixels).pooler_output.double().numpy()
    matrix, offset = affine(head.state_dict())
    expected = embeds / np.linalg.norm(embeds, axis=1, keepdims=True) @ matrix + offset
    values = reward.score(images, [Prompt(id="0", text=text) for text in "abc"]).values
    np.testing.assert_allclose(values, expected, atol=1e-5)
    again = reward.score(images, [Prompt(id="0", text="another")] * 3).values
    np.testing.assert_array_equal(values, again)
    assert values.std() > 1e-3


def test_the_published_head_is_the_pinned_one(head):
    assert hashlib.sha256(PUBLISHED.read_bytes()).hexdigest() == HEAD.sha256
    assert PUBLISHED.stat().st_size == HEAD.size
    matrix, offset = affine(head.state_dict())
    info = rewards.reward_info("aesthetic")
    reach = np.linalg.norm(matrix)
    assert (info.low, info.high) == pytest.approx((offset - reach, offset + reach), abs=0.01)
    assert offset == pytest.approx(5.2366, abs=1e-3)


def test_the_published_head_scores_as_its_affine_map(head):
    matrix, offset = affine(head.state_dict())
    embeds = normalize(torch.randn(64, DIMENSION, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        np.testing.assert_allclose(head(embeds), embeds.numpy() @ matrix + offset, atol=2e-5)


def test_another_head_is_refused():
    state = AestheticHead().state_dict()
    del state["layers.7.bias"]
    with pytest.raises(ConfigError, match=r"some\.pth do not fit .*layers\.7\.bias"):
        build_head(state, Path("some.pth"))
    with pytest.raises(ConfigError, match="other shape"):
        build_head(AestheticHead().state_dict() | {"layers.7.bias": torch.zeros(2)}, Path("x"))


def test_registered_with_both_of_its_files(monkeypatch, tmp_path):
    assert rewards.reward_info("aesthetic").files == (HEAD, VIT_L_14)
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match="nftbench rewards pull aesthetic"):
        rewards.load_reward("aesthetic")
