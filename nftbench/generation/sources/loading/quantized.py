"""Weights of the denoiser in fewer bits, by the libraries that people use for it."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import PipelineQuantizationConfig

from rewards.base import ConfigError, MissingExtra

DENOISERS = ("transformer", "unet")
PACKAGES = {"nf4": "bitsandbytes", "int8": "torchao"}
"""Scheme -> the package that does it, which is an extra of the same name."""


def quantization(scheme: str, parts: Sequence[str], dtype: torch.dtype) -> Any:
    """How diffusers is told to quantise the denoiser while loading.

    Args:
        scheme: `nf4` or `int8` (weights alone).
        parts: names of the pipeline's parts.
        dtype: of what is computed.

    Raises:
        ConfigError: another scheme, or no denoiser.
        MissingExtra: its package is not installed.
    """
    if scheme not in PACKAGES:
        raise ConfigError(f"unknown quantisation {scheme!r}; expected {' or '.join(PACKAGES)}")
    need_package(PACKAGES[scheme])
    denoisers = [name for name in DENOISERS if name in parts]
    if not denoisers:
        raise ConfigError(f"nothing to quantise: expected a {' or '.join(DENOISERS)}")
    if scheme == "nf4":
        from diffusers import BitsAndBytesConfig

        how: Any = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    else:
        from diffusers import TorchAoConfig
        from torchao.quantization import Int8WeightOnlyConfig

        how = TorchAoConfig(Int8WeightOnlyConfig())
    mapping: dict[str, Any] = dict.fromkeys(denoisers, how)
    return PipelineQuantizationConfig(quant_mapping=mapping)


def need_package(package: str) -> None:
    """Refuse to begin without a quantisation package.

    Raises:
        MissingExtra: with the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(f"{package} is not installed: pip install 'nftbench[{package}]'")
