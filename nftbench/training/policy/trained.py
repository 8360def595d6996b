"""The network that is trained: its LoRA or all of its weights, how a rollout and an update run it, how it is saved."""

import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
from diffusers import DiffusionPipeline
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nftbench.generation.checkpoint import POLICY_FILE, WEIGHTS_FOLDER, note_of, own_file
from nftbench.generation.foreign import said_by
from nftbench.generation.recorder.trace import denoiser_of
from nftbench.generation.sources.lora import merge_loras
from nftbench.generation.sources.lora_config import PEFT_CONFIG
from nftbench.runs.io import whole_folder, write_atomic
from nftbench.training.config.recipe import PolicyConfig
from nftbench.training.policy.targets import choices, unfitted
from nftbench.training.policy.weights import Using, Weights
from rewards.base import ConfigError

THETA = "default"
"""diffusers' own name of an only adapter."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""diffusers' own name of a LoRA's file."""

PEFT_FILE = "adapter_model.safetensors"
"""peft's own name, where diffusers cannot save a LoRA of this pipeline."""

BLIND_STEPS = 3
"""Updates in a row in which two different policies may say the same."""


class NoEffect(RuntimeError):
    """Training that cannot change the policy."""


@contextmanager
def _swapped(
    bases: Sequence[nn.Parameter], folded: Mapping[str, Sequence[Tensor]], name: str
) -> Iterator[None]:
    with torch.no_grad():
        try:
            for base, data in zip(bases, folded[name], strict=True):
                base.data = data
            yield
        finally:
            for base, data in zip(bases, folded["theta"], strict=True):
                base.data = data


def _pass_on(layer: LoraLayer, gradient: Tensor | None) -> None:
    """Add the gradient of a layer's folded weight, (out, in), to that of its LoRA."""
    if gradient is None:
        return
    a, b = (part[THETA].get_parameter("weight") for part in (layer.lora_A, layer.lora_B))
    scaled = layer.scaling[THETA] * gradient
    for factor, mine in ((a, b.detach().T @ scaled), (b, scaled @ a.detach().T)):
        factor.grad = mine if factor.grad is None else factor.grad + mine


def add_lora(network: nn.Module, config: PolicyConfig) -> dict[str, nn.Parameter]:
    """Put a LoRA into a network and open its factors to training, in float32.

    Returns:
        The factors by their names in the network; empty where the targets made no layer.

    Raises:
        ValueError: peft finds no layer for the targets.
    """
    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  # peft divides it
        init_lora_weights="gaussian",
        target_modules=list(config.targets),
    )
    peft.inject_adapter_in_model(lora, network, adapter_name=THETA)
    opened = {name: p for name, p in network.named_parameters() if ".lora_" in name}
    for parameter in opened.values():
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()
    return opened


def recompute(network: nn.Module) -> None:
    """Have a network compute its activations again in the backward pass instead of keeping them.

    Raises:
        ConfigError: it cannot.
    """
    enable: Any = getattr(network, "enable_gradient_checkpointing", None)
    if not (enable and getattr(network, "_supports_gradient_checkpointing", True)):
        raise ConfigError(
            f"{type(network).__name__} cannot compute its activations again; leave out "
            "policy.gradient_checkpointing"
        )
    enable()


