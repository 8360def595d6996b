"""What was loaded, in 16 hexadecimal digits: sha256 over names and bytes of files."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

WORDS = {
    ".md", ".rst", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg", ".pdf", ".csv", ".log", ".lock",
}  # fmt: skip
"""Endings of files that no part of a pipeline reads."""
MAPPED = (".safetensors", ".bin")
"""Endings of weights that loaders map into memory: where nothing copies them, a network goes on reading the file."""
NOTES = {
    "license", "license.txt", "notice", "readme", "readme.txt", "nftbench.toml",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
"""Names, in lower case, of such files; the last ones are what systems leave in folders that were looked at."""


def folder_digest(folder: Path) -> str:
    """Digest of everything in a folder that a pipeline can load.

    That is every file but words and pictures about it (`README.md`, `LICENSE`, hidden files, `nftbench.toml`) and what
    an operating system drops (`Thumbs.db`):
    weights of any ending, configurations, vocabularies, merges, sentencepiece models, chat templates, code.
    """
    return files_digest(folder, (p for p in files_below(folder) if _loads(p, folder)))


def files_below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Every file of a folder, those in folders that are linked among them: loaders follow links, `rglob` does not.

    Args:
        folder: the folder.
        above: folders that are being read already, so that a link to one of them is not followed for ever.
    """
    real = folder.resolve()
    if real in above:
        return
    with suppress(
        PermissionError
    ):  # such as lost+found; a part that cannot be read is the loader's to refuse
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield from files_below(path, above | {real})
            elif path.is_file():
                yield path


def files_digest(folder: Path, paths: Iterable[Path]) -> str:
    """Digest of some files of a folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(_sha256(path).digest())
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Digest of one file's bytes, whatever it is called."""
    return _sha256(path).hexdigest()[:16]


def stamps(place: Path) -> dict[Path, tuple[int, int, int]]:
    """Of each file of weights in a folder, or of one: by what `written_over` tells that it is as it was."""
    paths = files_below(place) if place.is_dir() else [place] * place.is_file()
    return {path: _stamp(path) for path in paths if path.suffix in MAPPED}


def written_over(before: Mapping[Path, tuple[int, int, int]]) -> Path | None:
    """A file that was changed in place since; one that was replaced is still read as it was."""
    for path, stamp in before.items():
        with suppress(FileNotFoundError):
            if (now := _stamp(path)) != stamp and now[0] == stamp[0]:
                return path
    return None


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _sha256(path: Path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _loads(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    name = path.name.lower()
    return not (hidden or path.suffix.lower() in WORDS or name in NOTES)
