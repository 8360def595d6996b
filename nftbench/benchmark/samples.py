"""The images a benchmark asks for, each with its name and the seed of its noise."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.base import Prompt


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to be made: the index-th of its prompt."""

    prompt: Prompt
    index: int

    @property
    def key(self) -> str:
        """Name of the image's file, without its ending."""
        return f"{self.prompt.id}-{self.index:02d}"


def samples(prompts: Sequence[Prompt], images_per_prompt: int) -> list[Sample]:
    """All images of a benchmark, prompt by prompt."""
    return [Sample(p, i) for p in prompts for i in range(images_per_prompt)]


def image_seed(seed: int, prompt_id: str, index: int) -> int:
    """Seed of one image's noise, in [0, 2^63)."""
    digest = hashlib.sha256(f"{seed}/{prompt_id}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
