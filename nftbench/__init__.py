"""nftbench: evaluation, rewards and NFT training of text-to-image diffusion models."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nftbench.api import Evaluation, Training, evaluate, score, train

__version__ = "0.1.0"


def _refuse_another_rewards() -> None:
    """`rewards` is a common name: somebody's `rewards.py` beside a notebook would take its place.

    Raises:
        ImportError: `import rewards` would find something else than this project's package.
    """
    own = Path(__file__).resolve().parents[1] / "rewards"
    spec = find_spec("rewards")
    found = Path(spec.origin).resolve() if spec and spec.origin else None
    if found != own / "__init__.py":
        raise ImportError(
            f"nftbench needs its own package `rewards` in {own}, but `import rewards` finds "
            f"{found or 'none'}: rename that, or start Python where it is not on sys.path"
        )


_refuse_another_rewards()

__all__ = ("Evaluation", "Training", "evaluate", "score", "train")


def __getattr__(name: str) -> Any:
    """What is done from Python is imported when it is first asked for: `import nftbench` stays light."""
    if name not in __all__:
        raise AttributeError(f"module 'nftbench' has no attribute {name!r}")
    from nftbench import api

    return getattr(api, name)
