"""`make families`: the table of nftbench/generation/FAMILIES.md; names of families measure those alone."""

import argparse
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from tests.families.survey import Finding, survey
from tests.helpers.models import families
from tests.helpers.paths import ROOT

TABLE = ROOT / "nftbench" / "generation" / "FAMILIES.md"
ROW = re.compile(r"[a-z0-9_]+ \| \w+Pipeline \|")
COLUMNS = {
    "family": "family",
    "pipeline": "pipeline",
    "evaluated": "`nftbench eval FOLDER`",
    "recorded": "guidance recorded",
    "counted": "guidance counted",
    "size": "drawn",
    "prompt_seen": "prompt seen",
    "trained": "trained",
    "loaded_back": "LoRA elsewhere",
}
ABOUT = """# Families

Written by `make families`, all rows in one run; a row alone by `python -m tests.families.table NAME --write`.
Tiny random pipelines of the installed diffusers ({versions}),
each saved by `save_pretrained` and then taken through the commands a user types:
`nftbench eval FOLDER --suite geneval-pocket --size ...`, `nftbench train FOLDER`, `nftbench eval RUN`.
*Counted* is by hooks on the networks and the solvers' steps, not by what the engine recorded. *LoRA elsewhere* loads
what training left with diffusers' or peft's own loader and compares pixels. "exit 2" is the one line that the command
ended with.

"""


def row(finding: Finding) -> str:
    """One line of the table."""
    cells = (str(getattr(finding, name)).replace("|", "\\|") for name in COLUMNS)
    return f"| {' | '.join(cells)} |"


def findings_of(document: str) -> dict[str, str]:
    """Rows of the document by family."""
    lines = [line.removeprefix("| ") for line in document.splitlines()]
    return {line.split(" | ")[0]: line for line in lines if ROW.match(line)}


def write(rows: dict[str, str]) -> None:
    """The document anew, rows in the builders' order."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("diffusers", "transformers", "peft")
    )
    head = [f"| {' | '.join(COLUMNS.values())} |", f"|{'---|' * len(COLUMNS)}"]
    lines = [f"| {rows[name]}" for name in families.BUILDERS if name in rows]
    missing = [f"| `{name}` | {why} |" for name, why in families.UNBUILT.items()]
    left_out = ["", "Text-to-image classes that are not in it:", "", "| class | why |", "|---|---|"]
    text = ABOUT.format(versions=packages) + "\n".join([*head, *lines, *left_out, *missing])
    TABLE.write_text(f"{text}\n", "utf-8")


def main() -> None:
    """Measure; print every row as it is done, and with `--write` keep it in the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="all when left out")
    parser.add_argument("--write", action="store_true", help="put the rows into the document")
    parser.add_argument("--no-train", action="store_true", help="evaluate alone")
    arguments = parser.parse_args()
    for name in arguments.families or list(families.BUILDERS):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="families-") as folder:
            found = row(survey(name, Path(folder), train=not arguments.no_train))
        print(found, flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if arguments.write:
            known = findings_of(TABLE.read_text("utf-8")) if TABLE.is_file() else {}
            write(known | {name: found.removeprefix("| ")})


if __name__ == "__main__":
    main()
