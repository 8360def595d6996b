"""Certificates: what all checks of a reward found, by which libraries, and what that proves."""

import json
import math
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules
from typing import Any
from zipfile import BadZipFile

import rewards
from rewards import certify as package
from rewards.base import ConfigError, Prompt, RewardInfo
from rewards.certify import Check, Checks, NothingToCompareError, compare
from rewards.certify.preprocessing import opened, pictures_of, read_golden
from rewards.certify.verdicts import code_digest, file_digest

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
    code: str = ""
    """Digest of the code that was certified: `rewards.certify.verdicts.code_digest`."""
    golden: Mapping[str, str] = field(default_factory=dict)
    """Golden file -> its digest."""

    @property
    def passed(self) -> bool:
        """Whether something was compared, and no check failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

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
            "code": self.code,
            "golden": dict(self.golden),
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
        told: called with each reward before its checks run.

    Yields:
        A certificate a reward; what could not be compared, for want of a file or of a package, is said in it.

    Raises:
        ConfigError: a reward without checks, or no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"not a folder: {folder}; expected the folder of the golden numbers.")
    known = tables()
    for key in keys:
        if key not in known:
            raise ConfigError(f"reward {key!r} has no check; these have: {', '.join(known)}.")
    found: dict[Checks, CheckOutcome] = {}
    for key in keys:
        told(key)
        cheap, long = known[key]
        real = (folder / real_name(key)).is_file()
        chosen = [*cheap, *(long if full else ()), *([partial(real_values, key)] if real else ())]
        for check in chosen:
            if check not in found:
                found[check] = run_check(check, folder)
        yield _certificate(key, [found[c] for c in chosen], deep=bool(long), full=full, real=real)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOutcome:
    """What came of one function of checks."""

    checks: tuple[Check, ...] = ()
    trouble: str = ""
    """Why it could not be run, or not to its end."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Golden file -> digest."""


def run_check(check: Checks, folder: Path) -> CheckOutcome:
    """Run one function of checks; a golden file, a package or weights that are missing are its `trouble`."""
    done: list[Check] = []
    trouble = ""
    with opened() as files:
        try:
            done.extend(check(folder))
        except FileNotFoundError as error:
            trouble = f"{Path(error.filename).name} is not in {folder}"
        except (json.JSONDecodeError, BadZipFile) as error:
            trouble = f"a golden file of {folder} cannot be read: {error}"
        except KeyError as error:
            trouble = f"the golden files of {folder} hold no {error}"
        except (ConfigError, NothingToCompareError) as error:
            trouble = str(error)
        read = {file.name: file_digest(file) for file in sorted(files) if file.is_file()}
    return CheckOutcome(checks=tuple(done), trouble=trouble, files=read)


# --- verdict --------------------------------------------------------------------------------------


def _certificate(
    key: str, outcomes: Sequence[CheckOutcome], *, deep: bool, full: bool, real: bool
) -> Certificate:
    """What was found.

    Args:
        key: full key.
        outcomes: of all checks that were asked for.
        deep: whether there are checks of full-size networks.
        full: whether those were asked for.
        real: whether the reward was compared under its published weights.
    """
    troubles = list(dict.fromkeys(o.trouble for o in outcomes if o.trouble))
    if troubles:
        verdict, needs = "partly: not all could be compared", "; ".join(troubles)
    elif deep and not full:
        verdict, needs = "partly: needs --full", f"run: nftbench certify {key} --full"
    else:
        verdict, needs = _verdict(rewards.reward_info(key), deep=deep, real=real)
    whole = (full or not deep) and not troubles
    return certificate_of(key, outcomes, verdict, needs, full=whole, code=code_digest(key))


def certificate_of(
    name: str, outcomes: Sequence[CheckOutcome], verdict: str, needs: str, *, full: bool, code: str
) -> Certificate:
    """A certificate of what was found, with today's date and the versions of libraries.

    Args:
        name: of what is certified.
        outcomes: of all checks that were asked for.
        verdict: where every check passed.
        needs: see `Certificate`.
        full: the same.
        code: the same.
    """
    checks = tuple(check for outcome in outcomes for check in outcome.checks)
    if not all(check.passed for check in checks):
        verdict = "differs"
    return Certificate(
        reward=name,
        verdict=verdict if checks else "not compared",
        needs=needs,
        full=full,
        checks=checks,
        versions={"python": platform.python_version()}
        | {library: version(library) for library in LIBRARIES},
        date=datetime.now(UTC).date().isoformat(),
        code=code,
        golden={file: digest for o in outcomes for file, digest in o.files.items()},
    )


def fuller(old: Mapping[str, Any], new: Certificate) -> bool:
    """Whether a certificate that is there says more than a new one, which must not take its place.

    Args:
        old: read by `rewards.certify.verdicts.read`; empty where there is none.
        new: the other one.
    """
    cases = sum(row["cases"] for row in old.get("checks", ()))
    fewer = sum(check.cases for check in new.checks) < cases
    return bool(old) and not new.full and (bool(old.get("full")) or fewer)


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
