"""How each reward resizes, crops and normalises: one function a reference, named after it.

Every function takes one uint8 RGB picture (H, W, 3) and the network's side in pixels, and gives
float32 (3, size, size) with CLIP's mean and standard deviation taken out. They are kept apart on
purpose: a cosine moves by up to 6e-3 between bicubic and bilinear, which is more than many papers'
gains. Other modes of a file (grey, palette, alpha) become RGB before, where pictures are read.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Preprocess = Callable[[np.ndarray, int], torch.Tensor]
"""uint8 RGB (H, W, 3) and a side in pixels -> float32 (3, side, side)."""


def pickscore(image: np.ndarray, size: int = 224) -> torch.Tensor:
    """CLIP processor of transformers on PIL: bicubic on uint8, crop at floor(margin / 2).

    Source: huggingface/transformers@v4.40.0 image_processing_clip.py, image_transforms.py
    `center_crop`.
    """
    resized = _short_side_bicubic(image, size)
    height, width = resized.shape[1:]
    return _normalise(_crop(resized, (height - size) // 2, (width - size) // 2, size))


aesthetic_nft = pickscore
"""The aesthetic scorer uses the same processor, on uint8 tensors.

Source: NVlabs/DiffusionNFT@24af555 flow_grpo/aesthetic_scorer.py.
"""


def clipscore_openai(image: np.ndarray, size: int = 224) -> torch.Tensor:
    """OpenAI's and open_clip's transform: as `pickscore`, but with torchvision's centre crop.

    Where the margin is odd the crop starts at half of it rounded to even: one pixel beside
    `pickscore`'s for every other size. ImageReward uses the same transform.

    Source: openai/CLIP clip/clip.py `_transform`; pytorch/vision `center_crop`.
    """
    resized = _short_side_bicubic(image, size)
    height, width = resized.shape[1:]
    return _normalise(_crop(resized, round((height - size) / 2), round((width - size) / 2), size))


geneval_crop = clipscore_openai
"""GenEval sees a crop through open_clip's transform: the ends of long objects are cut off."""


def clipscore_nft(image: np.ndarray, size: int = 224) -> torch.Tensor:
    """DiffusionNFT's transform for CLIPScore: antialiased *bilinear* on floats, torchvision's crop.

    Source: NVlabs/DiffusionNFT@24af555 flow_grpo/clip_scorer.py `get_image_transform`.
    Differs: upstream hands over the sampler's float pixels; here they were rounded to uint8 before.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    height, width = _short_side_size(image.shape, size)
    resized = interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]
    return _normalise(_crop(resized, round((height - size) / 2), round((width - size) / 2), size))


def hpsv2_nft(image: np.ndarray, size: int = 224) -> torch.Tensor:
    """HPSv2's transform under torchvision >= 0.17: the long side fitted by antialiased *bicubic* on floats.

    The rest is black, half of it (rounded down) left or above. Values overshoot [0, 1] at edges and
    are not clipped.

    Source: tgxs002/HPSv2@866735e hpsv2/src/open_clip/transform.py `ResizeMaxSize`;
    NVlabs/DiffusionNFT@24af555 flow_grpo/hpsv2_scorer.py `image_transform_tensor`.
    Differs: upstream leaves a picture whose long side already is `size` as it is, and its network
    fails unless that is a square; here it is filled up like any other. NFT hands over the sampler's
    float pixels; here they were rounded to uint8 before.
    """
    return _letterbox(image, size, antialias=True)


def hpsv2_2024(image: np.ndarray, size: int = 224) -> torch.Tensor:
    """HPSv2's transform under torchvision <= 0.16, of which its published table comes: not antialiased.

    Source: as `hpsv2_nft`; pytorch/vision@v0.16.2 `resize` (no antialiasing of tensors by default).
    """
    return _letterbox(image, size, antialias=False)


def _letterbox(image: np.ndarray, size: int, *, antialias: bool) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    scale = size / max(pixels.shape[1:])
    if scale != 1:
        shape = [max(1, round(side * scale)) for side in pixels.shape[1:]]
        pixels = interpolate(pixels[None], shape, mode="bicubic", antialias=antialias)[0]
    height, width = pixels.shape[1:]
    top, left = (size - height) // 2, (size - width) // 2
    black = torch.zeros(3, size, size)
    black[:, top : top + height, left : left + width] = pixels
    return _normalise(black)


def _short_side_size(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Height and width when the shorter side becomes `size`; the longer one is rounded down."""
    height, width = shape[:2]
    short = min(height, width)
    return size * height // short, size * width // short


def _short_side_bicubic(image: np.ndarray, size: int) -> torch.Tensor:
    """float32 (3, h, w) in [0, 1], rounded to 256 levels as Pillow does."""
    height, width = _short_side_size(image.shape, size)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def _crop(pixels: torch.Tensor, top: int, left: int, size: int) -> torch.Tensor:
    return pixels[:, top : top + size, left : left + size]


def _normalise(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std
