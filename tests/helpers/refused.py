"""What is said of a checkpoint that cannot be had."""

import pytest

from nftbench.generation.checkpoint import load_model
from rewards.base import ConfigError


def refusal(checkpoint: str) -> str:
    """The one line that loading it ends in."""
    with pytest.raises(ConfigError) as caught:
        load_model(checkpoint)
    assert "\n" not in str(caught.value)
    return str(caught.value)
