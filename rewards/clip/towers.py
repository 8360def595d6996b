"""CLIP towers: image and text encoders that rewards look through, and how many share one."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rewards.base import ConfigError, MissingWeights, Prompt, Scores, unseen
from rewards.images.preprocess import Preprocess
from rewards.shared import shared

BATCH_SIZE = 32
"""Images or texts in one call of a network."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions a network can run in, by the name a factory takes."""

Activation = Literal["quick_gelu", "gelu"]


class Tower(ABC):
    """Image and text encoder of one CLIP, without gradients; embeddings come back in float32 on the CPU."""

    def __init__(
        self, model: Any, *, image_size: int, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        """Wrap a network, which is moved and cast in place.

        Args:
            model: has a parameter `logit_scale`.
            image_size: side of the image encoder's square input, in pixels.
            device: torch device to run on.
            dtype: precision of weights and activations, one of `DTYPES`.

        Raises:
            ConfigError: unknown precision.
        """
        self.image_size = image_size
        # read before the cast: in bfloat16 OpenAI's 100 would be 98.9
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        self.device, self._dtype = device, precision_of(dtype)
        self.model = model.to(device=device, dtype=self._dtype).eval().requires_grad_(False)

    @abstractmethod
    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What the text encoder takes: int64 (N, length) each, cut at its length."""

    @abstractmethod
    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the text encoder, so that their ends are not seen."""

    @abstractmethod
    def _image_features(self, pixels: Tensor) -> Tensor: ...

    @abstractmethod
    def _text_features(self, **tokens: Tensor) -> Tensor: ...

    def _context(self) -> AbstractContextManager:
        """In which the network runs."""
        return nullcontext()

    @torch.no_grad()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """Projected image embeddings, not normalised.

        Args:
            pixels: (N, 3, image_size, image_size), CLIP-normalised.

        Returns:
            float32 (N, D) on the CPU.
        """
        with self._context():
            return torch.cat(
                [
                    self._image_features(part.to(self.device, self._dtype)).float().cpu()
                    for part in pixels.split(BATCH_SIZE)
                ]
            )

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Projected text embeddings, not normalised; texts are cut at the encoder's length.

        Args:
            texts: N >= 1 texts.

        Returns:
            float32 (N, D) on the CPU.
        """
        tokens = self.tokens(texts)
        parts = zip(
            *(value.to(self.device).split(BATCH_SIZE) for value in tokens.values()), strict=True
        )
        with self._context():
            return torch.cat(
                [
                    self._text_features(**dict(zip(tokens, part, strict=True))).float().cpu()
                    for part in parts
                ]
            )

    def unit_images(self, images: np.ndarray, transform: Preprocess) -> Tensor:
        """Image embeddings of length 1.

        Args:
            images: uint8 RGB (N, H, W, 3), N >= 1.
            transform: how an image becomes the encoder's input.

        Returns:
            float32 (N, D) on the CPU.
        """
        embeds = [
            self.embed_images(torch.stack([transform(image, self.image_size) for image in part]))
            for part in np.split(images, range(BATCH_SIZE, len(images), BATCH_SIZE))
        ]
        return normalize(torch.cat(embeds), dim=-1)

    def cosines(
        self, images: np.ndarray, texts: Sequence[str], transform: Preprocess
    ) -> np.ndarray:
        """Cosine of each image with its own text.

        Args:
            images: uint8 RGB (N, H, W, 3), N >= 1.
            texts: N texts; equal ones are embedded once.
            transform: how an image becomes the encoder's input.

        Returns:
            float32 (N,) in [-1, 1].
        """
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        text_embeds = normalize(self.embed_texts(list(rows)), dim=-1)
        own = text_embeds[[rows[text] for text in texts]]
        return (self.unit_images(images, transform) * own).sum(dim=-1).numpy()


class ClipTower(Tower):
    """A transformers `CLIPModel` with its tokenizer."""

    def __init__(
        self, model: Any, tokenizer: Any, *, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        size = model.config.vision_config.image_size
        super().__init__(model, image_size=size, device=device, dtype=dtype)
        positions = model.config.text_config.max_position_embeddings
        self._tokenizer = tokenizer
        self._text_length = min(tokenizer.model_max_length, positions)

    def with_activation(self, activation: Activation) -> "ClipTower":
        """The same parameters, not copied, under another activation of the feed-forward layers."""
        from transformers.activations import ACT2FN

        shared = {id(p): p for p in chain(self.model.parameters(), self.model.buffers())}
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model, shared)
        for config in (other.model.config.text_config, other.model.config.vision_config):
            config.hidden_act = activation
        for module in other.model.modules():
            if hasattr(module, "activation_fn"):
                module.activation_fn = ACT2FN[activation]
        return other

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """See `Tower.tokens`; padded to the full length with the end token."""
        found = self._tokenizer(
            list(texts),
            padding="max_length",  # one shape always: an embedding depends on its text alone
            truncation=True,
            max_length=self._text_length,
            return_tensors="pt",
        )
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """See `Tower.truncated`."""
        whole = self._tokenizer(list(texts), verbose=False)["input_ids"]
        return [len(ids) > self._text_length for ids in whole]

    def _image_features(self, pixels: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def _text_features(self, **tokens: Tensor) -> Tensor:
        return self.model.get_text_features(**tokens).pooler_output


class OpenClipTower(Tower):
    """An `open_clip.CLIP` with open_clip's tokenizer, which straightens quotes and pads with 0."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        autocast: bool = False,
    ) -> None:
        """Wrap a network.

        Args:
            model: see above.
            tokenizer: `open_clip.SimpleTokenizer`.
            device: torch device to run on.
            dtype: see `Tower`.
            autocast: run under float16 autocast on a GPU; changes nothing on the CPU.
        """
        size = model.visual.image_size[0]
        super().__init__(model, image_size=size, device=device, dtype=dtype)
        self._tokenizer = tokenizer
        self._autocast = autocast and torch.device(device).type == "cuda"

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """See `Tower.tokens`; padded with 0."""
        return {"text": self._tokenizer(list(texts), context_length=self.model.context_length)}

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """See `Tower.truncated`; a beginning and an end stand around the text's own tokens."""
        encode = self._tokenizer.encode
        return [len(encode(text)) + 2 > self.model.context_length for text in texts]

    def _context(self) -> AbstractContextManager:
        return torch.autocast("cuda", torch.float16) if self._autocast else nullcontext()

    def _image_features(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    def _text_features(self, **tokens: Tensor) -> Tensor:
        return self.model.encode_text(**tokens)


def precision_of(dtype: str) -> torch.dtype:
    """Precision of torch by its name.

    Raises:
        ConfigError: it is none of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"precision {dtype!r} is none of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def cosine_scores(
    tower: Tower,
    images: np.ndarray,
    prompts: Sequence[Prompt],
    *,
    transform: Preprocess,
    scale: float = 1.0,
) -> Scores:
    """`scale` times the cosine of each image with its prompt's text; NaN where a picture cannot be seen.

    Part `truncated`: 1 where the prompt is longer than the text encoder, so that its end was not seen.

    Args:
        tower: see `Tower`.
        images: uint8 RGB (N, H, W, 3).
        prompts: N prompts.
        transform: how an image becomes the encoder's input.
        scale: factor of the cosine.
    """
    nothing = unseen(images)
    if nothing is not None:
        return nothing
    texts = [prompt.text for prompt in prompts]
    cut = np.array(tower.truncated(texts), dtype=np.float32)
    return Scores.of(scale * tower.cosines(images, texts, transform), parts={"truncated": cut})


@shared
def load_clip(folder: Path, device: str = "cpu") -> ClipTower:
    """The tower that `save_pretrained` (model, tokenizer) left in a folder; one object a process while it is used.

    Raises:
        MissingWeights: no such folder, or no `model.safetensors` in it.
        ConfigError: the file lacks tensors of the network, or has others.
    """
    from transformers import AutoTokenizer, CLIPModel

    if not (folder / "model.safetensors").is_file():
        raise MissingWeights(f"no CLIP at {folder}: expected model.safetensors there.")
    loaded: Any = CLIPModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    model, report = loaded
    refuse_misfits(folder, report)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return ClipTower(model, tokenizer, device=device)


def refuse_misfits(path: Path, report: Mapping[str, Any]) -> None:
    """Refuse weights that are not the network's.

    Args:
        path: of the weights, for the message.
        report: kind of misfit -> names of tensors.

    Raises:
        ConfigError: there is any, naming up to three of each kind.
    """
    wrong = {kind: sorted(map(str, names))[:3] for kind, names in report.items() if names}
    if wrong:
        raise ConfigError(f"weights in {path} do not fit their network: {wrong}.")
