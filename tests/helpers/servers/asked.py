"""An image service asked by the command, and what it was asked."""

import json
import urllib.request

from tests.helpers.commands import run_here

ARGUMENTS = ("--suite", "geneval-pocket", "--rewards", "jpeg", "--limit", "2")


def log(url: str) -> list[dict]:
    with urllib.request.urlopen(f"{url}/log", timeout=10) as answer:
        return json.load(answer)["asked"]


def refused(cwd, *arguments: str) -> str:
    code, said = run_here(cwd, *arguments)
    assert code == 2, said
    return said
