"""Certificates: what all checks of a reward found, by which libraries, and what that proves."""

import json
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules
from typing import Any
from zipfile import BadZipFile

import rewards
from rewards import certify as package
from rewards.base import ConfigError, Prompt, RewardInfo
from rewards.certify import Check, Checks, compare
from rewards.certify.preprocessing import pictures_of, read_golden

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "numpy",
    "pillow",
    "rapidfuzz",
)
"""Whose versions a certificate names."""
RULES = {"ocr": "rules only", "geneval": "rules only", "unifiedreward": "needs a judge"}
"""Name -> the verdict's second half where the checks leave out what looks at the pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Whether a reward equals its reference, as far as was compared."""

    reward: str
    """Full key."""
    verdict: str
    """`equal`, `differs`, or `partly: ...` with what would have to be there to see more."""
    needs: str
    """Commands to see more; empty where all was seen."""
    full: bool
    """Whether networks of full size were compared, where there are any."""
    checks: tuple[Check, ...]
    versions: Mapping[str, str]
    """Of `LIBRARIES` and Python."""
    date: str
    """Day in UTC, ISO 8601."""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed for check in self.checks)

    def encode(self) -> bytes:
        """JSON, the fields in a fixed order; a number that is none is null."""
        fields = {
            "reward": self.reward,
            "verdict": self.verdict,
            "needs": self.needs,
            "full": self.full,
            "references": references(self.checks),
            "checks": [_row(check) for check in self.checks],
            "versions": dict(self.versions),
            "date": self.date,
        }
        return (json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _row(check: Check) -> dict[str, Any]:
    row = asdict(check) | {"passed": check.passed}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def references(checks: Sequence[Check]) -> list[dict[str, str]]:
    """Repositories with their commits, and packages with their versions, that the numbers are of."""
    pairs = {re.match(r"([^\s@]+)[@ ]v?([\w.]+)", check.reference) for check in checks}
    found = {match.groups() for match in pairs if match}
    return [{"name": name, "version": number} for name, number in sorted(found)]


# --- checks ---------------------------------------------------------------------------------------


def tables() -> dict[str, tuple[tuple[Checks, ...], tuple[Checks, ...]]]:
    """Key -> cheap checks and those of full-size networks, of all modules of `rewards.certify`, in their order."""
    cheap: dict[str, tuple[Checks, ...]] = {}
    full: dict[str, tuple[Checks, ...]] = {}
    for module in sorted(found.name for found in iter_modules(package.__path__)):
        loaded = import_module(f"{package.__name__}.{module}")
        large = getattr(loaded, "FULL_SIZE", {})
        for key, checks in getattr(loaded, "CHECKS", {}).items():
            long = large.get(key, ())
            cheap[key] = cheap.get(key, ()) + tuple(c for c in checks if c not in long)
            full[key] = full.get(key, ()) + long
    return {key: (cheap[key], full[key]) for key in sorted(cheap)}


def real_name(key: str) -> str:
    """The golden file of a reward's values under its published weights."""
    return f"real_{key}.json"


def real_values(key: str, folder: Path) -> Iterator[Check]:
    """A reward as users load it against the reference's values on the golden pictures.

    `real_KEY.json` holds `reference`, `tolerance` and `cases`: `image`, `prompt` (fields of `Prompt`) and `score`.

    Raises:
        ConfigError: the reward cannot be loaded; it says what is missing.
    """
    golden, pictures = read_golden(folder, real_name(key)), pictures_of(folder)
    reward = rewards.load_reward(key)
    ours = [
        reward.score(pictures[case["image"]][None], [Prompt(id=str(i), **case["prompt"])]).values[0]
        for i, case in enumerate(golden["cases"])
    ]
    yield compare(
        "values under the published weights",
        ours,
        [case["score"] for case in golden["cases"]],
        tolerance=golden["tolerance"],
        reference=golden["reference"],
    )


def certify(
    keys: Sequence[str],
    folder: Path,
    *,
    full: bool = False,
    told: Callable[[str], None] = lambda key: None,
) -> Iterator[Certificate]:
    """Run the checks of rewards; one that several share runs once.

    Args:
        keys: full keys.
        folder: of golden numbers.
        full: compare networks of full size as well: minutes, up to 5 GB.
        told: told of each reward before its checks run.

    Raises:
        ConfigError: a reward without checks, or a golden file that is missing or broken.
    """
    known = tables()
    for key in keys:
        if key not in known:
            raise ConfigError(f"reward {key!r} has no check; these have: {', '.join(known)}.")
    found: dict[Checks, tuple[Check, ...]] = {}
    for key in keys:
        told(key)
        cheap, long = known[key]
        real = (folder / real_name(key)).is_file()
        checks: list[Check] = []
        for check in cheap + (long if full else ()):
            found[check] = found[check] if check in found else _run(check, folder)
            checks += found[check]
        checks += _run(lambda where, key=key: real_values(key, where), folder) if real else ()
        yield _certificate(key, checks, deep=bool(long), full=full, real=real)


def _run(check: Checks, folder: Path) -> tuple[Check, ...]:
    try:
        return tuple(check(folder))
    except FileNotFoundError as error:
        raise ConfigError(
            f"golden file {error.filename} is missing; name a folder that has it with --golden."
        ) from None
    except (json.JSONDecodeError, BadZipFile) as error:
        raise ConfigError(f"a golden file of {folder} cannot be read: {error}.") from None


# --- verdict --------------------------------------------------------------------------------------


def _certificate(
    key: str, checks: Sequence[Check], *, deep: bool, full: bool, real: bool
) -> Certificate:
    """What was found.

    Args:
        key: full key.
        checks: all that were run.
        deep: whether there are checks of full-size networks.
        full: whether those were run.
        real: whether the reward was compared as users load it.
    """
    if deep and not full:
        verdict, needs = "partly: needs --full", f"run: nftbench certify {key} --full"
    else:
        verdict, needs = _verdict(rewards.reward_info(key), deep=deep, real=real)
    if not all(check.passed for check in checks):
        verdict = "differs"
    return Certificate(
        reward=key,
        verdict=verdict,
        needs=needs,
        full=full or not deep,
        checks=tuple(checks),
        versions={"python": platform.python_version()}
        | {name: version(name) for name in LIBRARIES},
        date=datetime.now(UTC).date().isoformat(),
    )


def _verdict(info: RewardInfo, *, deep: bool, real: bool) -> tuple[str, str]:
    """What passed checks prove, and what would prove more."""
    rest = "" if deep else RULES.get(info.name, "")
    rest = rest or ("needs weights" if info.files else "")
    if real or not rest:
        return "equal", ""
    fetch = f"nftbench rewards pull {info.key}; " if info.files else ""
    command = f"nftbench certify {info.key} --full --golden DIR"
    values = f"DIR also holding {real_name(info.key)}, the reference's values"
    return f"partly: {rest}", f"{fetch}{command}, {values}"
