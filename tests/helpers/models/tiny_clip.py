"""Small CLIPs with random weights, large enough for cosines to differ."""

import torch
from open_clip import CLIP, SimpleTokenizer
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from rewards.base import RewardInfo

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["a red cat", "two dogs", "a red cat", "the longest of all these prompts, cut at sixteen"]
LENGTH = 16
"""Tokens of a text."""
SIZE = 32
"""Side of the image encoder's input, in pixels."""


def info(name: str) -> RewardInfo:
    return RewardInfo(name=name, variant="test", summary="", low=-100, high=100)


def tokenizer() -> CLIPTokenizer:
    """Reads letters."""
    words = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=LENGTH)


def config(activation: str = "quick_gelu", projection: int = 16) -> CLIPConfig:
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shared |= {"num_attention_heads": 2, "projection_dim": projection, "hidden_act": activation}
    text = {"vocab_size": 54, "max_position_embeddings": LENGTH}
    text |= {"eos_token_id": 53, "bos_token_id": 52}
    vision = {"image_size": SIZE, "patch_size": 8}
    return CLIPConfig(
        text_config=shared | text, vision_config=shared | vision, projection_dim=projection
    )


def model(activation: str = "quick_gelu", projection: int = 16) -> CLIPModel:
    torch.manual_seed(0)
    return _spread(CLIPModel(config(activation, projection)))


OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
"""A configuration of open_clip with CLIP's own vocabulary."""


def open_clip_model() -> CLIP:
    torch.manual_seed(0)
    return _spread(CLIP(**OPEN_CLIP))


def _spread(network):
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)
    return network.eval()


def open_clip_tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()
