"""recipe.json: what a run does, what it was begun with, and what was changed on the way.

The file is the recipe's own fields, and `run`: the run's `id`, the `digests` of its base, prompts and rewards, and the
`history` of settings that were changed on resume, each with the iteration from which it holds; `made_with`, the
packages' versions and the device, and in the history where these changed. `check` tells a file that was edited since:
what it says now was not done.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nftbench.benchmark.faults import in_words
from nftbench.parsing import parse_json
from nftbench.runs.io import write_atomic
from nftbench.runs.seeds import refuse_parent
from nftbench.training.config.overrides import flat
from nftbench.training.config.recipe import AUTO, Recipe
from rewards.base import ConfigError, Prompt, RewardInfo

RECIPE = "recipe.json"
RUN = "run"
"""Key of what is no setting."""
CHECK = "check"
"""Last entry of the file; runs of before have none."""
WORDS = ("name", "summary", "evidence", "seed", RUN)
"""What two runs of one recipe may differ in."""
APART = (
    "guards.",
    "checkpoints.",
    "loggers",
    "rollout.batch_size",
    "policy.gradient_checkpointing",
)
"""What no number comes of: when a run stops, is saved and logged, and how much of it is done at once."""


@dataclass(kw_only=True)
class RunRecord:
    """What a run was begun with and what became of it."""

    id: str = ""
    """Digest of the recipe and of all it named at the start: two runs of one id do the same."""
    digests: dict[str, str] = field(default_factory=dict)
    """`base`, `prompts of stage N` and `reward KEY`: what they held when they were first used."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """`iteration` from which it holds, and `changes`: setting -> [before, after]."""
    made_with: dict[str, str] = field(default_factory=dict)
    """`version of PACKAGE` and `device`, as of when it was last begun or resumed; empty in runs of before."""


def begun(recipe: Recipe, digests: Mapping[str, str], made_with: Mapping[str, str]) -> RunRecord:
    """The record of a new run."""
    text = recipe.model_dump_json() + json.dumps(digests, sort_keys=True)
    number = hashlib.sha256(text.encode()).hexdigest()[:16]
    return RunRecord(id=number, digests=dict(digests), made_with=dict(made_with))


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """sha256 of all that prompts ask, the first 16 hexadecimal digits."""
    return _digest([{k: v for k, v in asdict(p).items() if k != "origin"} for p in prompts])


def reward_digest(info: RewardInfo) -> str:
    """The same of what decides a reward's value: variant, weights, source, scale and direction."""
    names = ("name", "variant", "train_scale", "higher_is_better", "weights", "source")
    files = [(f.name, f.sha256) for f in info.files]
    return _digest([[getattr(info, n) for n in names], files])


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def save_recipe(folder: Path, recipe: Recipe, record: RunRecord | None = None) -> None:
    """Note what a run does."""
    fields = recipe.model_dump(mode="json") | {RUN: asdict(record or RunRecord())}
    fields |= {CHECK: _digest(fields)}
    write_atomic(folder / RECIPE, f"{json.dumps(fields, indent=2)}\n".encode())


def stored_recipe(folder: Path) -> Recipe:
    """What a run does.

    Raises:
        ConfigError: the folder is not a training run, or its recipe is damaged or was changed by hand.
    """
    return _stored(folder)[0]


def stored_record(folder: Path) -> RunRecord:
    """What a run was begun with.

    Raises:
        ConfigError: as `stored_recipe`.
    """
    return _stored(folder)[1]


