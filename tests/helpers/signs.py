"""Signs of the pocket world, as they are drawn and as they are asked for."""

import numpy as np

from nftbench.pocket.world import drawing, scenes
from rewards.base import Prompt


def signs(count: int) -> tuple[np.ndarray, list[Prompt]]:
    """Clean pictures, uint8 (count, 64, 64, 3), and their prompts."""
    drawn = [scenes.random_scene(np.random.default_rng(i), "sign") for i in range(count)]
    prompts = [Prompt(id=str(i), text=scene.caption) for i, scene in enumerate(drawn)]
    return np.stack([drawing.render(scene) for scene in drawn]), prompts
