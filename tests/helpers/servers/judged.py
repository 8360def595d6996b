"""UnifiedReward over a judge that tests started, and what it is shown."""

import base64
import io

import numpy as np
from PIL import Image

from rewards.base import Prompt
from rewards.vlm.chat import Endpoint
from rewards.vlm.unifiedreward import NFT, UnifiedReward, nft


def reward(url: str, style=NFT, info=nft.info, **more) -> UnifiedReward:
    more = {"key": "flowgrpo", "timeout": 20.0, "backoff": 0.01} | more
    return UnifiedReward(Endpoint(url=url, **more), style=style, info=info)


def pictures(count: int) -> np.ndarray:
    """Of different brightness."""
    levels = np.linspace(20, 230, count).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 20, (count, 24, 32, 3), dtype=np.uint8)
    return noise + levels[:, None, None, None]


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(id=str(i), text=text) for i, text in enumerate(texts)]


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
