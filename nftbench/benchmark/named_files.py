"""Files of images that are named after prompts: which are read, and what each is named after."""

import hashlib
import re
from collections.abc import Sequence, Set
from pathlib import Path

from nftbench.benchmark.prompts import LONGEST_ID
from rewards.base import ConfigError, Prompt

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
"""Of images that are read."""
BESIDE = frozenset({"", ".txt", ".json", ".jsonl", ".yaml", ".csv"})
"""Of files with facts about an image."""
NUMBERED = re.compile(r"(?P<id>.+?)[-_](?P<index>[0-9]{1,6})")


def pictures(folder: Path) -> list[Path]:
    """The images of a folder, in their names' order."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())


def id_of(stem: str) -> str:
    """A file's name as a prompt's id: itself, or what an id may hold of it and the name's digest."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)
    if kept == stem and not stem.startswith(".") and len(stem) <= LONGEST_ID:
        return stem
    digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{kept[:60].strip('.-')}-{digest[:8]}".lstrip("-")


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


def refuse_missing(asked: Sequence[Prompt], shown: Set[str], name: str, source: Path) -> None:
    """Refuse prompts without an image: a mean over the others would be taken for one over all of them."""
    missing = [prompt for prompt in asked if prompt.id not in shown]
    if not missing:
        return
    said = (
        f"{len(missing)} of {len(asked)} prompts of {name} have no image, the first {missing[0].text!r} "
        f"(id {missing[0].id})"
    )
    if unread := unread_files(source, {prompt.id for prompt in missing}):
        said += (
            f"; {len(unread)} files named after them are of no format that is read, the first {unread[0].name}: make "
            f"them {', '.join(sorted(ENDINGS))}"
        )
    raise ConfigError(f"{said}; add the images, or pass --prompts without these")


def refuse_unread(folder: Path) -> None:
    """Refuse captions whose image is of no format that is read: the others' mean would be taken for one over all."""
    if unread := unread_files(folder, {path.stem for path in folder.glob("*.txt")}):
        raise ConfigError(
            f"{len(unread)} files with captions are of no format that is read, the first {unread[0].name}; make them "
            f"{', '.join(sorted(ENDINGS))}, or take them and their captions away"
        )


def unread_note(source: Path, ids: Set[str]) -> list[str]:
    """Said of files that are named as the images are and were passed over."""
    unread = unread_files(source, ids)
    if not unread:
        return []
    return [
        f"passed over: {len(unread)} files named after prompts, the first {unread[0].name}; images end in "
        f"{', '.join(sorted(ENDINGS))}"
    ]
