"""Names in LoRAs' files: which module of a pipeline each means, whoever wrote them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor, nn

from rewards.base import ConfigError

FACTOR = re.compile(
    r"(?P<module>.+?)[._](?P<factor>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_down|lora_up|"
    r"lora\.down|lora\.up|lora_linear_layer\.down|lora_linear_layer\.up|lora_magnitude_vector)"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[\w-]+))?(?:\.(?P<what>weight|bias))?"
)
ALPHA = re.compile(r"(?P<module>.+)\.alpha")
_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.")
_WRAPPERS = re.compile(
    r"^(?:module\.)+|(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""What compiling, sharding and training on several GPUs put into the names of a network's modules."""
_FLAT = {
    "lora_unet_": None,
    "lora_transformer_": None,
    "lycoris_": None,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
}
"""Prefixes of names whose dots became underscores; None is the denoiser."""


Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def unwrapped(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors by their names in the bare network.

    Raises:
        ConfigError: several adapters in one file, of which one would be taken at random.
    """
    found = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    adapters = {m["adapter"] or "default" for name in found if (m := FACTOR.fullmatch(name))}
    if len(adapters) > 1 or len(found) < len(tensors):
        named = ", ".join(sorted(adapters)[:4]) or "by one name"
        raise ConfigError(
            f"{source} holds several adapters ({named}); save the one that is meant in a file of its own"
        )
    return found


class Names:
    """Finds the module that a file's name means."""

    def __init__(self, parts: Mapping[str, nn.Module], denoiser: str) -> None:
        self._denoiser = denoiser
        self._modules = {part: _bare(module) for part, module in parts.items()}
        self._flat = {
            part: {name.replace(".", "_"): name for name in modules}
            for part, modules in self._modules.items()
        }

    def find(self, raw: str) -> tuple[str, str] | None:
        """Part and module; None where there is none of that name."""
        for prefix, part in _FLAT.items():
            if raw.startswith(prefix):
                return self._in_flat(part or self._denoiser, raw.removeprefix(prefix))
        raw = _without_prefixes(raw)
        part, _, name = raw.partition(".")
        if part in self._modules and (found := self._in(part, _without_prefixes(name))):
            return found
        return self._in(self._denoiser, raw)

    def _in(self, part: str, name: str) -> tuple[str, str] | None:
        for candidate in (name, name.removeprefix("text_model."), f"text_model.{name}"):
            if candidate in self._modules[part]:
                return part, candidate
        return None

    def _in_flat(self, part: str, name: str) -> tuple[str, str] | None:
        flat = self._flat.get(part, {})
        for candidate in (name, name.removeprefix("text_model_"), f"text_model_{name}"):
            if candidate in flat:
                return part, flat[candidate]
        return None


def _without_prefixes(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _bare(module: nn.Module) -> set[str]:
    """Names of a network's modules as they were before any adapter."""
    return {name for name, _ in module.named_modules() if name and ".lora_" not in name}


def converted(tensors: dict[str, Tensor], pipeline: Any) -> list[dict[str, Tensor]]:
    """The same tensors under the names that diffusers' conversions give them."""
    results = []
    convert = getattr(pipeline, "lora_state_dict", None)
    unet = getattr(pipeline, "unet", None)
    calls = [convert_state_dict_to_peft, convert_unet_state_dict_to_peft]
    if convert:
        options = {} if unet is None else {"unet_config": unet.config}
        calls.insert(0, lambda state: _with_alphas(convert(state, **options)))
    for call in calls:
        if (result := _tried(call, tensors)) is not None:
            results.append(result | _left_out(call, tensors, result))
    return results


def _tried(call: Convert, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    try:
        return call(dict(tensors))
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, RuntimeError):
        return None  # names that this conversion does not know


def _left_out(
    call: Convert, tensors: Mapping[str, Tensor], result: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors that are no factor (`diff_b`) and that a conversion passes over: without them it gives the same."""
    endings: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not (FACTOR.fullmatch(name) or ALPHA.fullmatch(name)) and tensor.any():
            endings.setdefault(name.rpartition(".")[2], {})[name] = tensor
    lost: dict[str, Tensor] = {}
    for some in endings.values():
        rest = _tried(call, {k: v for k, v in tensors.items() if k not in some})
        if rest is not None and rest.keys() == result.keys():
            lost |= some
    return {k: v for k, v in lost.items() if k not in result}


def _with_alphas(converted: Any) -> dict[str, Tensor]:
    """What `lora_state_dict` gave, its table of alphas put back as tensors."""
    if not isinstance(converted, tuple):
        return converted
    state, alphas = converted[0], converted[1] or {}
    return state | {
        k if k.endswith(".alpha") else f"{k}.alpha": torch.tensor(float(v))
        for k, v in alphas.items()
    }
