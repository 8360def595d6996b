"""OCR engines behind one call: a picture in, its lines of text in reading order out."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Protocol

import numpy as np

from rewards.base import ConfigError, MissingExtra, Weight
from rewards.ocr.models import (
    PP3_MODELS,
    PP29_DETECTOR,
    PP29_RECOGNISER,
    WHEEL_MODELS,
    paddle_folders,
    ppocr_models,
)
from rewards.weights.pull import weight_file

MIN_CONFIDENCE = 0.5
"""Lines below it are dropped: the `drop_score` of PaddleOCR 2.9.1, which Flow-GRPO and DiffusionNFT
leave as it is."""
MOST_COPIES = 8
"""Engines read at most as many pictures at a time: a copy of one takes about 100 MiB."""
MIN_SIDE = 256
"""Pictures with a shorter side are enlarged to it for detection.

Measured on 40 signs of 64 px: clean ones are all read at 256 and at rapidocr's own 736, which takes
5 times as long; blurred by 1.3 px the mean reward is 0.99 at 256 and 0.86 at 736.
"""


class OcrFailure(RuntimeError):
    """The engine could not read this picture; reading nothing is no failure."""


@dataclass(frozen=True, slots=True)
class TextLine:
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
    files: ClassVar[tuple[Weight, ...]]
    licence: ClassVar[str]
    at_once: int = 1
    """How many threads may call `read` at a time."""

    def read(self, image: np.ndarray) -> list[TextLine]:
        """Lines of one picture, top to bottom, then left to right; none where there is no text.

        Args:
            image: uint8 RGB (H, W, 3).

        Raises:
            OcrFailure: the engine broke on this picture.
        """
        ...


class RapidOcr(OcrEngine):
    """PP-OCRv6 small by rapidocr on onnxruntime; models are in its wheel, nothing is downloaded.

    Reads `OMP_NUM_THREADS` pictures at a time where that is set, else one a core; text does not depend on it.
    """

    name = "rapidocr"
    summary = "rapidocr (PP-OCRv6 small)"
    weights = WHEEL_MODELS
    files = ()
    licence = "Apache-2.0"

    def __init__(self) -> None:
        self.at_once = _threads()
        self._engine = _Copies(
            partial(_rapidocr, *ppocr_models(), {"Det.limit_side_len": MIN_SIDE})
        )

    def read(self, image: np.ndarray) -> list[TextLine]:
        """Lines of one picture: see `OcrEngine.read`."""
        return _rapidocr_lines(self._engine, _bgr(image))


class PpOcr29(OcrEngine):
    """The models and settings of PaddleOCR 2.9.1 by rapidocr on onnxruntime.

    Quirk: the picture's red and blue are taken for one another, as Flow-GRPO and DiffusionNFT hand it over.

    Source: PaddlePaddle/PaddleOCR@v2.9.1 tools/infer/utility.py, predict_det.py, predict_rec.py;
    NVlabs/DiffusionNFT@24af555 flow_grpo/ocr.py.
    Differs: of lines less than 10 pixels apart the order can be another one.
    """

    name = "pp2.9"
    summary = "PaddleOCR 2.9 (en_PP-OCRv3_det, en_PP-OCRv4_rec; red and blue swapped)"
    weights = tuple(f"{w.url} sha256:{w.sha256}" for w in (PP29_DETECTOR, PP29_RECOGNISER))
    files = (PP29_DETECTOR, PP29_RECOGNISER)
    licence = "Apache-2.0"
    settings: ClassVar[Mapping[str, Any]] = {
        "Global.use_preprocess_img": False,
        "Global.use_vertical_padding": False,
        "Det.limit_type": "max",
        "Det.limit_side_len": 960,
        "Det.mean": [0.485, 0.456, 0.406],
        "Det.std": [0.229, 0.224, 0.225],
        "Det.thresh": 0.3,
        "Det.box_thresh": 0.6,
        "Det.unclip_ratio": 1.5,
        "Det.use_dilation": False,
        "Det.score_mode": "fast",
    }
    """`det_limit_side_len`, `det_db_thresh`, ... of PaddleOCR 2.9.1, in rapidocr's names."""

    def __init__(self, detector: Path | None = None, recogniser: Path | None = None) -> None:
        """Load the networks.

        Args:
            detector: another file than the pinned one.
            recogniser: the same.
        """
        key = f"ocr@{self.name}"
        self.at_once = _threads()
        self._engine = _Copies(
            partial(
                _rapidocr,
                detector or weight_file(PP29_DETECTOR, reward=key),
                recogniser or weight_file(PP29_RECOGNISER, reward=key),
                self.settings,
            )
        )

    def read(self, image: np.ndarray) -> list[TextLine]:
        """Lines of one picture: see `OcrEngine.read`."""
        return _rapidocr_lines(self._engine, np.ascontiguousarray(image))


