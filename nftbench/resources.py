"""The project's data files: what is asked and what came out, in a checkout and in a wheel alike."""

from pathlib import Path

HERE = Path(__file__).parent


def data_folder(name: str) -> Path:
    """Where `benchmarks` or `leaderboards` lies.

    A wheel carries them as `nftbench/data/NAME`; in a checkout they are folders beside `nftbench`,
    where people edit them.
    """
    packaged = HERE / "data" / name
    return packaged if packaged.is_dir() else HERE.parent / name