def recorded_id(folder: Path) -> str:
    """The id of a folder's run; empty where nothing says so."""
    try:
        return str(parse_json((folder / RECIPE).read_bytes())[RUN]["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def recipe_fields(path: Path) -> dict[str, Any]:
    """What a run's file says, its settings and `run`.

    Raises:
        ConfigError: it was edited since it was written.
        ValueError: it is no JSON of a table.
    """
    fields = parse_json(path.read_bytes())
    if not isinstance(fields, dict):
        raise ValueError("expected a table of settings")
    if fields.pop(CHECK, None) not in (None, _digest(fields)):
        raise ConfigError(
            f"{path} was changed since nftbench wrote it; restore it, and change settings by nftbench train --resume "
            f"{path.parent} --set section.key=value"
        )
    return fields


def _stored(folder: Path) -> tuple[Recipe, RunRecord]:
    path = folder / RECIPE
    refuse_parent(
        folder, "give the command that began it again, which goes on where it stopped, or "
    )
    if not path.is_file():
        raise ConfigError(f"not a training run: {folder} holds no {RECIPE}")
    try:
        fields = recipe_fields(path)
        run = fields.pop(RUN, {})
        record = RunRecord(**run)
        noted = (record.id, *record.digests.values(), *record.made_with.values())
        if not all(isinstance(value, str) for value in noted):
            raise ValueError("digests or versions that are no text")
        return Recipe.model_validate(fields), record
    except ConfigError:
        raise
    except ValidationError as error:
        reason = in_words(error, Recipe)
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    raise ConfigError(f"{path} is damaged ({reason}); restore it, or start the training again")


def settings_changed(before: Recipe, after: Recipe) -> dict[str, list[Any]]:
    """Setting -> [before, after] of all in which two recipes differ."""
    return _difference(before.model_dump(mode="json"), after.model_dump(mode="json"))


def as_chosen(recipe: Recipe, own: Recipe) -> Recipe:
    """A recipe with what it leaves to the machine (`auto`) as a run that was begun has it: once chosen, it stays."""
    kept = {name: getattr(own.policy, name) for name, value in recipe.policy if value == AUTO}
    return recipe.model_copy(update={"policy": recipe.policy.model_copy(update=kept)})


def made_otherwise(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[Any]]:
    """Version or device -> [before, now] of those that were noted and are others now."""
    return {
        what: [before[what], now[what]] for what in now if before.get(what, now[what]) != now[what]
    }


def refuse_other_seed(folder: Path, other: Path) -> None:
    """Refuse to count two runs as two seeds of one training: they differ in more than the seed.

    Raises:
        ConfigError: names the first setting, now or on the way, or what they both named and was not the same.
    """
    refuse_other_recipe(folder, stored_recipe(folder), stored_recipe(other))
    refuse_other_way(folder, other)
    refuse_other_digests(folder, stored_record(folder).digests, stored_record(other).digests)


def refuse_other_recipe(folder: Path, one: Recipe, other: Recipe) -> None:
    """Refuse a run whose recipe is another one than that of another seed.

    Args:
        folder: the run.
        one: its recipe.
        other: the other one's; what either leaves to `auto` may have become anything.

    Raises:
        ConfigError: names the first setting in which they differ.
    """
    for name, (here, there) in settings_changed(one, other).items():
        if _counts(name) and AUTO not in (here, there):
            raise ConfigError(
                f"{folder} was trained with {name} {here}, where another seed has {there}: seeds of two recipes have "
                "no mean; give the same settings, or another --out"
            )


def _counts(setting: str) -> bool:
    """Whether seeds that differ in a setting are of two trainings."""
    return setting.partition(".")[0] not in WORDS and not setting.startswith(APART)


def refuse_other_way(folder: Path, other: Path | None = None) -> None:
    """Refuse a run whose settings were changed on the way as another seed's were not: its end alone is like theirs.

    Args:
        folder: the run.
        other: the other seed's; None is one that nothing was changed of.

    Raises:
        ConfigError: names the first setting, and where it was changed.
    """
    mine, theirs = _way(folder), _way(other) if other else {}
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            run, (done, (old, new)) = next(
                (run, next(iter(way[name].items())))
                for run, way in ((folder, mine), (other, theirs))
                if way.get(name)
            )
            raise ConfigError(
                f"{run} was trained with {name} {old} up to iteration {done} and {new} after it, another seed was not: "
                "they have no mean; train it again, or give another --out"
            )


def _way(folder: Path) -> dict[str, dict[int, list[Any]]]:
    """Setting -> iterations done -> [before, after], of all that counts and was changed since the run began."""
    recipe, record = _stored(folder)
    falls = any(one.final_lr for one in (recipe.optimizer, *recipe.stages))
    way: dict[str, dict[int, list[Any]]] = {}
    for entry in record.history:
        for name, (old, new) in entry["changes"].items():
            more = name.endswith(".iterations") and not falls  # each was what it would have been
            if _counts(name) and not (more or name == "device" or name.startswith("version of ")):
                changes = way.setdefault(name, {})
                changes[entry["iteration"]] = [changes.get(entry["iteration"], [old])[0], new]
    kept = {name: {k: v for k, v in of.items() if v[0] != v[1]} for name, of in way.items()}
    return {name: of for name, of in kept.items() if of}


def refuse_other_digests(folder: Path, one: Mapping[str, str], other: Mapping[str, str]) -> None:
    """Refuse a run whose base, prompts or rewards are not those of another seed, whatever their names.

    Args:
        folder: the run.
        one: its `RunRecord.digests`.
        other: the other one's.

    Raises:
        ConfigError: names the first that differs.
    """
    for what in one:
        if one[what] != other.get(what, one[what]):
            raise ConfigError(
                f"{folder}: {what} has digest {one[what]}, where another seed was trained with {other[what]}: they "
                "have no mean; restore it, or give another --out"
            )


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    one, other = flat(before), flat(after)
    names = sorted(one.keys() | other.keys())
    return {k: [one.get(k), other.get(k)] for k in names if one.get(k) != other.get(k)}