class PaddleOcr(OcrEngine):
    """The same models by PaddleOCR 3 on onnxruntime: no paddlepaddle, nothing is downloaded.

    Its own resizing, box and batch code stand between the models and the text, so values differ a
    little from `RapidOcr`.
    """

    name = "paddleocr"
    summary = "PaddleOCR 3 (PP-OCRv6 small)"
    weights = WHEEL_MODELS
    files = ()
    licence = "Apache-2.0"

    def __init__(self) -> None:
        paddleocr = _import_paddleocr(self.name)
        with TemporaryDirectory(prefix="nftbench-paddle-") as folder:
            detector, recogniser = paddle_folders(Path(folder))
            self._engine = paddleocr(
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

    def read(self, image: np.ndarray) -> list[TextLine]:
        """Lines of one picture: see `OcrEngine.read`."""
        return _paddle_lines(self._engine, image)


class PaddleOcr3(OcrEngine):
    """PaddleOCR 3 with its own defaults, on onnxruntime.

    It turns and unwarps the picture as if it were a page, so boxes are those of the unwarped one, and it drops no line
    for its confidence.

    Source: PaddlePaddle/PaddleX@v3.7.2 paddlex/configs/pipelines/OCR.yaml.
    Differs: the models are pinned and are never downloaded by PaddleOCR itself.
    """

    name = "pp3"
    summary = "PaddleOCR 3 with its own defaults (PP-OCRv6 medium)"
    files = tuple(file for pair in PP3_MODELS.values() for file in pair)
    weights = tuple(f"{file.url} sha256:{file.sha256 or 'not known'}" for file in files)
    licence = "Apache-2.0"

    def __init__(self, folders: Mapping[str, Path] | None = None) -> None:
        """Load the networks.

        Args:
            folders: step, as in `PP3_MODELS`, -> folder of another model; steps left out are not done.
        """
        paddleocr = _import_paddleocr(self.name)
        folders = _pp3_folders() if folders is None else folders
        optional = ("doc_orientation_classify", "doc_unwarping", "textline_orientation")
        settings: dict[str, Any] = {f"use_{s}": False for s in optional if s not in folders}
        for step, folder in folders.items():
            settings[f"{step}_model_name"] = folder.name.removesuffix("_onnx")
            settings[f"{step}_model_dir"] = str(folder)
        self._engine = paddleocr(engine="onnxruntime", device="cpu", **settings)

    def read(self, image: np.ndarray) -> list[TextLine]:
        """Lines of one picture: see `OcrEngine.read`."""
        return _paddle_lines(self._engine, image)


class Tesseract(OcrEngine):
    """Tesseract by pytesseract: weaker on text in scenes, but independent of PP-OCR."""

    name = "tesseract"
    summary = "Tesseract (sparse text)"
    weights = ("the tesseract-ocr package's English model",)
    files = ()
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

    def read(self, image: np.ndarray) -> list[TextLine]:
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
            TextLine(text, float(conf) / 100, (x, y, x + width, y + height))
            for text, conf, x, y, width, height in rows
            if text.strip()
        ]
        return [word for word in words if word.confidence >= MIN_CONFIDENCE]


