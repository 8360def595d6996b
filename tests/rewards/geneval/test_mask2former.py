"""GenEval's detector: layouts, preprocessing, objects, checkpoints; then mmdet's own numbers."""

import pickle
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Mask2FormerForUniversalSegmentation

from rewards.base import ConfigError
from rewards.certify import geneval as certify
from rewards.geneval.classes import CLASSES
from rewards.geneval.convert import from_unfold_order, read_checkpoint, to_transformers, to_v3
from rewards.geneval.instances import instances, tight_boxes
from rewards.geneval.mask2former import (
    MEAN,
    STD,
    UNUSED,
    Mask2FormerDetector,
    converted,
    load_hub,
    network_input,
    swin_s_config,
)
from tests.helpers.paths import GOLDEN

FACTS = {kind: certify._facts(GOLDEN, kind) for kind in ("mmdet2", "mmdet3")}
RNG = np.random.default_rng(0)


def small_state(kind: str = "mmdet3") -> dict[str, torch.Tensor]:
    return certify.rebuilt(FACTS[kind]["state"], FACTS[kind]["seed"])


def small_config():
    return swin_s_config(**FACTS["mmdet3"]["config"])


@pytest.fixture(scope="module")
def network():
    return converted(small_state(), small_config())


@pytest.fixture
def picture():
    return np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)


# --- layouts and names ----------------------------------------------------------------------------


def test_unfold_order_of_two_channels():
    """Channel-major rows of a 2x2 become place-major columns: a00 a01 a10 a11 -> a00 a10 a01 a11."""
    names = ["a00", "a01", "a10", "a11", "b00", "b01", "b10", "b11"]
    order = from_unfold_order(torch.arange(8)).tolist()
    assert [names[i] for i in order] == ["a00", "b00", "a10", "b10", "a01", "b01", "a11", "b11"]


def test_unfold_order_merges_the_same_patches():
    """mmdet's `nn.Unfold` and Swin's slices give one result through one weight."""
    x, weight = torch.randn(1, 3, 6, 4), torch.randn(5, 12)
    by_unfold = nn.Unfold(2, stride=2)(x).transpose(1, 2) @ weight.T
    places = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    merged = torch.cat(places, dim=1).flatten(2).transpose(1, 2) @ from_unfold_order(weight).T
    torch.testing.assert_close(merged, by_unfold)


def test_both_generations_name_the_same_tensors():
    old, new = small_state("mmdet2"), small_state("mmdet3")
    assert old.keys() != new.keys() and to_v3(old).keys() == new.keys() == to_v3(new).keys()
    expected = to_transformers(new)
    for name, tensor in to_transformers(old).items():
        assert torch.equal(tensor, expected[name]), name


def test_every_tensor_of_the_published_size_finds_its_place():
    shapes = FACTS["mmdet3"]["full_state"]
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
        wanted = Mask2FormerForUniversalSegmentation(swin_s_config()).state_dict()
    found = to_transformers(state)
    assert {k: v.shape for k, v in found.items()}.items() <= {
        k: v.shape for k, v in wanted.items()
    }.items()
    assert sum(v.numel() for v in found.values()) == 68_739_547
    assert len(wanted) - len(found) == 3


def test_checkpoints_of_other_networks_are_refused():
    state = small_state()
    with pytest.raises(ConfigError, match=r"neck\.conv\.weight.*Mask2Former over a Swin"):
        converted(state | {"neck.conv.weight": torch.zeros(1)}, small_config())
    with pytest.raises(ConfigError, match=r"missing_keys': \['class_predictor\.bias'\]"):
        less = {k: v for k, v in state.items() if k != "panoptic_head.cls_embed.bias"}
        converted(less, small_config())
    with pytest.raises(ConfigError, match="Mask2Former"):
        converted(state, swin_s_config(**FACTS["mmdet3"]["config"] | {"num_queries": 21}))


# --- files ----------------------------------------------------------------------------------------


