"""Does a reward equal its reference? Checks against numbers that the reference's own code gave.

Each module of this package holds the checks of some rewards, in `CHECKS`: by key, functions from a folder of golden
numbers to what was found.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison with a reference, over some cases."""

    name: str
    """What is compared, such as `preprocessing hpsv2_nft`."""
    reference: str
    """Whose numbers: `repo@commit file`, or a package with its version."""
    cases: int
    max_error: float
    """Largest difference, absolute unless `relative`."""
    mean_error: float
    tolerance: float
    relative: bool = False
    rank_correlation: float | None = None
    """Spearman's, of the values; None where fewer than three differ."""

    @property
    def passed(self) -> bool:
        """Whether every difference, NaN among them, is within the tolerance."""
        return bool(self.max_error <= self.tolerance)


Checks = Callable[[Path], Iterable[Check]]


class NothingToCompareError(Exception):
    """A folder of golden numbers holds no case of a check."""


def compare(
    name: str,
    ours: object,
    theirs: object,
    *,
    tolerance: float,
    reference: str,
    relative: bool = False,
) -> Check:
    """Compare numbers one by one.

    Args:
        name: see `Check`.
        ours: numbers, any shape.
        theirs: as many.
        tolerance: largest difference allowed.
        reference: see `Check`.
        relative: differences are divided by the largest size of `theirs`.

    Returns:
        The check; not as many of ours as of theirs is an infinite error.

    Raises:
        NothingToCompareError: the reference has no number.
    """
    a, b = (np.asarray(x, dtype=np.float64).ravel() for x in (ours, theirs))
    if not len(b):
        raise NothingToCompareError(f"{name}: the golden files hold no case")
    if a.shape != b.shape:
        a = np.full(b.shape, np.inf)
    error = np.abs(a - b) / (np.abs(b).max() if relative else 1.0)
    ranked = len(np.unique(b)) > 2 and len(np.unique(a)) > 1 and bool(np.isfinite(a).all())
    return Check(
        name=name,
        reference=reference,
        cases=len(a),
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        tolerance=tolerance,
        relative=relative,
        rank_correlation=float(spearmanr(a, b).statistic) if ranked else None,  # pyright: ignore[reportAttributeAccessIssue]
    )
