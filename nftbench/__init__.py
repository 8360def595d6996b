"""nftbench: evaluation, rewards and NFT training of text-to-image diffusion models."""

from importlib.util import find_spec
from pathlib import Path

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
