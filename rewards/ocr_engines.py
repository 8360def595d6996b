"""OCR engines behind one call: a picture in, its lines of text in reading order out."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Protocol

import numpy as np

from rewards.base import ConfigError, MissingExtra
from rewards.weights import packaged

MIN_CONFIDENCE = 0.5
"""Lines below it are dropped: the `drop_score` of PaddleOCR 2.9.1, which Flow-GRPO and DiffusionNFT
leave as it is."""
MIN_SIDE = 256
"""Pictures with a shorter side are enlarged to it for detection.

Measured on 40 signs of 64 px: clean ones are all read at 256 and at rapidocr's own 736, which takes
5 times as long; blurred by 1.3 px the mean reward is 0.99 at 256 and 0.86 at 736.
"""

_DETECTOR = (
    "models/PP-OCRv6_det_small.onnx",
    "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
)
_RECOGNISER = (
    "models/PP-OCRv6_rec_small.onnx",
    "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
)
_MODELS = tuple(
    f"rapidocr wheel {name} sha256 {digest}" for name, digest in (_DETECTOR, _RECOGNISER)
)


class OcrFailure(RuntimeError):
    """The engine could not read this picture; reading nothing is no failure."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text found in a picture."""

    text: str
    confidence: float
    """0-1; lines at or below 0 do not count."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the picture that was read."""


class OcrEngine(Protocol):
    """Reads text. Building one may raise `MissingExtra`, `MissingWeights` or `ConfigError`."""

    name: ClassVar[str]
    summary: ClassVar[str]
    weights: ClassVar[tuple[str, ...]]
    licence: ClassVar[str]

    def read(self, image: np.ndarray) -> list[Line]:
        """Lines of one picture, top to bottom, then left to right; none where there is no text.

        Args:
            image: uint8 RGB (H, W, 3).

        Raises:
            OcrFailure: the engine broke on this picture.
        """
        ...


class RapidOcr:
    """PP-OCRv6 small by rapidocr on onnxruntime; models are in its wheel, nothing is downloaded.

    Uses `OMP_NUM_THREADS` threads where that is set, else all cores; text does not depend on it.
    """

    name = "rapidocr"
    summary = "rapidocr (PP-OCRv6 small)"
    weights = _MODELS
    licence = "Apache-2.0"

    def __init__(self) -> None:
        detector, recogniser = _ppocr_models()
        from rapidocr import RapidOCR

        self._engine = RapidOCR(
            params={
                "Global.use_cls": False,
                "Global.log_level": "error",
                "Global.text_score": MIN_CONFIDENCE,
                "Det.model_path": str(detector),
                "Det.limit_side_len": MIN_SIDE,
                "Rec.model_path": str(recogniser),
                "EngineConfig.onnxruntime.intra_op_num_threads": _threads(),
            }
        )

    def read(self, image: np.ndarray) -> list[Line]:
        """Lines of one picture: see `OcrEngine.read`."""
        from rapidocr.inference_engine.onnxruntime.main import ONNXRuntimeError

        try:
            out = self._engine(_bgr(image))
        except (ONNXRuntimeError, *_ppocr_failures()) as error:
            raise OcrFailure(_last_line(error)) from error
        texts = getattr(out, "txts", None) or ()  # boxes alone come back where none could be read
        rows = zip(texts, out.scores, out.boxes, strict=True) if texts else ()
        return [_line(*row) for row in rows]


