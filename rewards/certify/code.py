"""Digests of the code that a number follows from: the text of modules without what changes no number.

Comments, documentation, blank lines and folders of modules are left out: a file that only moves, or says the same in
better words, keeps its digest. Imports nothing heavy.
"""

import ast
import hashlib
import io
import tokenize
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LIGHT = {
    "rewards.base",
    "rewards.weights.pull",
    "rewards.weights.sources",
    "rewards.vlm.chat",
    "rewards.vlm.exchange",
}
"""Modules that carry numbers and change none: a change of theirs changes no digest."""


@cache
def modules_digest(module: str) -> str:
    """Digest of a module and of all modules of `rewards`, and of its own package, that it imports.

    Args:
        module: full name.

    Returns:
        32 hexadecimal digits.
    """
    texts = [(name.rpartition(".")[2], _bare(name)) for name in reached(module)]
    lines = [f"{name} {_digest(text)}" for name, text in texts if text]  # not: an empty folder
    return _digest("\n".join(sorted(lines)))[:32]


def reached(module: str) -> set[str]:
    """A module, and all modules of `rewards` and of its own package that it imports, and they."""
    found: set[str] = set()
    ahead = [module]
    while ahead:
        name = ahead.pop()
        if name not in found and name not in LIGHT:
            found.add(name)
            ahead += _imported(name)
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _imported(module: str) -> list[str]:
    """Modules of `rewards` and of the module's own package that a module imports, anywhere in it."""
    own = {"rewards", module.partition(".")[0]}
    named: set[str] = set()
    for node in ast.walk(ast.parse(_text(module))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return [n for n in sorted(named) if n.partition(".")[0] in own and _is_module(n)]


def _bare(module: str) -> str:
    """A module's text without comments, documentation and blank lines, its imports named without their folders."""
    text = _text(module)
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            lines[line - 1] = lines[line - 1][:column]
    imports: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            imports += _names(node)
            last = node.end_lineno or node.lineno
            lines[node.lineno - 1 : last] = [""] * (last - node.lineno + 1)
    return "\n".join([*sorted(imports), *(line.rstrip() for line in lines if line.strip())])


def _names(node: ast.stmt) -> list[str]:
    """What an import brings in, without the folders of modules; nothing of another statement."""
    if isinstance(node, ast.Import):
        return [f"{a.name.rpartition('.')[2]} as {a.asname}" for a in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    home = f"{(node.module or '').rpartition('.')[2]} "
    return [
        f"{'' if _is_module(f'{node.module}.{a.name}') else home}{a.name} as {a.asname}"
        for a in node.names
    ]


@cache
def _is_module(name: str) -> bool:
    if "." not in name:
        return False  # the registry: another key changes no number of this one
    try:
        spec = find_spec(name)
    except (ModuleNotFoundError, ValueError):  # a name within a module, or one made by hand
        return False
    return bool(spec and spec.origin)


@cache
def _text(module: str) -> str:
    """The text of a module; empty of one that was made by hand, as in a notebook."""
    try:
        spec = find_spec(module)
    except ValueError:
        return ""
    return Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
