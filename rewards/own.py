"""Rewards in a file of the user's own: `./my_reward.py:Brightness` is the class `Brightness` of that file.

Naming one runs the file, as `python my_reward.py` would. So `add_files` is given what a user writes, on the command
line or in Python, and never what a run, a recipe or a suite says; these hold the reward's key alone. The file's digest
is part of what the reward says of itself (`RewardInfo.source`), and so of every score: another file is another reward.
"""

import hashlib
import inspect
import os
import re
import sys
import types
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.base import ConfigError, Prompt, RewardInfo, Scores, did_you_mean
from rewards.stated import faults

if TYPE_CHECKING:
    import numpy as np

ITEM = re.compile(r"(?P<path>.+\.py)(:(?P<name>[^:]*)(?P<weight>:.*)?)?")
"""`FILE.py:NAME`, and in training `FILE.py:NAME:WEIGHT`."""
EXPECTED = "expected FILE.py:NAME, such as my_reward.py:Brightness"
EXAMPLE = "rewards/README.md has a whole example"
MADE = re.compile(r"(?P<named>.+\.py:\w+), sha256 (?P<digest>[0-9a-f]{64})\b")
"""Beginning of what such a reward says of its source."""
KEY = re.compile(r"[\w.-]+(@[\w.-]+)?")
"""What a reward may be called."""


@dataclass(frozen=True, slots=True)
class OwnFactory:
    """Builds a reward of a file that was run."""

    path: Path
    name: str
    digest: str
    """sha256 of the file, 64 hexadecimal digits."""
    build: Any

    @property
    def place(self) -> tuple[Path, str]:
        """Where it stands, whatever the file holds now."""
        return self.path.resolve(), self.name

    @property
    def info(self) -> RewardInfo | None:
        """What the reward says of itself; None where it has to be built to say it."""
        info = getattr(self.build, "info", None)
        return self._described(info) if isinstance(info, RewardInfo) else None

    def __call__(self, *, device: str = "cpu") -> "OwnReward":
        """Build it.

        Raises:
            ConfigError: a fault of the user's code, or it is not a reward.
        """
        self._check_call()
        with Blamed(self.path):
            reward = self.build(device=device)
        info = self._described(getattr(reward, "info", None))
        for method in ("score", "check"):
            if not callable(getattr(reward, method, None)):
                raise ConfigError(f"{self.path}: {self.name} has no method `{method}`; {EXAMPLE}")
        return OwnReward(reward, info, self.path)

    def _check_call(self) -> None:
        try:
            inspect.signature(self.build).bind(device="cpu")
        except TypeError:
            raise ConfigError(
                f"{self.path}: {self.name} cannot be called as {self.name}(device=...), which is how a reward is made; "
                f"{EXAMPLE}"
            ) from None

    def _described(self, info: Any) -> RewardInfo:
        if not isinstance(info, RewardInfo):
            raise ConfigError(f"{self.path}: {self.name} has no `info`, a RewardInfo; {EXAMPLE}")
        if not KEY.fullmatch(info.key):
            raise ConfigError(
                f"{self.path}: {self.name} calls itself {info.key!r}; expected letters, digits, . _ and -"
            )
        for fault in faults(info):
            raise ConfigError(f"{self.path}: info of {self.name}: {fault}; {EXAMPLE}")
        made = f"{self.path.name}:{self.name}, sha256 {self.digest}"
        return replace(info, source=f"{made}; {info.source}" if info.source else made)


class OwnReward:
    """A reward of a user's file: a fault in it is one line that names the file's line."""

    def __init__(self, reward: Any, info: RewardInfo, path: Path) -> None:
        self.reward, self.info, self._path = reward, info, path

    def score(self, images: "np.ndarray", prompts: Sequence[Prompt]) -> Scores:
        """See `Reward.score`."""
        with Blamed(self._path):
            return self.reward.score(images, prompts)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """See `Reward.check`."""
        with Blamed(self._path):
            self.reward.check(prompts)


ADDED: dict[str, OwnFactory] = {}
"""By key: the rewards of files that were named in this process."""


def add_files(listed: str, others: Sequence[str] = ()) -> str:
    """Run the files that a list of rewards names, and make their rewards known by their keys.

    Args:
        listed: such as `ocr,./my_reward.py:Brightness:0.5`.
        others: keys of the rewards that are known already.

    Returns:
        The list with keys only: `ocr,brightness:0.5`.

    Raises:
        ConfigError: no such file or name in it, a file that cannot be run, or a key that is taken.
    """
    return ",".join(_added(item.strip(), others) for item in listed.split(","))