class PaddleOcr:
    """The same models by PaddleOCR 3 on onnxruntime: no paddlepaddle, nothing is downloaded.

    Its own resizing, box and batch code stand between the models and the text, so values differ a
    little from `RapidOcr`.
    """

    name = "paddleocr"
    summary = "PaddleOCR 3 (PP-OCRv6 small)"
    weights = _MODELS
    licence = "Apache-2.0"

    def __init__(self) -> None:
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")  # no look at hubs
        try:
            from paddleocr import PaddleOCR
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"ocr@paddleocr needs PaddleOCR ({error}); pip install 'nftbench[paddle]'."
            ) from error
        with TemporaryDirectory(prefix="nftbench-paddle-") as folder:
            detector, recogniser = _paddle_folders(Path(folder))
            self._engine = PaddleOCR(
                engine="onnxruntime",
                device="cpu",
                text_detection_model_name=detector.name,
                text_detection_model_dir=str(detector),
                text_recognition_model_name=recogniser.name,
                text_recognition_model_dir=str(recogniser),
                use_doc_orientation_classify=False,
                use_doc_unwarping=False,
                use_textline_orientation=False,
                text_det_limit_side_len=MIN_SIDE,
                text_det_limit_type="min",
                text_rec_score_thresh=MIN_CONFIDENCE,
            )

    def read(self, image: np.ndarray) -> list[Line]:
        """Lines of one picture: see `OcrEngine.read`."""
        try:
            (page,) = self._engine.predict(_bgr(image))
        except _ppocr_failures() as error:
            raise OcrFailure(_last_line(error)) from error
        rows = zip(page["rec_texts"], page["rec_scores"], page["rec_polys"], strict=True)
        return [_line(*row) for row in rows]


class Tesseract:
    """Tesseract by pytesseract: weaker on text in scenes, but independent of PP-OCR."""

    name = "tesseract"
    summary = "Tesseract (sparse text)"
    weights = ("the tesseract-ocr package's English model",)
    licence = "Apache-2.0"

    def __init__(self) -> None:
        try:
            import pytesseract
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"ocr@tesseract needs pytesseract ({error}); pip install 'nftbench[tesseract]'."
            ) from error
        if shutil.which("tesseract") is None:
            raise ConfigError(
                "ocr@tesseract needs the tesseract program; apt install tesseract-ocr."
            )
        self._module = pytesseract

    def read(self, image: np.ndarray) -> list[Line]:
        """Words of one picture as lines: see `OcrEngine.read`."""
        try:
            data = self._module.image_to_data(
                image, config="--psm 11", output_type=self._module.Output.DICT
            )
        except RuntimeError as error:
            raise OcrFailure(_last_line(error)) from error
        names = ("text", "conf", "left", "top", "width", "height")
        rows = zip(*(data[name] for name in names), strict=True)
        words = [
            Line(text, float(conf) / 100, (x, y, x + width, y + height))
            for text, conf, x, y, width, height in rows
            if text.strip()
        ]
        return [word for word in words if word.confidence >= MIN_CONFIDENCE]


def _line(text: str, confidence: float, corners: Any) -> Line:
    xs, ys = np.asarray(corners, dtype=float).T
    edges = (xs.min(), ys.min(), xs.max(), ys.max())
    return Line(text, float(confidence), tuple(map(float, edges)))


def _bgr(image: np.ndarray) -> np.ndarray:
    """The channel order in which PP-OCR takes arrays."""
    return np.ascontiguousarray(image[..., ::-1])


def _ppocr_failures() -> tuple[type[Exception], ...]:
    """What OpenCV and onnxruntime raise on a picture they cannot work on."""
    import cv2
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    return (cv2.error, ort.Fail, ort.InvalidArgument, ort.RuntimeException, RuntimeError)


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _threads() -> int:
    """Threads a network call may use; -1 leaves it to onnxruntime."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a list: one a nesting level
    return int(wanted) if wanted.isdecimal() else -1


def _ppocr_models() -> tuple[Path, Path]:
    """Detector and recogniser of the rapidocr wheel, digests checked."""
    remedy = "pip install 'rapidocr==3.10.0'"
    detector, recogniser = (
        packaged("rapidocr", *model, remedy=remedy) for model in (_DETECTOR, _RECOGNISER)
    )
    return detector, recogniser


# --- PaddleOCR wants a folder a model: network in inference.onnx, its steps in inference.yml ---


def _paddle_folders(root: Path) -> tuple[Path, Path]:
    from onnxruntime import InferenceSession

    detector, recogniser = _ppocr_models()
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
