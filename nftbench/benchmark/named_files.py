"""Files of images that are named after prompts: which are read, and what each is named after."""

import re
from collections.abc import Set
from pathlib import Path

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
"""Of images that are read."""
BESIDE = frozenset({"", ".txt", ".json", ".jsonl", ".yaml", ".csv"})
"""Of files with facts about an image."""
NUMBERED = re.compile(r"(?P<id>.+?)[-_](?P<index>[0-9]{1,6})")


def pictures(folder: Path) -> list[Path]:
    """The images of a folder, in their names' order."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())


def named_after(path: Path, ids: Set[str]) -> str | None:
    """The prompt's id that a file is named by: `ID.png`, `ID-NUMBER.png`."""
    numbered = NUMBERED.fullmatch(path.stem)
    return next((i for i in (path.stem, numbered and numbered["id"]) if i in ids), None)


def unread_files(source: Path, ids: Set[str]) -> list[Path]:
    """Files named after prompts that are no image by their ending, nor stand beside one as its caption may."""
    if not source.is_dir():
        return []
    shown = {path.stem for path in pictures(source)}
    return sorted(
        path
        for path in source.iterdir()
        if path.suffix.lower() not in ENDINGS | BESIDE
        and path.stem not in shown
        and named_after(path, ids)
        and path.is_file()
    )
