"""ImageReward: tokens, names of the published file, small networks, and the reference's numbers at full size."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BlipTextConfig, BlipVisionConfig

from rewards.base import ConfigError, MissingWeights, Prompt
from rewards.certify import imagereward as certify
from rewards.certify.seeded import seeded, seeded_state
from rewards.clip.models import read_tensors
from rewards.images import preprocess
from rewards.vlm.blip import MEAN, STD, UNUSED, BlipReward, blip_reward, published
from rewards.vlm.imagereward import (
    INFO,
    MAX_TOKENS,
    ImageReward,
    bert_tokenize,
    imagereward,
    padded,
)
from tests.helpers.paths import GOLDEN

FOLDER = GOLDEN
GOLDEN = json.loads((FOLDER / "reward_imagereward.json").read_text("utf-8"))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "red", "##s", "dog", ","]
VISION = BlipVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=32,
    patch_size=8,
)
TEXT = BlipTextConfig(
    vocab_size=len(WORDS) + 2,
    hidden_size=24,
    encoder_hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=MAX_TOKENS,
)
PROMPTS = [Prompt(id=str(i), text=t) for i, t in enumerate(["a cat", "red dogs", "a " * 50, ""])]


def small_state() -> dict[str, torch.Tensor]:
    """Published names -> values, of a network with two narrow layers a tower."""
    with torch.device("meta"):
        empty = BlipReward(VISION, TEXT).state_dict()
    return seeded_state({published(name): old for name, old in empty.items()}, 0)


def small_net(**changed: torch.Tensor) -> BlipReward:
    return blip_reward(small_state() | changed, Path("small"), VISION, TEXT)


def small_reward(**more) -> ImageReward:
    return ImageReward(small_net(), bert_tokenize(WORDS), info=INFO, **more)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), dtype=np.uint8)


# --- tokens ---------------------------------------------------------------------------------------


def test_tokens_are_lower_case_word_pieces_without_accents():
    tokenize = bert_tokenize(WORDS)
    assert tokenize("A Cat, red dógs") == [2, 5, 6, 10, 7, 9, 8, 3]
    assert tokenize("") == [2, 3]
    assert tokenize("zebra [DEC] [ENC]") == [2, 1, len(WORDS), len(WORDS) + 1, 3]


@given(st.lists(st.lists(st.integers(5, 10), max_size=80), min_size=1, max_size=4))
def test_padding_and_cutting(contents):
    ids, mask = padded([[2, *content, 3] for content in contents])
    assert ids.shape == mask.shape == (len(contents), MAX_TOKENS)
    for row, seen, content in zip(ids.tolist(), mask.tolist(), contents, strict=True):
        kept = content[: MAX_TOKENS - 2]
        assert row == [2, *kept, 3] + [0] * (MAX_TOKENS - 2 - len(kept))
        assert seen == [int(token != 0) for token in row]


# --- weights --------------------------------------------------------------------------------------


def full_size_shapes() -> dict[str, list[int]]:
    with torch.device("meta"):
        ours = BlipReward().state_dict()
    projections = {f"blip.{side}_proj.bias": [256] for side in ("text", "vision")}
    projections |= {"blip.text_proj.weight": [256, 768], "blip.vision_proj.weight": [256, 1024]}
    counter = {"blip.text_encoder.embeddings.position_ids": [1, 512]}
    assert projections.keys() | counter.keys() == UNUSED
    return {published(n): list(t.shape) for n, t in ours.items()} | projections | counter


def test_names_and_shapes_are_those_of_the_published_file():
    shapes = full_size_shapes()
    lines = "\n".join(sorted(f"{name} {shape}" for name, shape in shapes.items()))
    assert len(shapes) == GOLDEN["state_dict"]["n_keys"]
    assert (
        hashlib.sha256(lines.encode()).hexdigest()
        == GOLDEN["state_dict"]["sorted_key_shape_sha256"]
    )
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    assert numbers == GOLDEN["state_dict"]["n_parameters"]


def test_seeded_values_are_the_reference_s():
    small = {n: e for n, e in GOLDEN["state_dict"]["examples"].items() if np.prod(e["shape"]) < 1e6}
    assert len(small) > 5
    for name, example in small.items():
        values = seeded(name, example["shape"], GOLDEN["weight_seed"]).flatten()[:4]
        np.testing.assert_array_max_ulp(values.numpy(), np.float32(example["first4"]), 1)


def test_unused_tensors_may_be_there_and_others_may_not():
    state = small_state()
    extra = dict.fromkeys(UNUSED, torch.zeros(1))
    same = blip_reward(state | extra, Path("x"), VISION, TEXT).state_dict()
    assert all(torch.equal(same[name], value) for name, value in small_net().state_dict().items())
    with pytest.raises(ConfigError, match=r"x do not fit.*'unexpected': \['blip.stray'\]"):
        blip_reward(state | {"blip.stray": torch.zeros(1)}, Path("x"), VISION, TEXT)
    with pytest.raises(ConfigError, match=r"'missing': \['mlp.layers.7.bias'\]"):
        lacking = {name: value for name, value in state.items() if name != "mlp.layers.7.bias"}
        blip_reward(lacking, Path("x"), VISION, TEXT)
    with pytest.raises(ConfigError, match=r"'other shape': \['mlp.layers.7.bias'\]"):
        blip_reward(state | {"mlp.layers.7.bias": torch.zeros(2)}, Path("x"), VISION, TEXT)


def test_a_saved_file_scores_the_same(tmp_path, images):
    torch.save(small_state(), tmp_path / "small.pt")
    net = blip_reward(read_tensors(tmp_path / "small.pt"), tmp_path, VISION, TEXT)
    again = ImageReward(net, bert_tokenize(WORDS), info=INFO).score(images, PROMPTS).values
    np.testing.assert_array_equal(again, small_reward().score(images, PROMPTS).values)


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"ImageReward\.pt.*nftbench rewards pull imagereward"):
        imagereward()


def test_pins_are_whole():
    assert [len(file.sha256) for file in INFO.files] == [64, 64]
    assert all(file.size and "@" in file.url and file.licence for file in INFO.files)


# --- scores ---------------------------------------------------------------------------------------


def test_constant_network(images):
    """The last layer without weights: (bias - mean) / deviation for every image."""
    net = small_net(
        **{"mlp.layers.7.weight": torch.zeros(1, 16), "mlp.layers.7.bias": torch.full((1,), 0.5)}
    )
    scores = ImageReward(net, bert_tokenize(WORDS), info=INFO).score(images, PROMPTS)
    np.testing.assert_allclose(scores.values, (0.5 - MEAN) / STD, rtol=1e-6)
    assert GOLDEN["reward_mean"] == MEAN and GOLDEN["reward_std"] == STD


def test_each_pair_alone_and_without_padding(images):
    """The slow way: one image, one text, no padding, nothing masked."""
    net, tokenize = small_net().eval(), bert_tokenize(WORDS)
    expected = []
    for image, prompt in zip(images, PROMPTS, strict=True):
        ids = torch.tensor([tokenize(prompt.text)])
        if ids.shape[1] > MAX_TOKENS:
            ids = torch.cat([ids[:, : MAX_TOKENS - 1], ids[:, -1:]], 1)
        pixels = preprocess.clipscore_openai(image, 32)[None]
        with torch.no_grad():
            expected.append(net(pixels, ids, torch.ones_like(ids)).item())
    scores = small_reward().score(images, PROMPTS)
    np.testing.assert_allclose(scores.values, expected, atol=2e-6)
    assert np.ptp(expected) > 1e-3


def test_truncation_is_counted(images):
    scores = small_reward().score(images, PROMPTS)
    np.testing.assert_array_equal(scores.parts["truncated"], [0, 0, 1, 0])
    assert [each["tokens"] for each in scores.evidence] == [4, 5, 52, 2]
    seen = Prompt(id="cut", text="a " * (MAX_TOKENS - 2))
    shorter = small_reward().score(images[2:3], [seen])
    np.testing.assert_allclose(shorter.values, scores.values[2], atol=2e-6)
    assert shorter.parts["truncated"][0] == 0


def test_many_batches_make_no_difference(images):
    many = np.concatenate([images] * 10)
    scores = small_reward().score(many, PROMPTS * 10)
    once = small_reward().score(images, PROMPTS)
    np.testing.assert_allclose(scores.values, np.tile(once.values, 10), atol=2e-6)


def test_a_reward_that_is_not_finite_is_nan_and_leaves_the_others_alone(images):
    broken = small_state()["blip.text_encoder.embeddings.word_embeddings.weight"].clone()
    broken[WORDS.index("red")] = torch.inf
    net = small_net(**{"blip.text_encoder.embeddings.word_embeddings.weight": broken})
    scores = ImageReward(net, bert_tokenize(WORDS), info=INFO).score(images, PROMPTS)
    expected = small_reward().score(images, PROMPTS).values
    assert np.isnan(scores.values[1]) and scores.reasons[1] == "the network gave nan"
    np.testing.assert_allclose(scores.values[[0, 2, 3]], expected[[0, 2, 3]], atol=2e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(images, dtype):
    exact = small_reward().score(images, PROMPTS).values
    half = small_reward(dtype=dtype).score(images, PROMPTS).values
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.05


def test_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="precision 'float8' is none of float32"):
        small_reward(dtype="float8")


def test_a_picture_that_is_all_edge_is_not_looked_at():
    scores = small_reward().score(np.zeros((2, 1, 900, 3), np.uint8), PROMPTS[:2])
    assert np.isnan(scores.values).all() and "900x1" in scores.reasons[0]


# --- golden ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [certify.pixels, certify.tokens])
def test_golden_of_what_goes_in(function):
    checks = list(function(FOLDER))
    assert [check.name for check in checks if not check.passed] == []
    assert sum(check.cases for check in checks) == {"pixels": 35, "tokens": 420}[function.__name__]


@pytest.mark.slow
@pytest.mark.full_size
def test_golden_at_full_size():
    checks = list(certify.rewards(FOLDER))
    assert [check for check in checks if not check.passed] == []
    assert len(checks) == 5 and sum(check.cases for check in checks) == 49