def test_checkpoint_with_its_training_history(tmp_path, monkeypatch):
    """Numpy numbers and mmengine's buffers in the metadata are let through, the tensors alone come back."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    history = type("HistoryBuffer", (), {"__module__": module.__name__, "mean": lambda self: 0})
    history.mean.__module__, history.mean.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = history
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    buffer = history()
    buffer.log = np.arange(3.0)
    buffer.methods = [history.mean]  # pickled as getattr(HistoryBuffer, "mean")
    meta = {"CLASSES": ("cat",), "best": np.float64(0.5), "loss": buffer, "seed": np.array([1, 2])}
    path = tmp_path / "a.pth"
    torch.save({"meta": meta, "state_dict": {"w": torch.ones(2)}}, path)
    monkeypatch.delitem(sys.modules, module.__name__)
    found = read_checkpoint(path)
    assert found.keys() == {"w"} and found["w"].tolist() == [1, 1]
    torch.save({"w": torch.ones(3)}, path)
    assert read_checkpoint(path)["w"].tolist() == [1, 1, 1]


class Wicked:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def test_files_that_ask_for_more_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": Wicked()}, path)
    with pytest.raises(ConfigError, match=r"a\.pth cannot be read.*exec.*fetch it again"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps({"state_dict": 1})[:-3])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_checkpoint(path)
    for content in ({"state_dict": {}}, {"epoch": 3}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(ConfigError, match="no state dict"):
            read_checkpoint(path)


PUBLISHED = (
    ("swin.embeddings.", "embeddings."),
    ("swin.encoder.", "encoder."),
    ("attention.q_proj", "attention.self.query"),
    ("attention.k_proj", "attention.self.key"),
    ("attention.v_proj", "attention.self.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("attention.relative_position_bias.relative", "attention.self.relative"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)


def test_the_hubs_names_are_read(tmp_path, network):
    """As transformers 4 wrote them, before the Swin of transformers 5 was renamed."""
    state = {}
    for name, tensor in network.state_dict().items():
        for new, old in PUBLISHED if "pixel_level_module.encoder." in name else ():
            name = name.replace(new, old)
        state[name] = tensor.contiguous()
    assert len(state) == len(network.state_dict())
    torch.save(state, tmp_path / "pytorch_model.bin")
    loaded = load_hub(tmp_path / "pytorch_model.bin", small_config()).state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded[name], tensor) or name.endswith(UNUSED), name
    del state["class_predictor.bias"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"not those of.*class_predictor\.bias"):
        load_hub(tmp_path / "pytorch_model.bin", small_config())


# --- preprocessing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((384, 640), (800, 1333), (800, 1344)),
        ((100, 1000), (133, 1333), (160, 1344)),
        ((1024, 1024), (800, 800), (800, 800)),
    ],
)
def test_sizes(shape, size, padded):
    pixels, resized = network_input(np.zeros((*shape, 3), np.uint8))
    assert resized == size and pixels.shape == (1, 3, *padded)


@pytest.mark.parametrize(("pipeline", "fill"), [("mmdet2", 128), ("mmdet3", None)])
def test_a_plain_picture_and_what_fills_it_up(pipeline, fill):
    color = (200, 30, 90)
    image = np.full((30, 50, 3), color, np.uint8)
    pixels, (height, width) = network_input(image, pipeline, (100, 60))
    assert (height, width) == (60, 100)
    inside, outside = pixels[0, :, :60, :100], pixels[0, :, 60:, 100:]
    for channel, (value, mean, std) in enumerate(zip(color, MEAN, STD, strict=True)):
        assert inside[channel].numpy() == pytest.approx((value - mean) / std, abs=1e-6)
        wanted = 0 if fill is None else (fill - mean) / std
        assert outside[channel].numpy() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("pipeline", "tolerance"), [("mmdet2", 1), ("mmdet3", 1e-3)])
def test_resizing_is_bilinear_without_antialiasing(pipeline, tolerance):
    """In uint8 OpenCV rounds the weights as well as the result, which moves some pixels by a level."""
    image = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for scale in ((96, 64), (15, 10)):  # up and down
        pixels, (height, width) = network_input(image, pipeline, scale)
        grey = pixels[0, :, :height, :width].permute(1, 2, 0).numpy() * STD + MEAN
        assert np.abs(grey - slow_bilinear(image, height, width)).max() <= tolerance


def slow_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Four neighbours of each pixel's centre, edges repeated."""
    out = np.zeros((height, width, 3))
    for i in range(height):
        for j in range(width):
            y = np.clip((i + 0.5) * image.shape[0] / height - 0.5, 0, image.shape[0] - 1)
            x = np.clip((j + 0.5) * image.shape[1] / width - 0.5, 0, image.shape[1] - 1)
            top, left = int(y), int(x)
            below, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            dy, dx = y - top, x - left
            upper = (1 - dx) * image[top, left] + dx * image[top, right]
            lower = (1 - dx) * image[below, left] + dx * image[below, right]
            out[i, j] = (1 - dy) * upper + dy * lower
    return out


# --- objects --------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 7))
def test_tight_boxes(seed, height, width):
    masks = np.random.default_rng(seed).random((3, height, width)) < 0.2
    boxes = tight_boxes(torch.from_numpy(masks)).numpy()
    for mask, box in zip(masks, boxes, strict=True):
        ys, xs = np.nonzero(mask)
        edges = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(ys) else [0, 0, 0, 0]
        assert box.tolist() == edges


def test_one_object_by_hand():
    """One sure query over the left half; its score is the class's chance times the mask's certainty."""
    logits = torch.full((1, 81), -20.0)
    logits[0, CLASSES.index("cat")] = 20
    masks = torch.full((1, 4, 4), -3.0)
    masks[0, :, :2] = 3
    found = instances(logits, masks, padded=(4, 4), resized=(4, 4), original=(4, 4))
    told = found.detections(CLASSES, floor=0.5)
    assert list(told.boxes) == ["cat"]
    certainty = 1 / (1 + np.exp(-3))
    assert told.boxes["cat"][0].tolist() == pytest.approx([0, 0, 2, 4, certainty], abs=1e-6)
    assert told.masks["cat"][0].tolist() == [[True, True, False, False]] * 4


