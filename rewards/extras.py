"""Optional packages: which rewards need them, and what `pip install 'nftbench[NAME]'` brings."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """One optional dependency of the distribution."""

    module: str
    """What it makes importable."""
    rewards: tuple[str, ...]
    """Keys of the rewards that need it."""


EXTRAS = {
    "mmdet": Extra(module="mmdet", rewards=("geneval@mmdet",)),
    "paddle": Extra(
        module="paddleocr",
        rewards=(
            "ocr@paddleocr",
            "ocr@paddleocr-nfkc",
            "ocr@paddleocr-x4",
            "ocr@pp3",
            "ocr@pp3-nfkc",
        ),
    ),
    "tesseract": Extra(
        module="pytesseract",
        rewards=("ocr@tesseract", "ocr@tesseract-nfkc", "ocr@tesseract-x4"),
    ),
}
"""By name."""


def extra_of(key: str) -> str:
    """Name of the extra that a reward needs; empty where it needs none."""
    return next((name for name, extra in EXTRAS.items() if key in extra.rewards), "")
