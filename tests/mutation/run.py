"""Puts each mutant into a copy of the project and asks the cheap certificate, then the quick tests; writes TABLE.md.

`python -m tests.mutation.run [WORD...]` runs all, or those whose line holds one of the words, and leaves the other rows
of the table. The libraries are imported once; each mutant is looked at in a fork, which imports the copy's own code.
"""

import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.helpers.paths import GOLDEN, ROOT
from tests.mutation.mutants import MUTANTS, Mutant

TABLE = Path(__file__).with_name("TABLE.md")
PACKAGES = ("rewards", "nftbench", "tests")
OURS = re.compile(rf"({'|'.join(PACKAGES)})(\.|$)")
LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "diffusers",
    "open_clip",
    "cv2",
    "pandas",
    "scipy.stats",
)
LIBRARIES += (
    "typer",
    "pydantic",
    "rich",
    "hypothesis",
    "pytest",
    "rapidfuzz",
    "onnxruntime",
    "PIL.Image",
    "peft",
)
LIVES, NOT_RUN = "**lives**", "not run"
LONGEST = 900
"""Seconds of the processor that one look may take."""


class Copy:
    """A copy of the project: its code as files, the rest as links."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for package in PACKAGES:
            shutil.copytree(
                ROOT / package,
                folder / package,
                copy_function=_copied,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        for name in ("benchmarks", "leaderboards", "pyproject.toml", "README.md"):
            (folder / name).symlink_to(ROOT / name)

    def with_mutant(self, mutant: Mutant, look: Callable[[], str]) -> str:
        """What a look at the copy says while the mutant is in it."""
        path = self.folder / mutant.file
        source = path.read_text("utf-8")
        path.write_text(source.replace(mutant.old, mutant.new, 1), "utf-8")
        try:
            return look()
        finally:
            path.write_text(source, "utf-8")

    def certify(self, key: str) -> str:
        """What `nftbench certify KEY` finds wrong; empty where nothing is."""
        out = self.folder / "certificates"
        shutil.rmtree(out, ignore_errors=True)
        code, said = self._in_a_fork(lambda: _command(["certify", key, *where(out)]))
        made = out / f"{key}.json"
        if not code:
            assert made.is_file(), said
            return ""
        if not made.is_file():
            return f"refused: {said.strip().splitlines()[-1]}" if said.strip() else f"exit {code}"
        found = json.loads(made.read_bytes())
        failed = [row["name"] for row in found["checks"] if not row["passed"]]
        return failed[0] if failed else f"not compared: {found['needs']}"

    def test(self, files: Sequence[str]) -> str:
        """The first of the quick tests that fails; empty where none does."""
        code, said = self._in_a_fork(lambda: _tests(self.folder, files))
        if not code:
            return ""
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
        return failed.group(1) if failed else f"exit {code}: {said.strip()[-200:]}"

    def _in_a_fork(self, work: Callable[[], int]) -> tuple[int, str]:
        with tempfile.TemporaryFile() as told:
            child = os.fork()
            if not child:
                _be_another(self.folder, told.fileno(), work)
            _, status = os.waitpid(child, 0)
            told.seek(0)
            return os.waitstatus_to_exitcode(status), told.read().decode("utf-8", "replace")


def _copied(source: str, target: str) -> None:
    if source.endswith(".py"):
        shutil.copy(source, target)
    else:
        os.symlink(source, target)


def _be_another(folder: Path, told: int, work: Callable[[], int]) -> None:
    """Work as a process of the copy, and end."""
    code = 99
    try:
        signal.setitimer(signal.ITIMER_PROF, LONGEST)  # of the processor: other work takes nothing
        os.dup2(told, 1)
        os.dup2(told, 2)
        os.chdir(folder)
        for name in [name for name in sys.modules if OURS.match(name)]:
            del sys.modules[name]
        sys.path[:] = [str(folder), *(p for p in sys.path if p not in ("", str(ROOT)))]
        importlib.invalidate_caches()
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - a mutant may break anything
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def where(out: Path) -> list[str]:
    """Arguments of `certify` that leave the project's own certificates alone."""
    return ["--golden", str(GOLDEN), "--out", str(out)]