# --- rapidocr and PaddleOCR -----------------------------------------------------------------------


class _Copies:
    """One engine of rapidocr as often as pictures are read at a time: an engine keeps state while it reads.

    Each computes in one thread. On these small networks several threads cost more than they give, and a picture a
    core gives all of them (tests/performance/reading.py).
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self.first = build()  # what cannot be built is said now
        self._idle.put(self.first)

    def __call__(self, picture: np.ndarray) -> Any:
        """What the engine finds."""
        try:
            engine = self._idle.get_nowait()
        except Empty:
            engine = self._build()
        try:
            return engine(picture)
        finally:
            self._idle.put(engine)


def _rapidocr(detector: Path, recogniser: Path, settings: Mapping[str, Any]) -> Any:
    """An engine of rapidocr on two files, without the step that turns lines round."""
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.use_cls": False,
            "Global.log_level": "error",
            "Global.text_score": MIN_CONFIDENCE,
            "Det.model_path": str(detector),
            "Rec.model_path": str(recogniser),
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            **settings,
        }
    )


def _rapidocr_lines(engine: Any, picture: np.ndarray) -> list[TextLine]:
    """Lines of a picture as rapidocr shall see it, uint8 (H, W, 3)."""
    from rapidocr.inference_engine.onnxruntime.main import ONNXRuntimeError
    from rapidocr.utils.process_img import ResizeImgError

    try:
        out = engine(picture)
    except (ONNXRuntimeError, ResizeImgError, *_ppocr_failures()) as error:
        raise OcrFailure(_last_line(error)) from error
    texts = getattr(out, "txts", None) or ()  # boxes alone come back where none could be read
    rows = zip(texts, out.scores, out.boxes, strict=True) if texts else ()
    return [_line(*row) for row in rows]


def _import_paddleocr(variant: str) -> Any:
    """The class `PaddleOCR`.

    Raises:
        MissingExtra: it is not installed.
    """
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")  # no look at hubs
    try:
        from paddleocr import PaddleOCR
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"ocr@{variant} needs PaddleOCR ({error}); pip install 'nftbench[paddle]'."
        ) from error
    return PaddleOCR


def _paddle_lines(engine: Any, image: np.ndarray) -> list[TextLine]:
    """Lines of a picture, uint8 RGB (H, W, 3), by PaddleOCR 3."""
    try:
        (page,) = engine.predict(_bgr(image))
    except _ppocr_failures() as error:
        raise OcrFailure(_last_line(error)) from error
    rows = zip(page["rec_texts"], page["rec_scores"], page["rec_polys"], strict=True)
    return [_line(*row) for row in rows]


def _pp3_folders() -> dict[str, Path]:
    """Fetched folders of PaddleOCR 3's own models."""
    paths = {
        step: [weight_file(file, reward="ocr@pp3").parent for file in pair]
        for step, pair in PP3_MODELS.items()
    }
    return {step: folders[0] for step, folders in paths.items()}


def _line(text: str, confidence: float, corners: Any) -> TextLine:
    xs, ys = np.asarray(corners, dtype=float).T
    box = (float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max()))
    return TextLine(text, float(confidence), box)


def _bgr(image: np.ndarray) -> np.ndarray:
    """The channel order in which PP-OCR takes arrays."""
    return np.ascontiguousarray(image[..., ::-1])


def _ppocr_failures() -> tuple[type[Exception], ...]:
    """What OpenCV and onnxruntime raise on a picture they cannot work on."""
    import cv2
    from onnxruntime.capi import onnxruntime_pybind11_state as ort  # pyright: ignore[reportAttributeAccessIssue]

    return (cv2.error, ort.Fail, ort.InvalidArgument, ort.RuntimeException, RuntimeError)


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _threads() -> int:
    """Pictures to read at a time."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a list: one a nesting level
    cores = int(wanted) if wanted.isdecimal() else os.cpu_count() or 1
    return max(1, min(cores, MOST_COPIES))
