"""CLIPScore, PickScore, preprocessing and towers: against transformers and the reference."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from rewards import preprocess
from rewards.base import ConfigError, MissingWeights, Prompt, RewardInfo
from rewards.clipscore import ClipScore
from rewards.geneval.colours import cut_out
from rewards.pickscore import TRAIN_SCALE, PickScore
from rewards.preprocess import CLIP_MEAN, CLIP_STD
from rewards.towers import ClipTower, load_clip

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "preprocessing.json").read_text("utf-8"))
CLIPSCORE = json.loads((FOLDER / "reward_clipscore.json").read_text("utf-8"))
INFO = RewardInfo(name="clipscore", variant="test", summary="", low=-1, high=1)
PICK_INFO = RewardInfo(
    name="pickscore", variant="test", summary="", low=-9, high=9, train_scale=TRAIN_SCALE
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["a red cat", "two dogs", "a red cat", "the longest of all these prompts, cut at sixteen"]


def tiny_tokenizer() -> CLIPTokenizer:
    words = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def tiny_model(size: int = 32) -> CLIPModel:
    """A CLIP with random weights, large enough for cosines to differ."""
    torch.manual_seed(0)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shared |= {"num_attention_heads": 2, "projection_dim": 16}
    text = {"vocab_size": 54, "max_position_embeddings": 16, "eos_token_id": 53, "bos_token_id": 52}
    vision = {"image_size": size, "patch_size": 8}
    config = CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=16)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tower(model):
    return ClipTower(model, tiny_tokenizer())


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 48, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def prompts():
    return [Prompt(id=str(i), text=text) for i, text in enumerate(TEXTS)]


def logits(model, images, transform) -> np.ndarray:
    """transformers' own logits of each image with its text."""
    tokens = tiny_tokenizer()(
        TEXTS, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    pixels = torch.stack([transform(image, 32) for image in images])
    with torch.no_grad():
        return model(**tokens, pixel_values=pixels).logits_per_image.diagonal().numpy()


# --- the rewards ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform", [preprocess.clipscore_nft, preprocess.clipscore_openai], ids=["nft", "openai"]
)
def test_clipscore_is_transformers_cosine(model, tower, images, prompts, transform):
    scores = ClipScore(tower, transform=transform, info=INFO).score(images, prompts)
    expected = logits(model, images, transform) / float(model.logit_scale.exp())
    np.testing.assert_allclose(scores.values, expected, atol=2e-6)
    assert scores.values.std() > 0.01, "the oracle must be able to tell images apart"


def test_pickscore_is_transformers_logit(model, tower, images, prompts):
    scores = PickScore(tower, info=PICK_INFO).score(images, prompts)
    expected = logits(model, images, preprocess.pickscore)
    np.testing.assert_allclose(scores.values, expected, atol=2e-5)
    assert scores.values.max() > 1, "native units, not divided by the training scale"


def test_transforms_are_told_apart(tower, images, prompts):
    values = [
        ClipScore(tower, transform=transform, info=INFO).score(images, prompts).values
        for transform in (preprocess.clipscore_nft, preprocess.clipscore_openai)
    ]
    assert np.abs(values[0] - values[1]).max() > 1e-4


def test_texts_are_cut_at_the_encoders_length(tower):
    long = "a" * 40
    embeds = tower.embed_texts([long, long + " b", "a"])
    torch.testing.assert_close(embeds[0], embeds[1])
    assert (embeds[0] - embeds[2]).abs().max() > 1e-3


# --- towers ---------------------------------------------------------------------------------------


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_load_clip_gives_the_saved_tower_once(saved, tower, images):
    loaded = load_clip(saved)
    assert load_clip(saved) is loaded
    values = [t.cosines(images, TEXTS, preprocess.clipscore_nft) for t in (loaded, tower)]
    np.testing.assert_allclose(*values, atol=1e-6)


def test_load_clip_names_the_missing_file(tmp_path):
    with pytest.raises(MissingWeights, match=r"model\.safetensors"):
        load_clip(tmp_path)