def _command(arguments: Sequence[str]) -> int:
    sys.argv = ["nftbench", *arguments]
    importlib.import_module("nftbench.cli.main").main()
    return 0


def _tests(folder: Path, files: Sequence[str]) -> int:
    import pytest

    chosen = "not slow and not full_size and not mutation"
    how = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", chosen]
    return int(
        pytest.main([*how, f"--rootdir={folder}", "-c", str(folder / "pyproject.toml"), *files])
    )


def tests_of(mutant: Mutant) -> list[str]:
    """Files or folders of the tests that are asked: where none is named, the mirror of the file or of its folder."""
    path = Path(mutant.file.removeprefix("nftbench/"))
    stem = "registry" if path.stem == "__init__" else path.stem
    mirror = f"tests/{path.parent}/test_{stem}.py"
    return mutant.tests.split() or [mirror if (ROOT / mirror).is_file() else f"tests/{path.parent}"]


class Judge:
    """What notices a mutant; first of all that nothing is noticed without one."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._sound: set[tuple[str, ...]] = set()

    def killed_by(self, mutant: Mutant) -> str:
        """The certificate's first check that differs, or the first test that fails; empty where it lives."""
        copy, files = self._copy, tests_of(mutant)
        if mutant.certificate:
            self._without((mutant.certificate,), lambda: copy.certify(mutant.certificate))
            found = copy.with_mutant(mutant, lambda: copy.certify(mutant.certificate))
            if found:
                return f"certify {mutant.certificate}: {found}"
        self._without(tuple(files), lambda: copy.test(files))
        return copy.with_mutant(mutant, lambda: copy.test(files))

    def _without(self, what: tuple[str, ...], look: Callable[[], str]) -> None:
        if what not in self._sound:
            found = look()
            assert not found, f"{what} fails without a mutant: {found}"
            self._sound.add(what)


def main() -> None:
    """Run, say a line a mutant, and write it into the table; the exit code is the number that live."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    words, lived = sys.argv[1:], 0
    for library in LIBRARIES:
        importlib.import_module(library)
    chosen = [m for m in MUTANTS if not words or any(w in f"{m.kind}: {m}" for w in words)]
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Copy(Path(folder) / "copy"))
        for mutant in chosen:
            killed = " ".join(judge.killed_by(mutant).replace(folder, "").split())
            lived += not killed
            sys.stdout.write(f"{mutant.kind}: {mutant} | {killed or LIVES}\n")
            sys.stdout.flush()
            TABLE.write_text(table(known() | {str(mutant): killed or LIVES}), "utf-8")
    sys.exit(min(lived, 99))


def known() -> dict[str, str]:
    """Fault -> what noticed it, of the table as it is."""
    if not TABLE.is_file():
        return {}
    cells = [line.split(" | ") for line in TABLE.read_text("utf-8").splitlines()]
    said = {row[1].strip("`"): row[2].removesuffix(" |") for row in cells if len(row) == 3}
    return {str(m): said[cell(str(m))] for m in MUTANTS if cell(str(m)) in said}


def table(found: Mapping[str, str]) -> str:
    """The table as Markdown; a mutant that was not run yet says so.

    Args:
        found: fault -> what noticed it, or `LIVES`.
    """
    ran = {fault: cell(how) for fault, how in found.items() if how != NOT_RUN}
    dead = sum(how != LIVES for how in ran.values())
    lines = [
        "# One-line faults, and what notices each",
        "",
        f"{len(MUTANTS)} mutants, {len(ran)} run, {dead} noticed. Made by `make mutation` (all rows) or by",
        "`python -m tests.mutation.run WORD...` (those that hold a word); `mutants.py` is the list. Each fault is",
        "put into a copy of the project; `nftbench certify` looks first, then the quick tests of the file. A row is of",
        "the commit at which its mutant was last run.",
        "",
        "| kind | fault | noticed by |",
        "|---|---|---|",
    ]
    lines += [f"| {m.kind} | `{cell(str(m))}` | {ran.get(str(m), NOT_RUN)} |" for m in MUTANTS]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text that a Markdown table can hold, and that no reader takes for a link."""
    return text.replace("|", "/").replace("`", "'").replace("](", "] (")


if __name__ == "__main__":
    main()
