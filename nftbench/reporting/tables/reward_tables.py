"""Tables of `nftbench rewards`: what rewards are, what came of them, what they cost, how variants disagree."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal

import rewards
from nftbench.reporting.tables.grid import Grid, grid_of
from rewards.base import ConfigError, RewardInfo, Weight
from rewards.certify.verdicts import standing
from rewards.extras import extra_of
from rewards.weights.pull import Pulled, state

if TYPE_CHECKING:
    from rewards.measuring.cost import Cost
    from rewards.measuring.variants import Disagreement


def listing(keys: Sequence[str]) -> Grid:
    """What each reward's numbers mean, and whether its weights are here.

    Args:
        keys: full keys.
    """
    rows = []
    for key in keys:
        try:
            info = rewards.reward_info(key)
        except ConfigError as error:
            rows.append((key, *("",) * 6, f"not here: {error}"))
            continue
        rows.append(
            (
                key,
                f"{info.low:g} to {info.high:g}",
                f"/{info.train_scale:g}",
                info.needs,
                _weights(info),
                info.licence,
                standing(key),
                info.summary,
            )
        )
    headings = "reward|native scale|training|needs|weights|licence|parity|what it is"
    return grid_of(
        headings.split("|"),
        rows,
        prose=("needs", "weights", "licence", "parity", "what it is"),
        spare=("licence", "parity", "training", "needs", "native scale"),
    )


def _weights(info: RewardInfo) -> str:
    """Where a reward's weights are, how large they are, and the extra that it needs."""
    needed = extra_of(info.key)
    extra = f"; extra [{needed}]" if needed else ""
    if not info.files:
        return ("shipped" if info.weights else "none") + extra
    states = [state(weight) for weight in info.files]
    here, count = states.count("cached"), len(states)
    total = sum(weight.size for weight in info.files)
    least = "" if all(weight.size for weight in info.files) else "at least "
    space = f"{least}{size(total)}" if total else "size not known"
    some = f"{here} of {count} files here, " if here or "partial" in states else ""
    word = "cached, " if here == count else f"missing, {some}"
    return f"{word}{space}{extra}"


def pulled(files: Mapping[str, Weight], done: Sequence[Pulled]) -> Grid:
    """What `rewards.weights.pull` did for each file.

    Args:
        files: by name.
        done: one each.
    """
    rows = [
        (
            name,
            size(file.size),
            file.source or "was here",
            file.sha256[:16],
            "" if file.sha256 == weight.sha256 else "recorded",
            weight.licence,
        )
        for (name, weight), file in zip(files.items(), done, strict=True)
    ]
    return grid_of(
        ("file", "size", "from", "sha256", "", "licence"),
        rows,
        prose=("file", "from", "licence"),
        spare=("licence", "sha256"),
    )


def costs(rows: Sequence[tuple[str, "Cost"]], title: str) -> Grid:
    """Speed and memory, or why there is none.

    Args:
        rows: name and measurement.
        title: what was measured.
    """
    shown = []
    for name, cost in rows:
        speed = cost.images_per_second
        gpu = size(cost.cuda_memory) if cost.cuda_memory else ""
        numbers = (
            f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}",
            f"{cost.load_seconds:.1f} s",
            size(cost.memory),
            size(cost.own_memory),
            gpu,
        )
        shown.append((name, *(("",) * len(numbers) if cost.reason else numbers), cost.reason))
    headings = ("reward", "images/s", "load", "peak memory", "its own part", "GPU", "")
    return grid_of(headings, shown, title=title, prose=("",), spare=("GPU", "load"))


def disagreements(found: Sequence["Disagreement"], paths: Sequence[Path], title: str) -> Grid:
    """How far variants disagree.

    Args:
        found: pairs of variants.
        paths: the images they scored.
        title: what was compared.
    """
    rows = [
        (
            f"{d.first} - {d.second}",
            str(d.n),
            f"{d.mean:+.4g}",
            f"{d.mean_absolute:.4g}",
            f"{d.max_absolute:.4g}",
            paths[d.worst].name if d.n else "",
            f"{d.spearman:.3f}",
        )
        for d in found
    ]
    headings = ("variants", "n", "mean difference", "mean |.|", "max |.|", "at", "Spearman")
    return grid_of(headings, rows, title=title, spare=("at", "max |.|", "mean difference"))


def size(count: int) -> str:
    """Bytes in words, such as `1.7 GB`."""
    return decimal(count)