def as_named(listed: str) -> str:
    """A list of keys as a user names it again: `ocr,./my_reward.py:Brightness:0.5`; what `add_files` does, undone."""
    items = [item.strip().partition(":") for item in listed.split(",")]
    there = {key: f"{one.path}:{one.name}" for key, one in ADDED.items()}
    return ",".join(f"{there.get(key, key)}{colon}{weight}" for key, colon, weight in items)


def refuse_file(item: str) -> None:
    """Refuse to look a file up as a reward: only `add_files` runs one.

    Raises:
        ConfigError: the item names a file.
    """
    if ITEM.fullmatch(item):
        raise ConfigError(
            f"reward {item!r} is code of a file, which runs only where you name it: by --rewards, or rewards.add_files"
        )


def file_named(source: str) -> str:
    """`FILE.py:NAME` of what a reward of a file says of its source; empty for every other reward."""
    found = MADE.match(source)
    return found["named"] if found else ""


def file_digest(source: str) -> str:
    """sha256 of that file; empty for every other reward."""
    found = MADE.match(source)
    return found["digest"] if found else ""


def _added(item: str, others: Sequence[str]) -> str:
    found = ITEM.fullmatch(item)
    if found is None:
        return item
    name = (found["name"] or "").strip()
    if not name.isidentifier():
        raise ConfigError(f"reward {item!r}: {EXPECTED}")
    factory = _factory(Path(found["path"]), name)
    key = (factory.info or factory().info).key
    there = ADDED.get(key)
    if key in others or (there and there.place != factory.place):
        raise ConfigError(
            f"{factory.path}: {name} calls itself {key!r}, which another reward is called"
            f"{f' ({there.path})' if there else ''}; choose another `name` or `variant` in its info"
        )
    ADDED[key] = factory
    return f"{key}{found['weight'] or ''}"


def _factory(path: Path, name: str) -> OwnFactory:
    if not path.is_file():
        raise ConfigError(f"no file {path}; {EXPECTED}")
    code = path.read_bytes()
    digest = hashlib.sha256(code).hexdigest()
    build = getattr(_run(path, code, digest), name, None)
    if callable(build):
        return OwnFactory(path, name, digest, build)
    module = sys.modules[_module_name(digest)]
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    hint = did_you_mean(name, own, f"it has {', '.join(own) or 'no class'}")
    raise ConfigError(f"{path} has no class {name!r}{hint}")


def _module_name(digest: str) -> str:
    return f"nftbench_own_{digest[:16]}"


def _run(path: Path, code: bytes, digest: str) -> types.ModuleType:
    """The file as a module, run once for each content: the bytes of the digest and no others."""
    name = _module_name(digest)
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = str(path)
    with Blamed(path):
        program = compile(code, str(path), "exec")
        sys.modules[name] = module  # dataclasses look their module up
        try:
            exec(program, vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return module


class Faulty(ConfigError):
    """Code that is not ours has a mistake in it."""


class Blamed(AbstractContextManager):
    """Turns an error of code that is not ours, of whatever class, into one line that names the file and its line.

    So does an exit: a file that ends the process would end ours, as if all were done. What is out of memory passes, for
    whoever called can do with fewer images; so does Ctrl-C. A change of the working directory is undone and refused:
    the run's own paths are relative to it, and would lead elsewhere from then on.
    """

    def __init__(self, where: Path | str) -> None:
        self._where = str(where)

    def __enter__(self) -> "Blamed":
        self._folder = _working_directory()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, *more: object
    ) -> None:
        moved = _working_directory()
        if self._folder and moved != self._folder:
            os.chdir(self._folder)
            if error is None:
                raise Faulty(
                    f"{self._where} changes the working directory to {moved}, where the run's paths would lead "
                    "elsewhere; name its files in full, such as Path(__file__).parent / 'weights.pt'"
                )
        if not isinstance(error, Exception | SystemExit) or isinstance(error, ConfigError):
            return
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
            return
        place = f", line {line}" if (line := _line(error, self._where)) else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise Faulty(f"{self._where}{place}: {type(error).__name__}: {said}") from error


def _working_directory() -> str:
    """Where relative paths begin; empty where that folder is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _line(error: BaseException, file: str) -> int | None:
    """The last line of a file that an error came through."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    lines, trace = [], error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else None
