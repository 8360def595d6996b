"""LoRAs put into a pipeline: how much of each fitted, at what strength; and merged for good where training goes on."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import peft
import torch
from diffusers import DiffusionPipeline
from peft import inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from nftbench.generation.sources.lora_files import Layer, Layers, LoraFile, layers_of, read_lora
from nftbench.generation.sources.reference import Part
from rewards.base import ConfigError

DEFAULT_ALPHA = peft.LoraConfig().lora_alpha
"""What peft takes where its configuration of a LoRA names none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraReport:
    """What came of loading one LoRA."""

    source: str
    """As the user wrote it."""
    digest: str
    layers_fitted: int
    layers_in_file: int
    parts: dict[str, int]
    """Fitted layers by part of the pipeline."""
    ranks: tuple[int, ...]
    """All there are, ascending."""
    alphas: tuple[float, ...]
    """All that the file names, ascending."""
    assumed_alpha: str
    """What was taken for layers of which the file names none, and an alpha that acts otherwise, in words."""
    scale: float
    """Asked for by the user."""
    norm: float
    """Frobenius norm of the change of all weights, scale and alpha in it."""

    @property
    def manifest(self) -> dict[str, Any]:
        """As it is written down; the norm to six digits, for its last ones differ between machines."""
        return asdict(self) | {"norm": float(f"{self.norm:.6g}")}

    def is_of(self, other: "LoraReport") -> bool:
        """Whether it is the same LoRA, at whatever scale; in another layout it has another digest and the same norm."""
        if self.digest == other.digest:
            return True
        alike = (self.parts, self.ranks) == (other.parts, other.ranks)
        mine, theirs = self.norm * abs(other.scale), other.norm * abs(self.scale)
        return alike and mine > 0 and math.isclose(mine, theirs, rel_tol=1e-9)

    def __str__(self) -> str:
        ranks = _span(self.ranks)
        named = f"alpha {_span(self.alphas)}" if self.alphas else ""
        alpha = ", ".join(filter(None, (named, self.assumed_alpha)))
        where = ", ".join(f"{n} in {part}" for part, n in self.parts.items())
        nothing = "; it changes nothing" if self.norm == 0 else ""
        return (
            f"LoRA {self.source}: {self.layers_fitted} of {self.layers_in_file} layers fitted ({where}), rank {ranks}, "
            f"{alpha}, scale {self.scale:.15g}, norm of the change {self.norm:.4g}{nothing}"
        )


def add_loras(
    pipeline: DiffusionPipeline, parts: Sequence[Part], *, partial: bool
) -> list[LoraReport]:
    """Put LoRAs into a pipeline, all of them active.

    Args:
        pipeline: any; LoRAs of its text encoders are put there.
        parts: the LoRAs, each with its scale.
        partial: whether one may be taken of which not every layer fits.

    Raises:
        ConfigError: one cannot be read, is of another model, or fits in part only.
    """
    reports = [_add(pipeline, part, f"lora_{number}", partial) for number, part in enumerate(parts)]
    names = [f"lora_{number}" for number in range(len(parts))]
    for module in _tuned(pipeline):
        module.set_adapter([n for n in names if n in module.lora_A or n in module.lora_embedding_A])
    for component in _networks(pipeline).values():
        if hasattr(component, "peft_config"):
            component.requires_grad_(False)
    return reports


def _add(pipeline: DiffusionPipeline, part: Part, adapter: str, partial: bool) -> LoraReport:
    file = read_lora(part.source)
    fit, misfit, strange = layers_of(file, pipeline)
    total = len(fit) + len(misfit)
    kind = type(pipeline).__name__
    if not fit:
        raise ConfigError(
            f"{part.source} is not a LoRA for {kind}: none of its layers is in this model "
            f"({total} layers, {strange} other tensors; such as {next(iter(file.tensors), 'none')})"
        )
    if (misfit or strange) and not partial:
        first = next((name for _, name in misfit), "tensors that are no factor of a layer")
        raise ConfigError(
            f"{part.source} fits {kind} in part only: {len(fit)} of {total} layers, {strange} other tensors (not "
            f"fitting: {first}); use the model it was trained for, or pass --lora-partial to take what fits"
        )
    networks = _networks(pipeline)
    alphas: set[float] = set()
    assumed: set[str] = set()
    for name in dict.fromkeys(component for component, _ in fit):
        layers = {module: layer for (component, module), layer in fit.items() if component == name}
        named, taken = _settle_alphas(layers, _config_of(file, name))
        alphas |= named
        assumed |= taken
        _inject(networks[name], layers, adapter, file, part)
    return _report(part, file, fit, total, alphas, assumed, norm=_norm(pipeline, adapter))


