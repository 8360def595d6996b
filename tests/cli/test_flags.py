"""The command line's flags are frozen: a changed one is a changed golden file.

Made anew by `python -m tests.cli.test_flags`.
"""

import json
from typing import Any

import pytest
import typer.main

from nftbench.cli.main import app
from tests.helpers.commands import run_here
from tests.helpers.paths import GOLDEN

FLAGS = GOLDEN / "cli_flags.json"
REMAKE = "python -m tests.cli.test_flags"


def commands(command: Any, name: str) -> dict[str, dict[str, str]]:
    """Each command's parameters: how one is written, what it takes, and its default."""
    found = {name: dict(map(_parameter, command.params))}
    for inner, below in sorted(getattr(command, "commands", {}).items()):
        found |= commands(below, f"{name} {inner}")
    return found


def _parameter(parameter: Any) -> tuple[str, str]:
    option = parameter.param_type_name == "option"
    written = " ".join(parameter.opts + parameter.secondary_opts) if option else parameter.name
    kind = "flag" if getattr(parameter, "is_flag", False) else parameter.param_type_name
    many = ", many" if parameter.multiple or parameter.nargs == -1 else ""
    default = "required" if parameter.required else f"default {parameter.default}"
    return written, f"{kind}{many}, {default}"


def listed() -> str:
    found = commands(typer.main.get_command(app), "nftbench")
    return json.dumps(found, indent=1) + "\n"


def test_flags_are_frozen():
    """No flag, argument or default comes, goes or changes unseen."""
    assert listed() == FLAGS.read_text("utf-8"), f"flags changed; if meant, run: {REMAKE}"


@pytest.mark.parametrize("columns", ["60", "80"])
def test_help_names_every_flag_whole_in_a_narrow_terminal(tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for name, parameters in json.loads(listed()).items():
        code, said = run_here(tmp_path, *name.split()[1:], "--help")
        flags = [word for one in parameters for word in one.split() if word.startswith("--")]
        own = [flag for flag in flags if "completion" not in flag]  # typer's
        assert code == 0 and not [flag for flag in own if flag not in said], name
        assert "…" not in said, name


if __name__ == "__main__":
    FLAGS.write_text(listed(), encoding="utf-8")
