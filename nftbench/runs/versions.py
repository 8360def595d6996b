"""Versions of what moves a number, for the files of evaluations and trainings."""

import platform
from importlib.metadata import PackageNotFoundError, version

import nftbench

PACKAGES = ("diffusers", "numpy", "onnxruntime", "rapidocr", "torch", "torchvision", "transformers")
NOT_INSTALLED = "not installed"


def versions() -> dict[str, str]:
    """Package -> version, this one's and Python's among them."""
    return {"nftbench": nftbench.__version__, "python": platform.python_version()} | {
        p: _version(p) for p in PACKAGES
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED
