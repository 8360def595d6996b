"""What the documents say is true: commands parse, links and paths exist, short examples run.

A fenced block after `<!-- run -->` is run whole, in a folder that holds the document's `<!-- file NAME -->` blocks and
nothing else. Other commands are parsed against the command
line: an unknown command, flag or a missing argument fails. `<!-- gpu -->` marks blocks that nobody can run without one.
"""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from nftbench.cli.main import app
from tests.helpers.paths import ROOT

FENCE = re.compile(
    r"(?:<!-- (?P<mark>run|gpu|tests|file) ?(?P<name>[\w.]*) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```",
    re.M | re.S,
)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
CHEAP = ("benchmarks", "recipes", "rewards", "table pocket-table1", "table table1")
"""Commands that only read, when nothing else is asked of them."""


def documents() -> list[Path]:
    """Every document of the checkout, none of a virtual environment's or a run's."""
    skipped = {"runs", "build", "dist", "node_modules", "leaderboard-site"}
    found = [p.relative_to(ROOT) for p in ROOT.rglob("*.md")]
    return sorted(
        p for p in found if not any(part[0] == "." or part in skipped for part in p.parts)
    )


DOCUMENTS = [str(path) for path in documents()]


def text_of(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def blocks(document: str, *kinds: str, mark: str | None = None) -> list[str]:
    found = FENCE.finditer(text_of(document))
    return [b["body"] for b in found if b["kind"] in kinds and (mark is None or b["mark"] == mark)]


def fenced(document: str) -> Iterator[list[str]]:
    """Words of every `nftbench ...` in shell blocks, without the program's own name."""
    for block in blocks(document, "sh", "bash"):
        for words in lines_of(block):
            yield from _of_nftbench(words)


def lines_of(block: str) -> Iterator[list[str]]:
    """Words of every line of a shell block."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&")
        lexer.whitespace_split, lexer.commenters = True, "#"
        yield list(lexer)


def _of_nftbench(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word and not set(word) <= set("();|&"):
            command.append(word)
            continue
        while command and re.match(r"[A-Z_]+=", command[0]):
            command.pop(0)
        if "-m" in command and command[command.index("-m") + 1 :][:1] == ["nftbench"]:
            command = command[command.index("-m") + 1 :]
        if command and Path(command[0]).name == "nftbench":
            yield command[1:]
        command = []


def inline(document: str) -> Iterator[list[str]]:
    prose = FENCE.sub("", text_of(document))
    for found in re.findall(r"(?<!\\)`nftbench ([^`\\]+)`", prose):
        yield shlex.split(found)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and what follows; fails on an unknown one."""
    command, rest = typer.main.get_command(app), list(words)
    while rest and hasattr(command, "commands"):
        if rest[0].startswith("-"):
            break
        assert rest[0] in command.commands, f"nftbench {' '.join(words)}: unknown {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def check_flags(words: list[str]) -> None:
    command, rest = command_of(words)
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    for word in rest:
        flag = word.split("=")[0]
        assert not flag.startswith("-") or flag in known, f"nftbench {' '.join(words)}: {flag}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_parse(document: str):
    """No document names a command or flag that is not there, or leaves out what one needs."""
    for words in inline(document):
        check_flags(words)
    for words in fenced(document):
        check_flags(words)
        command, rest = command_of(words)
        if rest and not {"-h", "--help", "--version"} & set(rest):
            command.make_context("nftbench", rest)
        elif not rest and not hasattr(command, "commands"):
            command.make_context("nftbench", [])


def test_wrong_commands_are_found():
    """The check can fail: a misspelt flag, an unknown command and a missing argument do."""
    for words in (["eval", "pocket", "--sweet", "a"], ["evaluate", "pocket"], ["rewards", "pul"]):
        with pytest.raises(AssertionError):
            check_flags(words)
    command, rest = command_of(["eval"])
    with pytest.raises(Exception, match=r"(?i)missing argument|checkpoint"):
        command.make_context("nftbench", rest)


def test_short_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What only reads is run as it stands."""
    monkeypatch.chdir(tmp_path)
    found = {" ".join(words) for d in DOCUMENTS for words in (*fenced(d), *inline(d))}
    cheap = sorted(c for c in found if c in CHEAP or c.endswith("--help"))
    assert {"recipes", "rewards"} <= set(cheap)
    for command in cheap:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, f"nftbench {command}: {result.output}"


def _marked() -> list[Any]:
    return [
        pytest.param(document, block, kind, id=f"{document}-{number}")
        for document in DOCUMENTS
        for kind in ("sh", "python")
        for number, block in enumerate(blocks(document, kind, mark="run"))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("document", "block", "kind"), _marked())
def test_marked_blocks_run(document: str, block: str, kind: str, start, start_code, tmp_path: Path):
    """A block that says it runs does, beside the document's files alone; a command has a process of its own."""
    for file in FENCE.finditer(text_of(document)):
        if file["mark"] == "file":
            (tmp_path / file["name"]).write_text(file["body"], encoding="utf-8")
    if kind == "python":
        assert_ended_well(start_code(f"sys.path.insert(0, '')\n{block}"))
        return
    subprocess.run(["bash", "-n", "-c", block], check=True)
    for program, *words in filter(None, lines_of(block)):
        assert program == "nftbench", f"{document}: only nftbench is run here, not {program}"
        assert_ended_well(start(*words))


def assert_ended_well(command) -> None:
    code, out, err = command.finish()
    assert code == 0, out + err


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document: str):
    """A link within the repository leads to a file or folder of it."""
    prose = FENCE.sub("", text_of(document))
    for target in LINK.findall(prose):
        assert (ROOT / document).parent.joinpath(target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d != "CHANGELOG.md"])