def _config_of(file: LoraFile, component: str) -> dict[str, Any]:
    """The fields of peft's configuration that hold for a part of the pipeline."""
    prefix = f"{component}."
    own = {k.removeprefix(prefix): v for k, v in file.config.items() if k.startswith(prefix)}
    return own or {k: v for k, v in file.config.items() if "." not in k}


def _settle_alphas(layers: dict[str, Layer], config: dict[str, Any]) -> tuple[set[float], set[str]]:
    """Give every layer its alpha: its own, that of peft's configuration, peft's default, or its rank.

    Returns:
        Those that were written down, and in words what was taken where none was.
    """
    named, taken = set(), set()
    patterns = config.get("alpha_pattern") or {}
    for module, layer in layers.items():
        own = patterns.get(get_pattern_key(list(patterns), module), config.get("lora_alpha"))
        if layer.alpha is not None:
            named.add(layer.alpha)
        elif not config:
            layer.alpha = float(_rank(layer))
            taken.add("no alpha in the file (alpha = rank taken)")
        else:
            layer.alpha = float(DEFAULT_ALPHA if own is None else own)
            if own is None:
                taken.add(f"no lora_alpha in its configuration (peft's {DEFAULT_ALPHA} taken)")
            else:
                named.add(layer.alpha)
            if config.get("use_rslora"):  # alpha / sqrt(rank), as peft's alpha / rank
                layer.alpha *= _rank(layer) ** 0.5
                taken.add("divided by the rank's square root (use_rslora)")
    return named, taken


def _rank(layer: Layer) -> int:
    assert layer.down is not None
    return layer.down.shape[0]


def _inject(
    network: nn.Module, layers: dict[str, Layer], adapter: str, file: LoraFile, part: Part
) -> None:
    ranks = {module: _rank(layer) for module, layer in layers.items()}
    alphas = {module: layer.alpha or 0.0 for module, layer in layers.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    more = {name for layer in layers.values() for name in layer.more}
    for module, layer in layers.items():
        if lost := sorted(more - layer.more.keys()):
            raise ConfigError(
                f"{part.source} lacks the {lost[0]} of {module}, which its other layers have; save the LoRA again"
            )
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  # peft divides it; files hold fractions too
        rank_pattern={f"^{re.escape(m)}": r for m, r in ranks.items() if r != rank},
        alpha_pattern={f"^{re.escape(m)}": a for m, a in alphas.items() if a != alpha},
        target_modules=list(layers),
        use_dora="lora_magnitude_vector" in more,
        lora_bias="lora_B.bias" in more,
    )
    state = {k: v for module, layer in layers.items() for k, v in _factors(network, module, layer)}
    try:
        inject_adapter_in_model(
            config, network, adapter_name=adapter, state_dict=state, low_cpu_mem_usage=True
        )
        set_peft_model_state_dict(network, state, adapter_name=adapter, low_cpu_mem_usage=True)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ConfigError(
            f"{part.source} does not go into {type(network).__name__}: {reason}"
        ) from None
    network._hf_peft_config_loaded = True  # type: ignore[assignment]  # as diffusers and transformers mark it
    for module in network.modules():
        if isinstance(module, LoraLayer) and adapter in module.scaling:
            module.set_scale(adapter, part.scale)
    _check_loaded(network, layers, adapter, file)


def _factors(network: nn.Module, module: str, layer: Layer) -> list[tuple[str, Tensor]]:
    base = network.get_submodule(module)
    base = base.get_base_layer() if isinstance(base, BaseTunerLayer) else base
    assert layer.down is not None and layer.up is not None
    if isinstance(base, nn.Embedding):
        pair = [("lora_embedding_A", layer.down), ("lora_embedding_B", layer.up)]
    else:
        pair = [("lora_A.weight", layer.down), ("lora_B.weight", layer.up)]
    return [(f"{module}.{name}", tensor) for name, tensor in (*pair, *layer.more.items())]


