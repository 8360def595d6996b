"""Weights that anyone can rebuild from the names of the parameters, to compare networks without a download.

Random weights make a score meaningless as quality and keep it sensitive: another resize, activation or token moves it.
"""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor


def seeded(name: str, shape: Iterable[int], seed: int) -> Tensor:
    """Value of one parameter.

    Args:
        name: in the published checkpoint's spelling, such as `text_model.final_layer_norm.weight`.
        shape: of the parameter.
        seed: added to the digest of the name.

    Returns:
        float32 of that shape: ln 100 for a `logit_scale`, about 1 for norms' weights, small for biases and kernels,
        of unit gain for matrices.
    """
    shape = tuple(shape)
    digest = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    normal = np.random.RandomState((digest + seed) % 2**32).standard_normal(size=shape)
    if name.split(".")[-1] == "logit_scale":
        value = np.log(100.0) * np.ones(shape)
    elif len(shape) == 1 and name.endswith(".weight"):
        value = 1 + 0.1 * normal
    elif len(shape) == 2:
        value = normal / np.sqrt(shape[1])
    else:
        value = 0.02 * normal
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def seeded_state(state: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A state dict of the same names and shapes with `seeded` values; whole numbers are kept as they are."""
    return {
        name: seeded(name, old.shape, seed) if old.is_floating_point() else old
        for name, old in state.items()
    }
