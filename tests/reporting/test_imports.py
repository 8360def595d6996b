"""Whoever reads finished runs waits for no network library: a second in place of ten."""

import subprocess
import sys

READERS = (
    "nftbench.runs.run_folder",
    "nftbench.reporting.compare",
    "nftbench.reporting.html_report.build",
    "nftbench.reporting.html_report.live",
    "nftbench.reporting.leaderboard.board",
    "nftbench.reporting.tables",
)
CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(sorted({"torch", "diffusers", "transformers", "accelerate"} & set(sys.modules)))
"""


def test_readers_import_no_network_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *READERS], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