def test_named_paths_exist(document: str):
    """Paths in code style that begin with a folder of the project exist; the changelog speaks of the past."""
    prose = FENCE.sub("", text_of(document))
    for path in re.findall(
        r"`((?:nftbench|rewards|tests|benchmarks|leaderboards)/[\w./@-]*)`", prose
    ):
        places = (ROOT, (ROOT / document).parent)
        assert any((place / path).exists() for place in places), f"{document}: {path}"


def test_layout_is_true():
    """Every folder of code or recipes stands in the layout, below the folder that holds it, and nothing else does."""
    named, above = set(), []
    for indent, name in re.findall(r"^( *)(\w+)/ ", blocks("nftbench/README.md", "text")[0], re.M):
        above[len(indent) // 2 :] = [name]
        named.add("/".join(above))
    kept = [p for d in ("nftbench", "rewards") for p in (ROOT / d).rglob("*.*")]
    holding = {p.parent for p in kept if p.suffix == ".py"} | {ROOT / "nftbench" / "recipes"}
    there = {p.relative_to(ROOT).as_posix() for p in holding}
    assert named == there | {"benchmarks", "leaderboards", "tests"}


def test_readme_is_short_and_has_its_commands():
    """A newcomer reads it whole; CI reads the test command in it."""
    readme = text_of("README.md")
    assert len(readme.splitlines()) < 150
    assert len(blocks("README.md", "sh", mark="tests")) == 1
    assert readme.count("<!-- leaderboard:") == readme.count("<!-- /leaderboard -->") > 0


def test_keys_of_recipes_are_the_models(tmp_path: Path):
    """`nftbench/recipes/KEYS.md` is what the command writes."""
    made = tmp_path / "KEYS.md"
    result = CliRunner().invoke(app, ["recipes", "pocket", "--out", str(made)])
    assert result.exit_code == 0, result.output
    remake = "nftbench recipes pocket --out nftbench/recipes/KEYS.md"
    assert made.read_text("utf-8") == text_of("nftbench/recipes/KEYS.md"), f"if meant: {remake}"


def test_workflows_run_what_the_documents_say():
    """The README's test command stands in one of them; every `nftbench ...` of theirs parses."""
    steps = []
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        jobs = yaml.safe_load(path.read_text("utf-8"))["jobs"]
        steps += [step for job in jobs.values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert blocks("README.md", "sh", mark="tests")[0].strip() in [c.strip() for c in commands]
    found = re.findall(r"\.venv/bin/nftbench (.*)", "\n".join(commands))
    assert any("leaderboard verify" in words for words in found)
    for words in found:
        check_flags(shlex.split(words))
        assert "github.event" not in words


def test_modules_that_documents_name_exist():
    """Dotted names of two dots and more, such as nftbench.pocket.world.scenes: a module, or a name within one."""
    kept = [
        p.relative_to(ROOT) for d in ("nftbench", "benchmarks") for p in (ROOT / d).rglob("*.toml")
    ]
    named = {
        (str(path), name)
        for path in (*documents(), *kept)
        for name in re.findall(r"\b((?:nftbench|rewards|tests)(?:\.\w+){2,})", text_of(path))
    }
    lost = sorted((where, name) for where, name in named if not _module_or_name(name.split(".")))
    assert named and not lost


def _module_or_name(parts: list[str]) -> bool:
    whole, parent = ROOT.joinpath(*parts), ROOT.joinpath(*parts[:-1])
    if whole.is_dir() or whole.with_suffix(".py").is_file():
        return True
    sources = [p for p in (parent.with_suffix(".py"), parent / "__init__.py") if p.is_file()]
    return any(re.search(rf"\b{parts[-1]}\b", p.read_text("utf-8")) for p in sources)


def test_the_quick_tests_leave_out_what_all_tests_leave_out():
    """`-m` of a command takes the place of pyproject.toml's: the fault suite was among the quick tests."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    left_out = set(re.findall(r"not \w+", options["ini_options"]["addopts"]))
    quick = re.search(
        r'^test:.*?-m "(.*?)"', (ROOT / "Makefile").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert quick and left_out and left_out < set(quick[1].split(" and "))
