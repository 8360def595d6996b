"""The reward contract: what `Scores` refuses, and a test that every installed reward must pass."""

import hashlib

import numpy as np
import pytest

from nftbench.pocket import drawing, scenes
from rewards import (
    ConfigError,
    MissingExtra,
    MissingWeights,
    Prompt,
    Reward,
    RewardInfo,
    Scores,
    available,
    load_reward,
    reward_info,
    weights,
)

CLASSES = ("circle", "person")
"""Classes that some detector may know: the pocket world's, COCO's."""


# --- values ---------------------------------------------------------------------------------------


def test_scores_of_makes_float32_without_reasons():
    scores = Scores.of([1, 2.5])
    assert scores.values.dtype == np.float32 and scores.reasons == ("", "")


@pytest.mark.parametrize(
    ("values", "reasons", "more"),
    [
        ([1.0, np.nan], ("", ""), {}),
        ([1.0, 2.0], ("", "but why"), {}),
        ([1.0, 2.0], ("",), {}),
        ([1.0, 2.0], ("", ""), {"parts": {"exact": np.zeros(1, dtype=np.float32)}}),
        ([1.0, 2.0], ("", ""), {"evidence": ({},)}),
    ],
)
def test_scores_refuses_what_does_not_add_up(values, reasons, more):
    with pytest.raises(AssertionError):
        Scores(values=np.array(values, dtype=np.float32), reasons=reasons, **more)


def test_scores_refuses_double_precision():
    with pytest.raises(AssertionError, match="float32"):
        Scores(values=np.zeros(1), reasons=("",))


def test_key_of_an_info():
    info = RewardInfo(name="ocr", variant="rapidocr", summary="", low=0, high=1)
    assert info.key == "ocr@rapidocr"
    assert RewardInfo(name="jpeg", variant="", summary="", low=0, high=1).key == "jpeg"


# --- the contract ---------------------------------------------------------------------------------


def loaded(key: str) -> Reward:
    try:
        return load_reward(key)
    except (MissingExtra, MissingWeights) as error:
        pytest.skip(str(error))
    except ConfigError as error:
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        pytest.skip(str(error))


def asked_of(reward: Reward, count: int) -> list[Prompt]:
    """Prompts with all that any reward may need; the class is one that the reward knows."""
    for name in CLASSES:
        wanted = {"class": name, "count": 1, "color": "red"}
        prompts = [
            Prompt(
                id=str(i),
                text=f'a photo of a red {name} and a sign that says "STOP {i}"',
                tag="colors",
                target={"include": [wanted]},
            )
            for i in range(count)
        ]
        if reward.info.needs != "geneval metadata" or accepts(reward, prompts):
            return prompts
    raise AssertionError(f"{reward.info.key} knows none of {CLASSES}; add one of its classes")


def accepts(reward: Reward, prompts: list[Prompt]) -> bool:
    try:
        reward.check(prompts)
    except ConfigError:
        return False
    return True


def pictures() -> np.ndarray:
    """A sign, a circle, another scene and noise: uint8 (4, 64, 64, 3)."""
    tags = ("sign", "single_object", "color_attr")
    drawn = [scenes.random_scene(np.random.default_rng(7), tag) for tag in tags]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return np.stack([*map(drawing.render, drawn), noise])


@pytest.mark.parametrize("key", available())
def test_every_reward_keeps_the_contract(key):
    reward = loaded(key)
    images = pictures()
    prompts = asked_of(reward, len(images))
    before = images.copy()
    reward.check(prompts)
    scores = reward.score(images, prompts)
    assert np.array_equal(images, before), f"{key} changed its input"
    assert isinstance(reward, Reward) and reward.info.key == key == reward_info(key).key
    assert scores.values.shape == (4,) and scores.values.dtype == np.float32
    assert all(part.dtype == np.float32 for part in scores.parts.values())
    found = scores.values[~np.isnan(scores.values)]
    assert len(found) and ((found >= reward.info.low) & (found <= reward.info.high)).all()
    singles = [reward.score(images[i : i + 1], prompts[i : i + 1]) for i in range(4)]
    for whole, parts in [(scores.values, [s.values for s in singles])] + [
        (scores.parts[name], [s.parts[name] for s in singles]) for name in scores.parts
    ]:
        np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-5, atol=1e-5)
    order = [2, 0, 3, 1]
    turned = reward.score(images[order], [prompts[i] for i in order])
    np.testing.assert_allclose(turned.values, scores.values[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", available())
def test_every_reward_with_needs_refuses_prompts_without_them(key):
    reward = loaded(key)
    bare = Prompt(id="bare", text="a red circle")
    if reward.info.needs == "text":
        reward.check([bare])
        return
    with pytest.raises(ConfigError, match="'bare'"):
        reward.check([bare])
    scores = reward.score(pictures()[:1], [bare])
    assert np.isnan(scores.values[0]) and scores.reasons[0]


# --- weights --------------------------------------------------------------------------------------


def test_verified_file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert weights.verified(path, digest, remedy="fetch it") == path
    with pytest.raises(ConfigError, match=f"sha256 {digest}, expected 00ff; fetch it"):
        weights.verified(path, "00ff", remedy="fetch it")


def test_missing_weights_say_what_to_do(tmp_path):
    with pytest.raises(MissingWeights, match=r"none\.bin are missing; fetch it\."):
        weights.verified(tmp_path / "none.bin", "00", remedy="fetch it")
    with pytest.raises(MissingWeights, match=r"'no_such_package'.*pip install"):
        weights.packaged("no_such_package", "net.onnx", "00")


def test_packaged_weights_are_found_and_checked():
    found = weights.packaged("nftbench.pocket", "words.txt", hashed("nftbench/pocket/words.txt"))
    assert found.name == "words.txt"
    with pytest.raises(ConfigError, match="expected 00; pip install --force-reinstall nftbench"):
        weights.packaged("nftbench.pocket", "words.txt", "00")


def hashed(name: str) -> str:
    from importlib.resources import files

    package, _, file = name.rpartition("/")
    return hashlib.sha256((files(package.replace("/", ".")) / file).read_bytes()).hexdigest()
