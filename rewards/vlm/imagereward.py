"""ImageReward: BLIP trained on people's rankings of images of one prompt."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rewards.base import Prompt, RewardInfo, Scores, Weight, unseen
from rewards.clip.models import read_tensors
from rewards.clip.towers import precision_of
from rewards.images import preprocess
from rewards.weights.pull import weight_file

if TYPE_CHECKING:
    from rewards.vlm.blip import BlipReward

MAX_TOKENS = 35
"""Longest text, [CLS] and [SEP] counted; the rest is cut off."""
BATCH_SIZE = 16
"""Pairs in one call of the network."""

Tokenize = Callable[[str], Sequence[int]]
"""Text -> all its token ids from [CLS] to [SEP], however many."""


class ImageReward:
    """How well an image suits its prompt, about -2 to 2.

    Each image is scored with its own prompt alone: N pairs cost N passes. Part `truncated`: 1 where the prompt was
    longer than `MAX_TOKENS` and its end was not seen. Evidence: `tokens` of the whole prompt.

    Source: THUDM/ImageReward@c1392c6 ImageReward/ImageReward.py `score`; NVlabs/DiffusionNFT@24af555
    flow_grpo/imagereward_scorer.py.
    Differs: upstream's trainer runs all N x N pairs and keeps the diagonal, and fails on one image. A reward that is
    not finite (half precision can overflow) is NaN with a reason.
    """

    def __init__(
        self,
        net: "BlipReward",
        tokenize: Tokenize,
        *,
        info: RewardInfo,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        """Put it together.

        Args:
            net: the network; it is moved to the device.
            tokenize: turns a prompt into ids; padding is 0.
            info: what the numbers mean.
            device: torch device to run on; results come back on the CPU.
            dtype: precision of both encoders, one of `rewards.clip.towers.DTYPES`; the linear layers after them stay in
                float32.

        Raises:
            ConfigError: unknown precision.
        """
        precision = precision_of(dtype)
        self.info = info
        self.net = net.to(device).eval().requires_grad_(False)
        self.net.vision.to(precision)  # pyright: ignore[reportArgumentType]
        self.net.text.to(precision)  # pyright: ignore[reportArgumentType]
        self.tokenize = tokenize
        self._device = device

    @torch.no_grad()
    def score(self, images: np.ndarray, prompts: Sequence[Prompt]) -> Scores:
        """Score images: see `Reward.score`."""
        nothing = unseen(images)
        if nothing is not None:
            return nothing
        tokens = [self.tokenize(prompt.text) for prompt in prompts]
        starts = range(0, len(images), BATCH_SIZE)
        batches = [slice(start, start + BATCH_SIZE) for start in starts]
        found = torch.cat([self._rewards(images[b], tokens[b]) for b in batches])
        values = torch.where(found.isfinite(), found, torch.nan)
        truncated = np.array([len(ids) > MAX_TOKENS for ids in tokens], dtype=np.float32)
        return Scores(
            values=values.numpy(),
            reasons=tuple(
                f"the network gave {raw}" if np.isnan(value) else ""
                for raw, value in zip(found.tolist(), values.tolist(), strict=True)
            ),
            parts={"truncated": truncated},
            evidence=tuple({"tokens": len(ids)} for ids in tokens),
        )

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Any text can be scored; past `MAX_TOKENS` it is cut, which the part `truncated` counts."""

    def _rewards(self, images: np.ndarray, tokens: Sequence[Sequence[int]]) -> Tensor:
        size = self.net.image_size
        pixels = torch.stack([preprocess.clipscore_openai(image, size) for image in images])
        ids, mask = (part.to(self._device) for part in padded(tokens))
        return self.net(pixels.to(self._device), ids, mask).cpu()


def padded(tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids cut and filled to one length always, so that a reward depends on its own text alone.

    Args:
        tokens: ids of N texts, [CLS] to [SEP] each.

    Returns:
        Ids, int64 (N, MAX_TOKENS), a text too long cut before its [SEP], 0 after a shorter one; and the mask, 1 for
        a token.
    """
    cut = [
        list(ids) if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]] for ids in tokens
    ]
    ids = torch.tensor([each + [0] * (MAX_TOKENS - len(each)) for each in cut])
    mask = torch.tensor([[1] * len(each) + [0] * (MAX_TOKENS - len(each)) for each in cut])
    return ids, mask


def bert_tokenize(vocabulary: Sequence[str]) -> Tokenize:
    """BERT's uncased WordPiece, with the two tokens that BLIP adds behind the vocabulary.

    Args:
        vocabulary: tokens in the order of their ids; `[PAD]` is the first.
    """
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_tokens(["[ENC]"], special_tokens=True)
    return lambda text: tokenizer(text, verbose=False)["input_ids"]


def imagereward(*, device: str = "cpu", dtype: str = "float32") -> ImageReward:
    """ImageReward-v1.0.

    Raises:
        MissingWeights: the weights or the vocabulary were not fetched.
        ConfigError: they hold something else, or the precision is unknown.
    """
    weights, vocabulary = (weight_file(file, reward=INFO.key) for file in INFO.files)
    from rewards.vlm.blip import blip_reward

    net = blip_reward(read_tensors(weights), weights)
    tokenize = bert_tokenize(vocabulary.read_text("utf-8").splitlines())
    return ImageReward(net, tokenize, info=INFO, device=device, dtype=dtype)


INFO = RewardInfo(
    name="imagereward",
    variant="",
    summary="BLIP trained on people's rankings; a standard normal over its own validation data",
    low=-10,  # a standard normal has no bound: beyond ten deviations the network is broken
    high=10,
    weights=("zai-org/ImageReward @ 5736be03b2652728fb87788c9797b0570450ab72 ImageReward.pt",),
    files=(
        Weight(
            name="imagereward/ImageReward.pt",
            url="hf://zai-org/ImageReward@5736be03b2652728fb87788c9797b0570450ab72/ImageReward.pt",
            sha256="d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",
            size=1_786_880_927,
            licence="Apache-2.0",
        ),
        Weight(
            name="imagereward/vocab.txt",
            url="hf://google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594/vocab.txt",
            sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            size=231_508,
            licence="Apache-2.0",
        ),
    ),
    licence="Apache-2.0",
    source="arXiv:2304.05977; THUDM/ImageReward@c1392c6 ImageReward/ImageReward.py score",
)
imagereward.info = INFO  # type: ignore[attr-defined]
