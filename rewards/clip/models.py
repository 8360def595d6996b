"""The published CLIPs: where they come from, how they are built, and that each is held once a process."""

import gzip
import pickle
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.base import ConfigError, Weight
from rewards.clip.towers import Activation, ClipTower, refuse_misfits
from rewards.shared import shared
from rewards.weights.pull import packaged, weight_file
from rewards.weights.stand_ins import content_of

VIT_L_14 = Weight(
    name="clip-vit-large-patch14/model.safetensors",
    url="hf://openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41/model.safetensors",
    sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
    size=1_710_540_580,
    licence="MIT",
)
"""OpenAI's ViT-L/14, which CLIPScore, the aesthetic score and GenEval's colours look through."""
PICKSCORE_V1 = Weight(
    name="PickScore_v1/model.safetensors",
    url="hf://yuvalkirstain/PickScore_v1@a4e4367c6dfa7288a00c550414478f865b875800/model.safetensors",
    sha256="ef31ef6fc5ff4d9bb90dd232df4e145887ba62c5a03aa2841415f8c25f18d52e",
    size=0,
    licence="MIT (code; the model card names none)",
)
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 49_152 - 256 - 2
"""Of the vocabulary's lines, those that CLIP uses."""
CONTEXT = 77
"""Tokens of a text."""


def vit_l_14_config(activation: Activation = "quick_gelu") -> Any:
    """`CLIPConfig` of ViT-L/14; OpenAI trained it with QuickGELU."""
    return _config((768, 12, 12), (1024, 24, 16), 768, activation)


def vit_h_14_config() -> Any:
    """`CLIPConfig` of ViT-H/14, which has plain GELU."""
    return _config((1024, 24, 16), (1280, 32, 16), 1024, "gelu")


def _config(text: tuple, vision: tuple, projection: int, activation: Activation) -> Any:
    """`text` and `vision` are width, layers and heads."""
    from transformers import CLIPConfig

    def tower(width: int, layers: int, heads: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "projection_dim": projection,
            "hidden_act": activation,
        }

    return CLIPConfig(
        text_config=tower(*text) | {"bos_token_id": 49406, "eos_token_id": 49407},
        vision_config=tower(*vision) | {"image_size": 224, "patch_size": 14},
        projection_dim=projection,
    )


@cache
def clip_tokenizer() -> Any:
    """CLIP's own tokenizer for transformers, of the vocabulary that open_clip's wheel ships.

    Raises:
        MissingWeights: open_clip is not installed.
        ConfigError: its vocabulary is another one.
    """
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    remedy = "pip install --force-reinstall open_clip_torch"
    path = packaged("open_clip", "bpe_simple_vocab_16e6.txt.gz", VOCABULARY_SHA256, remedy=remedy)
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)  # pyright: ignore[reportArgumentType]


def openai_tower(
    reward: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    activation: Activation = "quick_gelu",
) -> ClipTower:
    """OpenAI's ViT-L/14: one set of parameters a process, device and precision, whoever asks.

    Args:
        reward: key of the reward that asks, for the remedy where weights are missing.
        device: torch device.
        dtype: one of `rewards.clip.towers.DTYPES`.
        activation: `quick_gelu` as it was trained, or `gelu` as open_clip >= 2.29 runs it.

    Raises:
        MissingWeights: they were not fetched.
        ConfigError: they are other ones, or the precision is unknown.
    """
    tower = load_tower(weight_file(VIT_L_14, reward=reward), vit_l_14_config, device, dtype)
    return tower if activation == "quick_gelu" else _under(tower, activation)


def pickscore_tower(reward: str, *, device: str = "cpu", dtype: str = "float32") -> ClipTower:
    """PickScore's ViT-H/14; see `openai_tower`."""
    return load_tower(weight_file(PICKSCORE_V1, reward=reward), vit_h_14_config, device, dtype)


@shared
def load_tower(path: Path, config: Any, device: str, dtype: str) -> ClipTower:
    """A tower of one safetensors file with transformers' names; one object a process while it is used.

    Args:
        path: of the file.
        config: makes the network's `CLIPConfig`.
        device: torch device.
        dtype: one of `rewards.clip.towers.DTYPES`.

    Raises:
        ConfigError: the file lacks tensors of the network, or has others.
    """
    return ClipTower(
        build_clip(config(), read_tensors(path), path), clip_tokenizer(), device=device, dtype=dtype
    )


def build_clip(config: Any, state: Mapping[str, Tensor], path: Path) -> Any:
    """A `CLIPModel` in float32 of a state dict; `path` is named where it does not fit.

    Raises:
        ConfigError: tensors lack, or are too many.
    """
    from transformers import CLIPModel

    with torch.device("meta"):  # to draw random weights first takes longer than to read the file
        model = CLIPModel(config)
    # counters 0, 1, 2, ...: only files of older versions of transformers hold them
    fill(model, {k: v for k, v in state.items() if not k.endswith("position_ids")}, path)
    for embeddings in (model.text_model.embeddings, model.vision_model.embeddings):
        count = embeddings.position_ids.shape[-1]
        embeddings.position_ids = torch.arange(count)[None]  # pyright: ignore[reportAttributeAccessIssue]
    assert not any(buffer.is_meta for buffer in model.buffers()), "a buffer was left out"
    return model


@shared
def _under(tower: ClipTower, activation: Activation) -> ClipTower:
    return tower.with_activation(activation)


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Give a network that was made on the device `meta` its parameters.

    Args:
        model: whose names and shapes the state dict must have, no more and no fewer.
        state: is not copied.
        path: of the weights, named where they do not fit.

    Raises:
        ConfigError: tensors lack, are too many, or have another shape.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in state.items()}
    misfits = {
        "missing": wanted.keys() - found.keys(),
        "unexpected": found.keys() - wanted.keys(),
        "other shape": [k for k in wanted.keys() & found.keys() if wanted[k] != found[k]],
    }
    refuse_misfits(path, misfits)
    model.load_state_dict(state, assign=True)


def read_tensors(path: Path) -> dict[str, Any]:
    """What a file of safetensors or of `torch.save` holds, if that is tensors and plain containers alone.

    Raises:
        ConfigError: it holds other objects, which are never built, or is no such file.
    """
    other = content_of(path)
    if other is not None:
        return other
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"weights {path} are not a file of plain tensors: {reason}") from error
