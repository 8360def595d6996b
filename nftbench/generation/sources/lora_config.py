"""peft's configuration of a LoRA, from beside its weights or from their header: what it says of the strength."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY

from nftbench.parsing import parse_json
from rewards.base import ConfigError

PEFT_CONFIG = "adapter_config.json"
CONFIG_BYTES = 1_000_000
"""Bound of a configuration; real ones have 2 kB."""

CHANGE_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Beginnings of peft's `init_lora_weights` that take the adapter's first value out of the base's weights; `eva`,
`orthogonal`, `gaussian` and `mica` leave them."""

BEYOND_FACTORS = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "use_bdlora",
)  # fmt: skip
"""Fields that make of peft's LoRA another adapter than two factors a layer, whatever tensors are left of it."""
SWITCHES = ("lora_bias", "use_dora", "use_rslora")
LARGEST = 3.4e38
"""Of float32."""


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in a file.

    Raises:
        ConfigError: it is not one, is of another kind of adapter, or states a strength that is not a number.
    """
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise ValueError(f"larger than {CONFIG_BYTES} bytes")
        return _sound(parse_json(path.read_text(encoding="utf-8")), str(path))
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"{path} is not a peft configuration ({error}); save the LoRA again"
        ) from None


def header_config(header: Mapping[str, str], source: str) -> dict[str, Any]:
    """The configuration in a file's header, where diffusers writes it, each field behind its part's name.

    Raises:
        ConfigError: as `read_config`.
    """
    text = header.get(LORA_ADAPTER_METADATA_KEY)
    if not text:
        return {}
    try:
        return _sound(parse_json(text), source)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(
            f"{source}: its header is not a peft configuration ({error}); save the LoRA again"
        ) from None


def _sound(config: Any, source: str) -> dict[str, Any]:
    """The same, checked.

    Raises:
        ValueError: what is wrong with it.
        ConfigError: it is of another kind of adapter, or was trained on another base.
    """
    if not isinstance(config, dict):
        raise ValueError(f"a {type(config).__name__}, not an object")
    for key, value in config.items():
        field = key.rpartition(".")[2]
        if field == "peft_type" and value != "LORA":
            raise ConfigError(f"{source} is of a {value} adapter; expected LORA")
        if field == "lora_alpha" and value is not None:
            _check_number(key, value)
        if field == "alpha_pattern" and value is not None:
            _check_pattern(key, value)
        if field == "init_lora_weights":
            _refuse_changed_base(value, source)
        if field in BEYOND_FACTORS and value:
            raise ConfigError(
                f"{source}: {field} makes it another adapter than a LoRA of two factors a layer; save it merged into "
                "its network"
            )
        if field in SWITCHES and not isinstance(value, bool | None):
            raise ValueError(f"{key} is {str(value)[:40]!r}; expected true or false")
    return config


def _refuse_changed_base(init: Any, source: str) -> None:
    """On the plain base such an adapter is a policy that nobody trained."""
    if isinstance(init, str) and init.lower().startswith(CHANGE_THE_BASE):
        raise ConfigError(
            f"{source}: its adapter also changes the base (init_lora_weights={init[:40]!r}); save it with peft's "
            "path_initial_model_for_weight_conversion, or merged into its network"
        )


def _check_number(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and abs(value) <= LARGEST):
        raise ValueError(f"{name} is {str(value)[:40]!r}; expected a finite number")


def _check_pattern(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is a {type(value).__name__}; expected numbers by module")
    for module, alpha in value.items():
        _check_number(f"{name}[{module[:80]!r}]", alpha)
        try:
            re.compile(module)
        except re.error as error:
            raise ValueError(
                f"{name}: {module[:80]!r} is not a regular expression, {error}"
            ) from None
