"""Where tests find things, from any folder they lie in."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
GOLDEN = ROOT / "tests" / "golden"
"""Numbers that the references' own code gave."""
DATA = ROOT.parent / "shared" / "data"
"""Official prompt files, which are never shipped; tests that need them skip with a reason where they are not."""


def written(folder: Path, name: str, text: str | bytes) -> Path:
    """A file of a folder, with the folders that it needs."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
