"""The PP-OCR networks: those in rapidocr's wheel, PaddleOCR 2.9's English ones, those of PaddleOCR 3's own pipeline."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewards.base import Weight
from rewards.weights.pull import packaged

_DETECTOR = (
    "models/PP-OCRv6_det_small.onnx",
    "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
)
_RECOGNISER = (
    "models/PP-OCRv6_rec_small.onnx",
    "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
)
WHEEL_MODELS = tuple(
    f"rapidocr wheel {name} sha256 {digest}" for name, digest in (_DETECTOR, _RECOGNISER)
)

_RAPIDOCR = "https://www.modelscope.cn/models/RapidAI/RapidOCR/resolve/v3.10.0/onnx/PP-OCRv4"
PP29_DETECTOR = Weight(
    name="pp-ocr-2.9/en_PP-OCRv3_det_mobile.onnx",
    url=f"{_RAPIDOCR}/det/en_PP-OCRv3_det_mobile.onnx",
    sha256="ea07c15d38ac40cd69da3c493444ec75b44ff23840553ff8ba102c1219ed39c2",
    size=2_421_707,
    licence="Apache-2.0",
)
PP29_RECOGNISER = Weight(
    name="pp-ocr-2.9/en_PP-OCRv4_rec_mobile.onnx",
    url=f"{_RAPIDOCR}/rec/en_PP-OCRv4_rec_mobile.onnx",
    sha256="e8770c967605983d1570cdf5352041dfb68fa0c21664f49f47b155abd3e0e318",
    size=7_653_044,
    licence="Apache-2.0",
)
"""RapidOCR's conversions of `en_PP-OCRv3_det` and `en_PP-OCRv4_rec`, which PaddleOCR 2.9 takes for `lang="en"`.

Source: PaddlePaddle/PaddleOCR@v2.9.1 paddleocr.py `MODEL_URLS`; RapidAI/RapidOCR@v3.10.0 default_models.yaml.
"""


def _folder(
    model: str, revision: str, network: tuple[str, int], steps: tuple[str, int]
) -> tuple[Weight, Weight]:
    """Network and steps of one model, (sha256, bytes) each."""
    repository = f"{model}_onnx"
    weights = [
        Weight(
            name=f"{repository}/{file}",
            url=f"hf://PaddlePaddle/{repository}@{revision}/{file}",
            sha256=sha256,
            size=size,
            licence="Apache-2.0",
        )
        for file, (sha256, size) in (("inference.onnx", network), ("inference.yml", steps))
    ]
    return weights[0], weights[1]


PP3_MODELS = {
    "doc_orientation_classify": _folder(
        "PP-LCNet_x1_0_doc_ori",
        "7330ab7039123e46af2dc03154b9969aa412c61d",
        ("af9a0a4f317ff0709ce752067807f819cb15d883f8ecad89f28df1c6ee2d9c92", 6_788_069),
        ("", 766),
    ),
    "doc_unwarping": _folder(
        "UVDoc",
        "3bcf535371727d11e783101f79a504c68848aae3",
        ("54cab30dc2cf347b4f3d6971c833b1c3d84f5ef17280f1f6d15796bff20e63d6", 31_684_150),
        ("be83d537b358f3ff87740e77e14a83ee9e9a7bb215c33d091b69e8bd5904fe39", 330),
    ),
    "text_detection": _folder(
        "PP-OCRv6_medium_det",
        "61323801669c338b7891481ec7bac61ce31b576a",
        ("eb13b44b25bb36f89528b68720af8a61d9cf381176107f465db1757b65d086e1", 62_032_837),
        ("7298d5ead546584af2504d03355f881ac7a7bc0eb1e282d3e159277c1d0af871", 886),
    ),
    "textline_orientation": _folder(
        "PP-LCNet_x1_0_textline_ori",
        "7fdcf3cf7061163eda7183b224aa334bd33068f7",
        ("38aa97cd4be591e0ad304e659f07ba30d946f27a63315433f6659c69c8778345", 6_777_816),
        ("8d5120d0e1a30a9df7ed46aa9119da3796ed066777089d1c1d705f132d5e90f9", 735),
    ),
    "text_recognition": _folder(
        "PP-OCRv6_medium_rec",
        "50c7eacafc52fa7bcf4194e8cd08e46f8558504b",
        ("9c09abf0957f7968c7586464b7397b84ad2387a0497a351af40e9acc71b673ba", 76_554_979),
        ("991b700facf5b50a7de193468207d5f4255b538dde0d312ae3b7c7a9b6873129", 150_580),
    ),
}
"""Step of PaddleOCR 3.7's pipeline -> the model that it takes by itself, as PaddlePaddle publishes it for onnxruntime.

Source: PaddlePaddle/PaddleX@v3.7.2 paddlex/configs/pipelines/OCR.yaml.
"""


def ppocr_models() -> tuple[Path, Path]:
    """Detector and recogniser of the rapidocr wheel, digests checked."""
    remedy = "pip install 'rapidocr==3.10.0'"
    detector, recogniser = (
        packaged("rapidocr", *model, remedy=remedy) for model in (_DETECTOR, _RECOGNISER)
    )
    return detector, recogniser


# --- PaddleOCR wants a folder a model: network in inference.onnx, its steps in inference.yml ---


def paddle_folders(root: Path) -> tuple[Path, Path]:
    """Folders of the wheel's detector and recogniser as PaddleOCR 3 wants them, written below `root`."""
    from onnxruntime import InferenceSession

    detector, recogniser = ppocr_models()
    metadata = InferenceSession(recogniser, providers=["CPUExecutionProvider"]).get_modelmeta()
    half = [0.5, 0.5, 0.5]
    return (
        _paddle_folder(
            root / "PP-OCRv6_small_det",
            detector,
            [
                {"DetResizeForTest": {"resize_long": 960}},
                {"NormalizeImage": {"mean": half, "std": half, "scale": 1 / 255, "order": "hwc"}},
                {"ToCHWImage": None},
            ],
            {
                "name": "DBPostProcess",
                "thresh": 0.3,
                "box_thresh": 0.5,
                "max_candidates": 1000,
                "unclip_ratio": 1.6,
                "use_dilation": True,
            },
        ),
        _paddle_folder(
            root / "PP-OCRv6_small_rec",
            recogniser,
            [{"RecResizeImg": {"image_shape": [3, 48, 320]}}],
            {
                "name": "CTCLabelDecode",
                "character_dict": metadata.custom_metadata_map["character"].splitlines(),
            },
        ),
    )


def _paddle_folder(
    folder: Path, network: Path, steps: Sequence[dict[str, Any]], after: dict[str, Any]
) -> Path:
    folder.mkdir()
    shutil.copyfile(network, folder / "inference.onnx")
    decode = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
    config = {
        "Global": {"model_name": folder.name},
        "PreProcess": {"transform_ops": [decode, *steps]},
        "PostProcess": after,
    }
    (folder / "inference.yml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return folder
