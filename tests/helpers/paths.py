"""Where tests find things, from any folder they lie in."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
GOLDEN = ROOT / "tests" / "golden"
"""Numbers that the references' own code gave."""
DATA = ROOT.parent / "shared" / "data"
"""Official prompt files, which are never shipped; tests that need them skip with a reason where they are not."""
