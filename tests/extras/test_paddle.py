"""OCR by real PaddleOCR 3; needs the extra [paddle]."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("paddleocr") is None:
    pytest.skip(
        "PaddleOCR is not installed: pip install 'nftbench[paddle]'", allow_module_level=True
    )

from nftbench.pocket.world import drawing, scenes
from rewards import load_reward
from rewards.base import MissingWeights, Prompt
from rewards.ocr import reward as ocr
from rewards.ocr.engines import PaddleOcr, PaddleOcr3
from rewards.ocr.models import paddle_folders
from rewards.ocr.reward import Ocr


@cache
def signs(count: int = 8):
    drawn = [scenes.random_scene(np.random.default_rng(i), "sign") for i in range(count)]
    prompts = [Prompt(id=str(i), text=scene.caption) for i, scene in enumerate(drawn)]
    return np.stack([drawing.render(scene) for scene in drawn]), prompts


def test_clean_signs_are_read():
    images, prompts = signs()
    reward = load_reward("ocr@paddleocr-x4")
    scores = reward.score(images, prompts)
    assert scores.values.mean() > 0.95
    assert reward.score(images[:4], prompts[4:]).values.mean() < 0.5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The small models of rapidocr's wheel, in PaddleOCR 3's own pipeline."""
    detector, recogniser = paddle_folders(tmp_path_factory.mktemp("paddle"))
    return {"text_detection": detector, "text_recognition": recogniser}


def test_pp3_reads_with_its_own_defaults(folders):
    engine = PaddleOcr3(folders)
    images, prompts = signs()
    scores = Ocr(engine, info=ocr.pp3.info, scale=4).score(images, prompts)
    assert scores.values.mean() > 0.9
    pipeline = engine._engine.paddlex_pipeline._pipeline
    assert pipeline.text_rec_score_thresh == 0
    assert (pipeline.text_det_limit_side_len, pipeline.text_det_limit_type) == (64, "min")


def test_pp3_keeps_faint_lines_that_the_other_variant_drops(folders):
    """Noise gives lines of low confidence; only a threshold of 0 keeps them."""
    noise = np.random.default_rng(3).integers(0, 256, (96, 256, 3), dtype=np.uint8)
    images = [noise, *(image.repeat(4, 0).repeat(4, 1) for image in signs()[0])]
    faint = PaddleOcr3(folders)
    found = [line.confidence for image in images for line in faint.read(image)]
    kept = [line.confidence for image in images for line in PaddleOcr().read(image)]
    assert found and all(confidence >= 0.5 for confidence in kept)


def test_pp3_needs_its_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("NFTBENCH_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"nftbench rewards pull ocr@pp3"):
        load_reward("ocr@pp3")


def test_pp3_names_models_by_their_folders():
    for first, second in zip(PaddleOcr3.files[::2], PaddleOcr3.files[1::2], strict=True):
        assert Path(first.name).parent == Path(second.name).parent
        assert (Path(first.name).name, Path(second.name).name) == (
            "inference.onnx",
            "inference.yml",
        )