class TrainedPolicy:
    """A pipeline whose denoiser is being trained."""

    def __init__(self, pipeline: DiffusionPipeline, config: PolicyConfig, *, seed: int) -> None:
        """Freeze the pipeline, then open what the configuration asks for.

        Raises:
            ConfigError: no layer fits the LoRA's targets.
        """
        self.pipeline, self.config = pipeline, config
        self.component, self.denoiser = denoiser_of(pipeline)
        for module in pipeline.components.values():
            if isinstance(module, nn.Module):
                module.requires_grad_(False).eval()
        merge_loras(pipeline)  # those that the checkpoint came with become part of the base
        opened = self._add_lora(seed) if config.method == "lora" else self._open_all()
        if config.gradient_checkpointing:
            recompute(self.denoiser)
        self.weights = Weights(opened)
        self._blind = 0
        self._compiled: Callable[..., Any] | None = None

    def _open_all(self) -> dict[str, nn.Parameter]:
        self.denoiser.float().requires_grad_(True)
        return dict(self.denoiser.named_parameters())

    def _add_lora(self, seed: int) -> dict[str, nn.Parameter]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                opened = add_lora(self.denoiser, self.config)
            except ValueError as error:
                if not unfitted(self.denoiser, self.config.targets):
                    raise ConfigError(
                        f"peft puts no LoRA into {type(self.denoiser).__name__}: {said_by(error)}"
                    ) from None
                raise ConfigError(
                    f"no layer of {type(self.denoiser).__name__} fits policy.targets "
                    f"{list(self.config.targets)}; choose of the ends of its layers' names: {choices(self.denoiser)}"
                ) from None
        if not opened:
            raise ConfigError("policy.targets made no LoRA layer; choose other targets")
        return opened

    @contextmanager
    def drawing(self, name: str) -> Iterator[None]:
        """The network with a set's weights, a LoRA folded into the layers: the same policy up to rounding.

        A rollout calls the network many times between two changes of the weights; a LoRA of its own would cost each
        of the calls a third more (pocket, rank 32, on a CPU).
        """
        layers = self._lora_layers()
        bases = [layer.get_base_layer().get_parameter("weight") for layer in layers]
        with self.weights.using(name), self._fast():
            kept = [base.data for base in bases]
            try:
                for layer, base in zip(layers, bases, strict=True):
                    base.data = base.data.clone()
                    layer.merge(adapter_names=[THETA])
                yield
            finally:  # not unmerged: that would leave rounding behind
                for layer, base, data in zip(layers, bases, kept, strict=True):
                    layer.merged_adapters.clear()
                    base.data = data

    @contextmanager
    def updating(self, *others: str) -> Iterator[Using]:
        """The network for an update; what it gives puts another set in theta's place for a forward pass.

        With `policy.folded` every set is folded into the layers, as `drawing` does it, theta with its gradient: the
        layers' own gradient G is collected over all passes and becomes the LoRA's at the end of the block,
        A: s B^T G and B: s G A^T, with LoRA's scale s. Otherwise the LoRA is run beside its layers.

        Args:
            others: the sets that will be asked for.
        """
        if not (self.config.folded and self._lora_layers()):
            yield self.weights.using
            return
        layers = self._lora_layers()
        bases = [layer.get_base_layer().get_parameter("weight") for layer in layers]
        kept, folded = [base.data for base in bases], {}
        for name in ("theta", *others):
            with self.drawing(name):
                folded[name] = [base.data for base in bases]
        for layer, base, data in zip(layers, bases, folded["theta"], strict=True):
            layer.merged_adapters.append(THETA)
            base.data = data
            base.requires_grad_(True)
        try:
            with self._fast():
                yield partial(_swapped, bases, folded)
            for layer, base in zip(layers, bases, strict=True):
                _pass_on(layer, base.grad)
        finally:
            for layer, base, data in zip(layers, bases, kept, strict=True):
                layer.merged_adapters.clear()
                base.data, base.grad = data, None
                base.requires_grad_(False)

    @contextmanager
    def _fast(self) -> Iterator[None]:
        """The compiled network in the block; its hooks, which watch it, stay outside."""
        if not self.config.compiled:
            yield
            return
        if self._compiled is None:
            self._compiled = torch.compile(self.denoiser.forward, dynamic=True)
        own = vars(self.denoiser).get("forward")
        self.denoiser.forward = self._compiled
        try:
            yield
        finally:
            del self.denoiser.forward
            if own is not None:
                self.denoiser.forward = own

    def _lora_layers(self) -> list[LoraLayer]:
        return [m for m in self.denoiser.modules() if isinstance(m, LoraLayer)]

    def fingerprint(self) -> float:
        """A number that changes when theta does."""
        return sum(float(p.double().abs().sum()) for p in self.weights["theta"])

    def check_moved(self, before: float) -> None:
        """Refuse an optimiser step that had a gradient and changed nothing.

        Raises:
            NoEffect: theta is what it was.
        """
        if self.fingerprint() == before:
            raise NoEffect("an update with a gradient left every trained weight as it was")

    def check_seen(self, deviation: float | None) -> None:
        """Refuse a network that does not see which weights it is given.

        Args:
            deviation: mean |v_theta - v_old| before an update; None where it was not measured.

        Raises:
            NoEffect: theta and old are different, and what the network says is not.
        """
        if deviation == 0 and self.weights.distance("theta", "old") > 0:
            self._blind += 1
        elif deviation is not None:
            self._blind = 0
        if self._blind == BLIND_STEPS:
            raise NoEffect(
                "theta and old have differed for several updates, and the network gives the same output with both: "
                "the policy that draws is not the one that is trained"
            )

    def save(self, folder: Path, *, base: str, base_digest: str, which: str = "ema") -> None:
        """Write a checkpoint that `nftbench eval FOLDER` takes, and whose LoRA any diffusers script loads.

        Args:
            folder: receives `lora/` (or, after full training, `pipeline/`) and a note of the base.
            base: the checkpoint that was trained.
            base_digest: its digest.
            which: the set of weights.
        """
        with self.weights.using(which):
            if self.config.method == "full":
                save_whole(self.pipeline, folder, base)
            else:
                with whole_folder(folder / WEIGHTS_FOLDER["lora"]) as made:
                    self._save_lora(made)
        note = note_of(folder, base=base, base_digest=base_digest, method=self.config.method)
        write_atomic(folder / POLICY_FILE, note)

    def _save_lora(self, folder: Path) -> None:
        found = peft.get_peft_model_state_dict(self.denoiser, adapter_name=THETA)
        layers = {k: v.contiguous() for k, v in found.items()}
        configs: Any = self.denoiser.peft_config
        config = configs[THETA].to_dict()
        # A set's order differs between processes, and so would the file.
        config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        # Without its configuration a loader takes alpha = rank, which is another policy.
        given = {
            f"{self.component}_lora_layers": layers,
            f"{self.component}_lora_adapter_metadata": config,
        }
        save = getattr(self.pipeline, "save_lora_weights", None)
        loads = hasattr(
            self.denoiser, "load_lora_adapter"
        )  # some networks lack what their pipeline counts on
        if save and loads and given.keys() <= inspect.signature(save).parameters.keys():
            save(folder, **given)
            _write_again(folder / LORA_FILE)
            return
        folder.mkdir(parents=True, exist_ok=True)
        named = {f"base_model.model.{k}": v for k, v in layers.items()}
        save_file(named, folder / PEFT_FILE)
        text = json.dumps(config | {"inference_mode": True}, indent=2, sort_keys=True)
        write_atomic(folder / PEFT_CONFIG, f"{text}\n".encode())


def save_whole(pipeline: DiffusionPipeline, folder: Path, base: str) -> None:
    """Write a policy's pipeline into its folder; what its base asks for goes where the folder goes.

    Args:
        pipeline: with the weights that are meant.
        folder: of the policy; receives `pipeline/`.
        base: the checkpoint that was trained.
    """
    with whole_folder(folder / WEIGHTS_FOLDER["full"]) as made:
        pipeline.save_pretrained(made)
        _forget_place(made)
        if own := own_file(base):
            shutil.copyfile(own, made / own.name)


def _forget_place(folder: Path) -> None:
    """Leave out where the base lay on this machine, which diffusers writes into what it saves."""
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        saved = json.loads(path.read_bytes())
        if saved.pop("_name_or_path", None) is not None:
            write_atomic(path, f"{json.dumps(saved, indent=2, sort_keys=True)}\n".encode())


def _write_again(path: Path) -> None:
    """Keep one entry of a LoRA file's metadata: safetensors writes several in any order, so bytes would differ."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    kept = {k: v for k, v in metadata.items() if k != "format"}
    save_file(load_file(path), path, metadata=kept)