def test_load_clip_refuses_weights_of_another_network(saved):
    config = json.loads((saved / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="do not fit"):
        load_clip(saved)


# --- preprocessing --------------------------------------------------------------------------------

PIL_CASES = [
    (getattr(preprocess, ours), theirs, name)
    for ours, theirs in (("pickscore", "pickscore"), ("clipscore_openai", "imagereward"))
    for name in GOLDEN["transforms"][theirs]
]


def stored(key: str) -> np.ndarray:
    return np.load(FOLDER / "preprocessing.npz")[key]


def as_pixels(normalised: torch.Tensor) -> np.ndarray:
    """Back to the uint8 picture (H, W, 3) before normalisation."""
    mean, std = (np.array(v, dtype=np.float64) for v in (CLIP_MEAN, CLIP_STD))
    picture = normalised.permute(1, 2, 0).double().numpy() * std + mean
    return np.rint(picture * 255).astype(np.uint8)


def same(normalised: torch.Tensor, golden: dict) -> None:
    """Pixels exact before normalisation, the statistics after it to a few parts in 1e7."""
    digest = hashlib.sha256(as_pixels(normalised).tobytes()).hexdigest()
    assert digest == golden["uint8_hwc_sha256"]
    for name in ("mean", "std", "min", "max"):
        got = getattr(normalised.double().numpy(), name)()
        assert got == pytest.approx(golden[name], abs=5e-7), name


@pytest.mark.parametrize(("transform", "theirs", "name"), PIL_CASES)
def test_pil_transforms_golden(transform, theirs, name):
    same(transform(stored(f"image/{name}"), 224), GOLDEN["transforms"][theirs][name])


@pytest.mark.parametrize("name", GOLDEN["transforms"]["clipscore_nft"])
def test_clipscore_nft_golden(name):
    got = preprocess.clipscore_nft(stored(f"image/{name}"), 224)
    step = GOLDEN["stride"]
    expected = stored(f"clipscore_nft/{name}")
    np.testing.assert_allclose(got[:, ::step, ::step].numpy(), expected, atol=1e-5)
    golden = GOLDEN["transforms"]["clipscore_nft"][name]
    assert list(got.shape) == golden["shape"]
    assert float(got.double().mean()) == pytest.approx(golden["mean"], abs=1e-6)


def golden_mask(kind: str, shape: tuple[int, int], box: np.ndarray) -> np.ndarray | None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    rx, ry = max((box[2] - box[0]) / 2, 1), max((box[3] - box[1]) / 2, 1)
    return {
        "none": None,
        "empty": np.zeros(shape, dtype=bool),
        "checker": (x // 8 + y // 8) % 2 == 0,
        "ellipse": ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1,
    }[kind]


@pytest.mark.parametrize("name", GOLDEN["transforms"]["geneval_crop"])
def test_geneval_crop_golden(name):
    golden = GOLDEN["transforms"]["geneval_crop"][name]
    image = stored(f"image/{golden['image']}")
    box = np.array(golden["box_xyxy_score"], dtype=np.float32)
    crop = cut_out(image, box, golden_mask(golden["mask"], image.shape[:2], box))
    assert [crop.shape[1], crop.shape[0]] == golden["crop_size_wh"]
    same(preprocess.geneval_crop(crop, 224), golden)


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("shape", [(64, 64), (97, 64), (100, 151), (61, 64)])
def test_pickscore_is_the_processor_of_transformers_at_any_size(shape, size):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size)
    expected = processor(Image.fromarray(image), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(preprocess.pickscore(image, size), expected, atol=5e-7, rtol=0)


# --- the reference at full size -------------------------------------------------------------------


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights from a parameter's name, as the golden figures were made."""
    if name.endswith("logit_scale"):
        return np.array(np.log(100), dtype=np.float32)
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) + CLIPSCORE["weight_seed"]
    noise = np.random.RandomState(seed % 2**32).standard_normal(size=shape)
    if len(shape) == 2:
        return (noise / np.sqrt(shape[1])).astype(np.float32)
    is_norm = len(shape) == 1 and name.endswith(".weight")
    return (1 + 0.1 * noise if is_norm else 0.02 * noise).astype(np.float32)


class GivenTokens:
    """A tokenizer that knows the reference's prompts."""

    model_max_length = 77

    def __call__(self, texts, **_):
        ids = torch.tensor([CLIPSCORE["input_ids"][CLIPSCORE["prompts"].index(t)] for t in texts])
        ends = (ids == 49407).int().argmax(dim=1, keepdim=True)
        return {"input_ids": ids, "attention_mask": (torch.arange(77)[None] <= ends).long()}


@pytest.mark.slow
def test_clipscore_golden_at_full_size():
    """ViT-L/14 with weights named after their parameters, about half a minute on one core."""
    config = {key: CLIPSCORE["config"][key] for key in ("text_config", "vision_config")}
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**config, projection_dim=768))
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(torch.from_numpy(fill(name, tuple(value.shape))))
        for name, value in model.named_buffers():
            assert name.endswith("position_ids"), name
            value.copy_(torch.arange(value.shape[-1])[None])
    reward = ClipScore(
        ClipTower(model, GivenTokens()), transform=preprocess.clipscore_nft, info=INFO
    )
    for row in (r for r in CLIPSCORE["scores"] if r["image"] in ("sq64", "odd320x439")):
        image, text = stored(f"image/{row['image']}")[None], CLIPSCORE["prompts"][row["prompt"]]
        value = reward.score(image, [Prompt(id="p", text=text)]).values[0]
        assert value == pytest.approx(row["score"], abs=2e-6)
