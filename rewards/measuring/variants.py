"""How far variants of one reward disagree on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import spearmanr


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """Two variants on the images that both could score; differences are first minus second, native units."""

    first: str
    second: str
    n: int
    """Images that both scored; where it is 0, the numbers below are NaN."""
    mean: float
    """Mean difference: a shift of the scale."""
    mean_absolute: float
    max_absolute: float
    worst: int
    """Place of the image they disagree about most; -1 where there is none."""
    spearman: float
    """Rank correlation; NaN where a variant scores all images alike, or n < 2."""


def disagreements(values: Mapping[str, np.ndarray]) -> list[Disagreement]:
    """Compare each pair of variants.

    Args:
        values: scores by variant, (N,) each, of the same N images; NaN where one was not scored.

    Returns:
        One entry a pair, in the order of `values`.
    """
    return [_pair(first, second, values) for first, second in combinations(values, 2)]


def _pair(first: str, second: str, values: Mapping[str, np.ndarray]) -> Disagreement:
    a, b = (np.asarray(values[key], dtype=np.float64) for key in (first, second))
    assert a.shape == b.shape, "variants must be asked about the same images"
    places = np.flatnonzero(np.isfinite(a) & np.isfinite(b))
    a, b = a[places], b[places]
    gap = a - b
    some = len(gap) > 0
    return Disagreement(
        first=first,
        second=second,
        n=len(gap),
        mean=float(gap.mean()) if some else np.nan,
        mean_absolute=float(np.abs(gap).mean()) if some else np.nan,
        max_absolute=float(np.abs(gap).max()) if some else np.nan,
        worst=int(places[np.abs(gap).argmax()]) if some else -1,
        spearman=_rank_correlation(a, b),
    )


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    if any(len(np.unique(x)) < 2 for x in (a, b)):
        return float("nan")
    return float(spearmanr(a, b).statistic)  # pyright: ignore[reportAttributeAccessIssue]
