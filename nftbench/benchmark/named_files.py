"""Files of images that are named after prompts: which are read, and what each is named after."""

import hashlib
import re
from collections.abc import Sequence, Set
from itertools import pairwise
from pathlib import Path

from nftbench.benchmark.prompts import LONGEST_ID
from rewards.base import ConfigError, Prompt

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
"""Of images that are read."""
BESIDE = frozenset({"", ".txt", ".json", ".jsonl", ".yaml", ".csv"})
"""Of files with facts about an image."""
NUMBERED = re.compile(r"(?P<id>.+?)[-_](?P<index>[0-9]{1,6})")


def pictures(folder: Path) -> list[Path]:
    """The images of a folder, in their names' order, numbers by their size: `10.png` is the eleventh, not the third.

    Raises:
        ConfigError: a link that leads nowhere, or two images of one name (`a.png`, `a.jpg`): one too few or too many
            would be counted in silence.
    """
    files = (p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and not p.is_dir())
    found = sorted(files, key=by_number)
    stems: dict[str, Path] = {}
    for path in found:
        if not path.exists():
            raise ConfigError(f"{path} is a link to no file; put the image there, or take it away")
        if (other := stems.setdefault(path.stem, path)) != path:
            raise ConfigError(f"{other} and {path.name} are two images of one name; keep one")
    return [path for path in found if path.is_file()]


def by_number(path: Path) -> tuple[list[str | int], str]:
    """Texts and numbers of a name in turn; the name itself parts `1.png` from `01.png`."""
    parts = re.split("([0-9]+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def geneval_folders(source: Path) -> list[Path]:
    """GenEval's folders of a prompt each, in the order of their numbers: `2` comes before `10`."""
    return sorted((p.parent for p in source.glob("*/metadata.jsonl")), key=by_number)


def samples_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """GenEval's images of one prompt, which have numbers for names, and others beside them, such as a grid of them.

    Where none has a number, all of them are its images.

    Raises:
        ConfigError: a number is the name of a file of no format that is read.

    Source: djghosh13/geneval@af4902f evaluation/evaluate_images.py, which passes over names that are no number.
    """
    found = pictures(folder)
    numbered = [path for path in found if path.stem.isdecimal()] or found
    refuse_unread(folder, {p.stem for p in folder.iterdir() if p.stem.isdecimal()})
    return numbered, [path for path in found if path not in numbered]


def geneval_notes(source: Path) -> list[str]:
    """Said of GenEval's folder: prompts between others that are not there, files that are none of its images."""
    folders = geneval_folders(source) if source.is_dir() else []
    notes = []
    numbers = sorted({int(folder.name) for folder in folders if folder.name.isdecimal()})
    if lost := [before + 1 for before, after in pairwise(numbers) if after > before + 1]:
        count = numbers[-1] - numbers[0] + 1 - len(numbers)
        notes.append(
            f"missing: {count} of the folders {numbers[0]:05d} to {numbers[-1]:05d} are not there, the first "
            f"{lost[0]:05d}; their prompts count nowhere"
        )
    if others := [path for folder in folders for path in samples_of(folder / "samples")[1]]:
        notes.append(
            f"passed over: {len(others)} files whose name is no number, the first {others[0]}"
        )
    return notes


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


def refuse_unread(folder: Path, names: Set[str]) -> None:
    """Refuse images of no format that is read: the others' mean would be taken for one over all.

    Args:
        folder: of the images.
        names: that an image has, such as those of captions, without ending.
    """
    if unread := unread_files(folder, names):
        raise ConfigError(
            f"{len(unread)} images of {folder} are of no format that is read, the first {unread[0].name}; make them "
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
