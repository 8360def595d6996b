"""Towers: shared parameters, activations, precisions, tokens, and files that do not fit."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers.activations import GELUActivation, QuickGELUActivation
from transformers.models.clip.modeling_clip import CLIPMLP

from rewards.base import ConfigError, MissingWeights
from rewards.certify.seeded.clip_networks import renamed
from rewards.clip import models as clip_models
from rewards.clip.models import clip_tokenizer, load_tower, openai_tower
from rewards.clip.towers import ClipTower, OpenClipTower, load_clip
from rewards.geneval.colours import ClipColorHead
from rewards.images import preprocess
from tests.helpers.models import tiny_clip

TEXTS = tiny_clip.TEXTS


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 48, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tower():
    return ClipTower(tiny_clip.model(), tiny_clip.tokenizer())


def cosines(tower, images) -> np.ndarray:
    return tower.cosines(images, TEXTS, preprocess.clipscore_nft)


# --- activations ----------------------------------------------------------------------------------


def activations(tower) -> set[type]:
    return {type(m.activation_fn) for m in tower.model.modules() if isinstance(m, CLIPMLP)}


def test_another_activation_shares_the_parameters(tower, images):
    gelu = tower.with_activation("gelu")
    assert (activations(tower), activations(gelu)) == ({QuickGELUActivation}, {GELUActivation})
    ours, theirs = (dict(t.model.named_parameters()) for t in (tower, gelu))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    plain = ClipTower(tiny_clip.model("gelu"), tiny_clip.tokenizer())
    np.testing.assert_array_equal(cosines(gelu, images), cosines(plain, images))
    assert np.abs(cosines(gelu, images) - cosines(tower, images)).max() > 1e-5
    assert tower.model.config.vision_config.hidden_act == "quick_gelu"
    assert gelu.model.config.text_config.hidden_act == "gelu"


@pytest.fixture
def file(tmp_path):
    """A file as the hub's, with the counters of older versions beside the parameters."""
    state = tiny_clip.model().state_dict()
    state["text_model.embeddings.position_ids"] = torch.arange(tiny_clip.LENGTH)[None]
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_one_set_of_parameters_serves_clipscore_aesthetic_and_both_colour_heads(file, monkeypatch):
    monkeypatch.setattr(clip_models, "weight_file", lambda weight, reward: file)
    monkeypatch.setattr(clip_models, "vit_l_14_config", tiny_clip.config)
    towers = [
        openai_tower(key, activation=activation)
        for key, activation in (
            ("clipscore@nft", "quick_gelu"),
            ("aesthetic", "quick_gelu"),
            ("geneval@official", "quick_gelu"),
            ("geneval@nft", "gelu"),
            ("geneval@flowgrpo", "gelu"),
        )
    ]
    assert len({t.model.logit_scale.data_ptr() for t in towers}) == 1
    assert len({id(p) for t in towers for p in t.model.parameters()}) == len(
        list(towers[0].model.parameters())
    )
    assert [type(t.model.vision_model.encoder.layers[1].mlp.activation_fn) for t in towers] == (
        [QuickGELUActivation] * 3 + [GELUActivation] * 2
    )
    assert towers[3] is towers[4], "the second view of the parameters is made once, too"
    assert openai_tower("clipscore@nft", dtype="bfloat16") is not towers[0]


def test_the_published_configurations():
    large, huge = clip_models.vit_l_14_config(), clip_models.vit_h_14_config()
    assert large.vision_config.hidden_act == large.text_config.hidden_act == "quick_gelu"
    assert huge.vision_config.hidden_act == huge.text_config.hidden_act == "gelu"
    assert (large.vision_config.num_hidden_layers, huge.vision_config.num_hidden_layers) == (24, 32)


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.005)])
def test_half_precision_is_near_and_comes_back_in_float32(tower, images, dtype, tolerance):
    half = ClipTower(tiny_clip.model(), tiny_clip.tokenizer(), dtype=dtype)
    values = cosines(half, images)
    assert values.dtype == np.float32
    difference = np.abs(values - cosines(tower, images)).max()
    assert 0 < difference < tolerance
    assert half.logit_scale == tower.logit_scale, "a factor is not rounded to half precision"


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match=r"'int8' is none of float32, bfloat16, float16"):
        ClipTower(tiny_clip.model(), tiny_clip.tokenizer(), dtype="int8")


# --- texts ----------------------------------------------------------------------------------------


def test_texts_are_cut_at_the_encoders_length(tower):
    long = "a" * 40
    embeds = tower.embed_texts([long, long + " b", "a"])
    torch.testing.assert_close(embeds[0], embeds[1])
    assert (embeds[0] - embeds[2]).abs().max() > 1e-3