def test_one_query_may_be_several_objects_and_an_empty_mask_is_none():
    logits = torch.full((2, 81), -20.0)
    logits[0, [2, 5]] = 10
    logits[1, 7] = 10
    masks = torch.stack([torch.full((4, 4), 2.0), torch.full((4, 4), -2.0)])
    found = instances(logits, masks, padded=(4, 4), resized=(4, 4), original=(4, 4))
    best = {int(label): i for i, label in enumerate(found.labels[:3])}
    assert best.keys() == {2, 5, 7}
    assert found.scores[best[2]] == pytest.approx(0.5 / (1 + np.exp(-2)), abs=1e-5)
    assert found.scores[best[7]] == 0 and found.boxes[best[7]].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("seed", [0, 1])
def test_instances_against_a_slow_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(6, 81, generator=generator)
    masks = 3 * torch.randn(6, 8, 16, generator=generator)
    sizes = {"padded": (32, 64), "resized": (30, 50), "original": (15, 25)}
    found = instances(logits, masks, **sizes)
    chances = logits.softmax(-1)[:, :80]
    pairs = sorted((float(chances[q, c]), q, c) for q in range(6) for c in range(80))[:-101:-1]
    assert found.labels.tolist() == [c for _, _, c in pairs]
    for i, (chance, query, _) in enumerate(pairs):
        large = nn.functional.interpolate(masks[query][None, None], (32, 64), mode="bilinear")
        own = nn.functional.interpolate(large[:, :, :30, :50], (15, 25), mode="bilinear")[0, 0]
        inside = own[own > 0].sigmoid()
        score = chance * float(inside.sum() / (len(inside) + 1e-6))
        assert float(found.scores[i]) == pytest.approx(score, rel=1e-5)
        assert torch.equal(found.masks[i], own > 0)


def test_detections_leave_faint_objects_out(network, picture):
    every = Mask2FormerDetector(network, scale=(96, 64), floor=0).detect(picture[None])[0]
    assert sum(map(len, every.boxes.values())) == 100
    scores = np.concatenate([boxes[:, 4] for boxes in every.boxes.values()])
    floor = float(np.median(scores))
    some = Mask2FormerDetector(network, scale=(96, 64), floor=floor).detect(picture[None])[0]
    assert sum(map(len, some.boxes.values())) == (scores >= np.float32(floor)).sum()
    assert all(len(some.masks[name]) == len(boxes) for name, boxes in some.boxes.items())


# --- the detector ---------------------------------------------------------------------------------


def test_swapped_channels_are_another_picture(network, picture):
    right = Mask2FormerDetector(network, scale=(96, 64))
    swapped = Mask2FormerDetector(network, scale=(96, 64), channel_order="bgr")
    a, b = right.instances(picture), swapped.instances(picture)
    assert not torch.equal(a.scores, b.scores)
    assert torch.equal(swapped.instances(picture[..., ::-1]).scores, a.scores)


def test_an_answer_does_not_depend_on_the_batch(network, picture):
    detector = Mask2FormerDetector(network, scale=(96, 64), floor=0)
    images = np.stack([picture, picture[::-1], 255 - picture])
    before = images.copy()
    together = detector.detect(images)
    alone = [detector.detect(image[None])[0] for image in images]
    assert np.array_equal(images, before)
    for one, other in zip(together, alone, strict=True):
        assert one.boxes.keys() == other.boxes.keys()
        assert all(np.array_equal(one.boxes[name], other.boxes[name]) for name in one.boxes)
    assert detector.detect(images[:0]) == []


def test_half_precision_is_near(network, picture):
    full = Mask2FormerDetector(network, scale=(96, 64)).instances(picture)
    half = Mask2FormerDetector(network, scale=(96, 64), dtype="bfloat16").instances(picture)
    difference = (full.scores.sort().values - half.scores.sort().values).abs().max()
    assert 0 < difference < 0.03  # bfloat16 keeps 8 bits, and CPUs round its products differently
    with pytest.raises(ConfigError, match="'float8' is none of float32"):
        Mask2FormerDetector(network, dtype="float8")


# --- mmdet's own numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("check", certify._DETECTOR, ids=("mmdet2", "mmdet3"))
def test_small_network_equals_mmdet(check):
    found = list(check(GOLDEN))
    assert len(found) == 14
    for each in found:
        assert each.passed, each


@pytest.mark.slow
@pytest.mark.full_size
def test_published_size_equals_mmdet():
    found = list(certify.full("geneval@official", GOLDEN))
    assert len(found) == 6
    for each in found:
        assert each.passed, each


def test_golden_is_told_apart_where_it_is_compared():
    for kind in ("mmdet2", "mmdet3"):
        for name in certify.SMALL:
            stored = certify._arrays(GOLDEN, kind, f"small/{name}/")
            assert certify.apart(stored["labels"], stored["scores"]).sum() >= 30
    labels, scores = np.array([1, 1, 1, 2]), np.array([0.1, 0.10001, 0.3, 0.30001])
    assert certify.apart(labels, scores).tolist() == [False, False, True, True]
