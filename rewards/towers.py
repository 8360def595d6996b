"""CLIP towers: loaded once a process and shared by the rewards that look through them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from rewards.base import ConfigError, MissingWeights
from rewards.preprocess import Preprocess

BATCH_SIZE = 32
"""Images or texts in one call of a network."""


class ClipTower:
    """Image and text encoder of one CLIP, in float32 and without gradients."""

    def __init__(self, model: Any, tokenizer: Any, *, device: str = "cpu") -> None:
        """Wrap a network.

        Args:
            model: transformers `CLIPModel`.
            tokenizer: its tokenizer.
            device: torch device to run on; results come back on the CPU.
        """
        self._model = model.to(device).float().eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device
        positions = model.config.text_config.max_position_embeddings
        self._text_length = min(tokenizer.model_max_length, positions)

    @property
    def image_size(self) -> int:
        """Side of the image encoder's square input, in pixels."""
        return self._model.config.vision_config.image_size

    @property
    def logit_scale(self) -> float:
        """Factor of a cosine in CLIP's logits: exp of the trained parameter, 100 for OpenAI's."""
        return float(self._model.logit_scale.exp())

    @torch.no_grad()
    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected image embeddings, not normalised.

        Args:
            pixels: (N, 3, image_size, image_size), CLIP-normalised.

        Returns:
            float32 (N, D) on the CPU.
        """
        batches = pixels.split(BATCH_SIZE)
        outs = [self._model.get_image_features(pixel_values=b.to(self._device)) for b in batches]
        return torch.cat([out.pooler_output.cpu() for out in outs])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Projected text embeddings, not normalised; texts are cut at the encoder's length.

        Returns:
            float32 (N, D) on the CPU.
        """
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",  # one shape always: an embedding depends on its text alone
            truncation=True,
            max_length=self._text_length,
            return_tensors="pt",
        )
        batches = zip(
            tokens["input_ids"].split(BATCH_SIZE),
            tokens["attention_mask"].split(BATCH_SIZE),
            strict=True,
        )
        outs = [
            self._model.get_text_features(
                input_ids=ids.to(self._device), attention_mask=mask.to(self._device)
            )
            for ids, mask in batches
        ]
        return torch.cat([out.pooler_output.cpu() for out in outs])

    def cosines(
        self, images: np.ndarray, texts: Sequence[str], transform: Preprocess
    ) -> np.ndarray:
        """Cosine of each image with its own text.

        Args:
            images: uint8 RGB (N, H, W, 3).
            texts: N texts; equal ones are embedded once.
            transform: how an image becomes the encoder's input.

        Returns:
            float32 (N,) in [-1, 1].
        """
        pixels = torch.stack([transform(image, self.image_size) for image in images])
        distinct = list(dict.fromkeys(texts))
        image_embeds = normalize(self.embed_images(pixels), dim=-1)
        text_embeds = normalize(self.embed_texts(distinct), dim=-1)
        own = text_embeds[[distinct.index(text) for text in texts]]
        return (image_embeds * own).sum(dim=-1).numpy()


@cache
def load_clip(folder: Path, device: str = "cpu") -> ClipTower:
    """The tower that `save_pretrained` (model, tokenizer) left in a folder; one object a process.

    Raises:
        MissingWeights: no such folder, or no `model.safetensors` in it.
        ConfigError: the file lacks tensors of the network, or has others.
    """
    from transformers import AutoTokenizer, CLIPModel

    if not (folder / "model.safetensors").is_file():
        raise MissingWeights(f"no CLIP at {folder}: expected model.safetensors there.")
    model, report = CLIPModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    wrong = {name: sorted(map(str, keys)) for name, keys in report.items() if keys}
    if wrong:
        raise ConfigError(f"weights in {folder} do not fit their config.json: {wrong}.")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return ClipTower(model, tokenizer, device=device)