def _check_loaded(
    network: nn.Module, layers: dict[str, Layer], adapter: str, file: LoraFile
) -> None:
    """Every factor is in the network, as the file has it: what a library passes over in silence stops here."""
    for module, layer in layers.items():
        placed: Any = network.get_submodule(module)
        if adapter in placed.lora_A:
            down, up = placed.lora_A[adapter].weight, placed.lora_B[adapter].weight
        else:
            down, up = placed.lora_embedding_A[adapter], placed.lora_embedding_B[adapter]
        for there, wanted in ((down, layer.down), (up, layer.up)):
            fits = wanted is not None and torch.equal(there.detach().cpu(), wanted.to(there.dtype))
            assert fits, f"{file.path}: {module}"


def _norm(pipeline: DiffusionPipeline, adapter: str) -> float:
    """Frobenius norm of all changes: of weights, and of biases where an adapter has them."""
    return sum(max(_change(module, adapter), 0.0) for module in _tuned(pipeline)) ** 0.5


def _change(module: Any, adapter: str) -> float:
    """Squared norm of what an adapter changes in a layer: |up down|^2 is the sum of (up^T up) * (down down^T)."""
    scaling = module.scaling.get(adapter, 0.0)
    if adapter in module.lora_magnitude_vector and adapter in module.lora_A:
        return _dora_change(module, adapter)
    bias = None
    if adapter in module.lora_A:
        down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        bias = module.lora_B[adapter].bias
    elif adapter in module.lora_embedding_A:
        down, up = module.lora_embedding_A[adapter], module.lora_embedding_B[adapter]
    else:
        return 0.0
    down, up = (factor.detach().double().flatten(1) for factor in (down, up))
    total = float(((up.T @ up) * (down @ down.T)).sum())
    total += 0.0 if bias is None else float(bias.detach().double().square().sum())
    return total * scaling**2


def _dora_change(module: Any, adapter: str) -> float:
    """The same of a DoRA, whose weight is the sum of both, each output of it at a length of its own."""
    own = dequantize_module_weight(module.get_base_layer()).detach().float()
    both = own + module.get_delta_weight(adapter).detach().float()
    flat = both.flatten(1)
    length = module.lora_magnitude_vector[adapter].weight.detach().float().flatten()
    changed = flat * (length / flat.norm(dim=1)).unsqueeze(1)
    return float((changed - own.flatten(1)).double().square().sum())


def _report(
    part: Part,
    file: LoraFile,
    fit: Layers,
    total: int,
    alphas: set[float],
    assumed: set[str],
    norm: float,
) -> LoraReport:
    return LoraReport(
        source=part.source,
        digest=file.digest,
        layers_fitted=len(fit),
        layers_in_file=total,
        parts=dict(Counter(component for component, _ in fit)),
        ranks=tuple(sorted({_rank(layer) for layer in fit.values()})),
        alphas=tuple(sorted(alphas)),
        assumed_alpha=", ".join(sorted(assumed)),
        scale=part.scale,
        norm=norm,
    )


def merge_loras(pipeline: DiffusionPipeline) -> bool:
    """Make the LoRAs of all parts of a pipeline part of their weights, and take the adapters off.

    Returns:
        Whether there was any.

    Raises:
        ConfigError: quantised weights, into which nothing merges exactly.
    """
    found = False
    for network in _networks(pipeline).values():
        tuned = [(n, m) for n, m in network.named_modules() if isinstance(m, BaseTunerLayer)]
        for name, layer in tuned:
            _merge(network, name, layer)
        if tuned:
            del network.peft_config
            network._hf_peft_config_loaded = False  # type: ignore[assignment]
        found |= bool(tuned)
    return found


def _merge(network: nn.Module, name: str, layer: Any) -> None:
    base = layer.get_base_layer()
    if not base.weight.is_floating_point():
        raise ConfigError(
            "a LoRA cannot be merged into quantised weights; load the base unquantised to train on"
        )
    layer.merge()
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent) if parent else network, child, base)


def _tuned(pipeline: DiffusionPipeline) -> list[Any]:
    return [
        m for n in _networks(pipeline).values() for m in n.modules() if isinstance(m, LoraLayer)
    ]


def _networks(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    return {k: m for k, m in pipeline.components.items() if isinstance(m, nn.Module)}


def _span(values: Sequence[float]) -> str:
    low, high = f"{values[0]:g}", f"{values[-1]:g}"
    return low if low == high else f"{low} to {high}"