def test_every_image_is_compared_with_its_own_text(tower, images):
    one_by_one = [
        tower.cosines(images[i : i + 1], [text], preprocess.clipscore_nft)[0]
        for i, text in enumerate(TEXTS)
    ]
    np.testing.assert_allclose(cosines(tower, images), one_by_one, atol=1e-6)
    others = tower.cosines(images, TEXTS[::-1], preprocess.clipscore_nft)
    assert np.abs(others - one_by_one).max() > 1e-3


def test_a_text_is_cut_from_one_token_beyond_the_length(tower):
    words = tiny_clip.LENGTH - 2  # a beginning and an end stand around them
    assert tower.truncated(["a " * words, "a " * (words + 1)]) == [False, True]
    wide = OpenClipTower(tiny_clip.open_clip_model(), open_clip.SimpleTokenizer())
    assert wide.truncated(["cat " * 75, "cat " * 76]) == [False, True]
    ids = wide.tokens(["cat " * 75, "cat " * 76])["text"]
    assert ids[0, -1] == ids[1, -1] == 49407 and torch.equal(ids[0], ids[1]), (
        "the oracle: what is fed"
    )


def test_clips_tokenizer_is_rebuilt_from_open_clips_vocabulary():
    text = 'New York, "Hello World" déjà-vu 日本 🙂 8mm'
    ids = clip_tokenizer()([text], padding="max_length", max_length=77)["input_ids"][0]
    theirs = open_clip.SimpleTokenizer()([text])[0].tolist()
    end = theirs.index(49407) + 1
    assert ids[:end] == theirs[:end]
    assert set(ids[end:]) == {49407} and set(theirs[end:]) == {0}
    assert clip_tokenizer()("astronaut\u2019s")["input_ids"] != [
        i for i in open_clip.SimpleTokenizer()("astronaut\u2019s")[0].tolist() if i
    ], "open_clip straightens quotes, transformers does not"


# --- two libraries, one network -------------------------------------------------------------------


def test_open_clips_names_are_transformers_under_another_name(images):
    """The same weights in both libraries: their embeddings agree, so the renaming is right."""
    source = tiny_clip.open_clip_model()
    ours = tiny_clip.config("gelu")
    ours.text_config.vocab_size, ours.text_config.max_position_embeddings = 49408, 77
    ours.text_config.bos_token_id, ours.text_config.eos_token_id = 49406, 49407
    for part in (ours.text_config, ours.vision_config):
        part.intermediate_size = 128
    model = clip_models.build_clip(ours, renamed(source.state_dict()), Path("renamed"))
    texts = ["a photo of a dog", "two cats and a very red bus"]
    clip = ClipTower(model, clip_tokenizer())
    other = OpenClipTower(source, open_clip.SimpleTokenizer())
    torch.testing.assert_close(clip.embed_texts(texts), other.embed_texts(texts), atol=1e-4, rtol=0)
    pixels = torch.stack([preprocess.geneval_crop(image, tiny_clip.SIZE) for image in images])
    torch.testing.assert_close(
        clip.embed_images(pixels), other.embed_images(pixels), atol=1e-4, rtol=0
    )
    assert clip.logit_scale == pytest.approx(other.logit_scale)


def test_the_colour_head_looks_through_either_tower():
    model = tiny_clip.open_clip_model()
    tower = OpenClipTower(model, open_clip.SimpleTokenizer())
    columns = ClipColorHead(tower, colors=("red", "green")).classifier("car")
    assert columns.shape == (16, 2)
    torch.testing.assert_close(columns.norm(dim=0), torch.ones(2))


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    tiny_clip.model().save_pretrained(tmp_path)
    tiny_clip.tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_load_clip_gives_the_saved_tower_once(saved, tower, images):
    loaded = load_clip(saved)
    assert load_clip(saved) is loaded
    np.testing.assert_allclose(cosines(loaded, images), cosines(tower, images), atol=1e-6)


def test_load_clip_names_the_missing_file(tmp_path):
    with pytest.raises(MissingWeights, match=r"model\.safetensors"):
        load_clip(tmp_path)


def test_load_clip_refuses_weights_of_another_network(saved):
    config = json.loads((saved / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="do not fit"):
        load_clip(saved)


def test_load_tower_gives_the_network_of_the_file(file, tower, images):
    loaded = load_tower(file, tiny_clip.config, "cpu", "float32")
    pixels = torch.stack([preprocess.clipscore_nft(image, tiny_clip.SIZE) for image in images])
    torch.testing.assert_close(loaded.embed_images(pixels), tower.embed_images(pixels))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("visual_projection.weight"), "missing.*visual_projection"),
        (lambda s: s.update(more=torch.zeros(1)), "unexpected.*more"),
        (lambda s: s.update(logit_scale=torch.zeros(2)), "other shape.*logit_scale"),
    ],
)
def test_load_tower_refuses_weights_of_another_network(tmp_path, change, words):
    state = tiny_clip.model().state_dict()
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=f"do not fit their network: .*{words}"):
        load_tower(tmp_path / "model.safetensors", tiny_clip.config, "cpu", "float32")
