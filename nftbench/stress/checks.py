"""The checks of a stress test, one by one. Pure: tables of scored images in, figures with intervals and words out.

A table has `prompt_id`, `tag`, `image_index` and a column for each measure, one row an image, as a run's own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import chi2, f

from nftbench.stats.estimates import Estimate, clustered_mean
from nftbench.stats.intervals import SHARE, MetricRange
from nftbench.stats.paired import (
    PAIR,
    Averaging,
    change,
    difference,
    mean,
    mean_difference,
    paired_samples,
)
from nftbench.stats.significance import ALPHA, holm
from nftbench.stress.figures import CheckResult, Figure, figure, not_run, only_shown, verdict_of

DISTANCE = MetricRange(low=0, high=2)
"""Of 1 - cosine."""
COLOUR = MetricRange(low=0, high=1)
"""Of brightness and saturation."""


def _moved(
    before: pd.DataFrame, after: pd.DataFrame, metric: str, how: Averaging, *, name: str
) -> Figure:
    return figure(name, change(paired_samples(before, after), "", metric, how).difference)


# --- prompts --------------------------------------------------------------------------------------


def wording(
    original: pd.DataFrame,
    rounds: Sequence[pd.DataFrame],
    metric: str,
    how: Averaging,
    *,
    base: tuple[pd.DataFrame, pd.DataFrame] | None = None,
) -> CheckResult:
    """What is lost when the same is asked in other words.

    Args:
        original: the prompts as they are.
        rounds: the same prompts from the same noise in other words, with a column `rule`.
        metric: column.
        how: it is averaged.
        base: the base checkpoint's table as asked, and in the words of the first round.
    """
    pairs = pd.concat([paired_samples(original, table) for table in rounds], ignore_index=True)
    moved, gained = difference(pairs, metric), _of_differences(how)
    whole = figure("in other words, less as asked", mean_difference(pairs, moved, gained)[0])
    figures, alone = [whole], replace(gained, by_task=False)
    for rule in sorted(set(pairs["rule"])):
        part = pairs["rule"] == rule
        found = mean_difference(pairs[part], moved[part], alone)[0]
        figures.append(figure(f"... rule {rule!r}", found))
    seen, verdict = verdict_of(
        "The same asked in other words",
        whole,
        "it may answer to the phrasing of its training prompts and not to their meaning",
        "the benchmark's own phrasing does not flatter it",
    )
    if base is not None:
        own, other = _drop(original, rounds[0], metric), _drop(*base, metric)
        more = _moved(other, own, "drop", gained, name="that change, less the base's")
        figures.append(more)
        verdict += (
            " "
            + verdict_of(
                "Against the base",
                more,
                "training may have tied it to the phrasing",
                "training has made it less tied to the phrasing",
            )[1]
        )
    return CheckResult(check="other words", seen=seen, verdict=verdict, figures=tuple(figures))


def _of_differences(how: Averaging) -> Averaging:
    return replace(how, within=how.within.of_differences)


def _drop(original: pd.DataFrame, other: pd.DataFrame, metric: str) -> pd.DataFrame:
    pairs = paired_samples(original, other)
    return pairs[list(PAIR)].assign(drop=difference(pairs, metric))


def other_prompts(
    original: pd.DataFrame,
    others: pd.DataFrame,
    metric: str,
    how: Averaging,
    *,
    kind: str,
    trained: bool,
) -> CheckResult:
    """Asked prompts against others of the same tasks.

    Args:
        original: the benchmark's prompts.
        others: different prompts; nothing is paired.
        metric: column.
        how: it is averaged.
        kind: what the others are.
        trained: whether they are prompts to train on, so that those asked are the unseen ones; else they are.
    """
    both = [t for t in dict.fromkeys(original["tag"]) if t in set(others["tag"])]
    old, new = (t[t["tag"].isin(both)] for t in (original, others))
    mine, theirs = (mean(t, t[metric], how) for t in (old, new))
    unseen, known = (mine, theirs) if trained else (theirs, mine)
    gap = unpaired("unseen less known prompts", known, unseen)
    seen, verdict = verdict_of(
        f"Unseen prompts against known ones (other prompts are {kind})",
        gap,
        "it may have learnt prompts by heart, or the unseen ones are harder",
        "the unseen ones are not harder for it",
    )
    figures = (figure("as asked", mine), figure(kind, theirs), gap)
    return CheckResult(check="unseen prompts", seen=seen, verdict=verdict, figures=figures)


def unpaired(name: str, before: Estimate, after: Estimate) -> Figure:
    """Difference of two means of different prompts.

    Source: Zou & Donner, Construction of confidence limits about effect measures, Statist. Med. 27, 2008 (MOVER).
    """
    value = after.value - before.value
    return Figure(
        name=name,
        value=value,
        low=value - math.hypot(after.value - after.low, before.high - before.value),
        high=value + math.hypot(after.high - after.value, before.value - before.low),
        n=before.n + after.n,
        n_prompts=before.n_prompts + after.n_prompts,
    )


# --- sampling -------------------------------------------------------------------------------------


def guidance(
    tables: Mapping[float, pd.DataFrame], own: float, metric: str, how: Averaging
) -> CheckResult:
    """Every task's mean under several guidance scales, and the change from the benchmark's own.

    Args:
        tables: guidance scale -> table, from the same prompts and noise.
        own: the benchmark's scale, one of them.
        metric: column.
        how: it is averaged.
    """
    figures, words, seen, alone = [], [], "no", replace(how, by_task=False)
    for scale, table in sorted(tables.items()):
        figures.append(figure(f"guidance {scale:g}", mean(table, table[metric], how)))
        for tag in dict.fromkeys(table["tag"]):
            part = table[table["tag"] == tag]
            figures.append(figure(f"... {tag}", mean(part, part[metric], alone)))
    for scale in sorted(set(tables) - {own}):
        name = f"guidance {scale:g} less {own:g}"
        figures.append(_moved(tables[own], tables[scale], metric, how, name=name))
        one, text = verdict_of(
            f"Guidance {scale:g} against {own:g}",
            figures[-1],
            "as of a policy that was trained without guidance, or of too much of it",
            "it is not at its best at the benchmark's own scale",
        )
        seen = "yes" if "yes" in (seen, one) else one
        words.append(text)
    return CheckResult(
        check="guidance",
        seen=seen,
        verdict=" ".join(words) or "One scale only.",
        figures=tuple(figures),
    )


def seeds(tables: Sequence[pd.DataFrame], metric: str, how: Averaging) -> CheckResult:
    """How far seeds alone move the mean, beside the error that one run states.

    Args:
        tables: one a seed, of the same prompts; at least two.
        metric: column.
        how: it is averaged.
    """
    found = [mean(table, table[metric], how) for table in tables]
    more, free = len(found) - 1, found[0].n_prompts - tables[0]["tag"].nunique()
    spread = float(np.std([one.value for one in found], ddof=1))
    low, high = (spread * math.sqrt(more / chi2.ppf(q, more)) for q in (0.975, 0.025))
    stated = float(np.sqrt(np.mean([one.stderr**2 for one in found])))
    size = {"n": sum(one.n for one in found), "n_prompts": found[0].n_prompts}
    between = Figure(name="deviation between seeds", value=spread, low=low, high=high, **size)
    error = Figure(name="error stated by one", value=stated, low=math.nan, high=math.nan, **size)
    span = f"{more + 1} seeds move the mean by {spread:.3f} ({low:.3f} to {high:.3f})"
    if math.isnan(stated):
        seen, rest = "unclear", "too few prompts for a stated error"
    elif spread > stated * math.sqrt(f.ppf(0.975, more, free)):
        seen, rest = "yes", f"more than the {stated:.3f} that one run states: trust no single seed"
    else:
        seen, rest = "no", f"not shown to be more than the {stated:.3f} that one run states"
    each = tuple(figure(f"seed {i}", one) for i, one in enumerate(found))
    return CheckResult(
        check="seeds", seen=seen, verdict=f"{span}; {rest}.", figures=(between, error, *each)
    )


# --- images ----------------------------------------------------------------------------------------


def diversity(own: pd.DataFrame, base: pd.DataFrame | None, *, space: str) -> CheckResult:
    """Whether the images of one prompt have become alike.

    Args:
        own: as `nftbench.stress.run.pairwise` gives it.
        base: the same of the base checkpoint.
        space: in which distances were taken.
    """
    if own.empty:
        return not_run("diversity", "it takes two images a prompt")
    apart = clustered_mean(own["diversity"].to_numpy(), own["prompt_id"].to_numpy(), DISTANCE)
    figures = [figure(f"mean distance ({space})", apart)]
    if base is None:
        return only_shown("diversity", figures)
    how = Averaging(within=DISTANCE)
    figures.append(_moved(base, own, "diversity", how, name="distance, less the base's"))
    seen, verdict = verdict_of(
        "Distance between images of one prompt, against the base",
        figures[-1],
        "they have become more alike, as when a policy finds one image that pays",
        "they have become less alike",
    )
    return CheckResult(check="diversity", seen=seen, verdict=verdict, figures=tuple(figures))


def drift(own: pd.DataFrame, base: pd.DataFrame | None, measure: str) -> CheckResult:
    """Whether brightness or saturation has moved.

    Args:
        own: with a column of that name.
        base: the same of the base checkpoint.
        measure: the column, in [0, 1].
    """
    how = Averaging(within=COLOUR)
    figures = [figure(measure, mean(own, own[measure], how))]
    if base is None:
        return only_shown(measure, figures)
    figures.append(_moved(base, own, measure, how, name=f"{measure}, less the base's"))
    meaning = "policies trained on a reward alone often drift so; look at the images"
    seen, verdict = verdict_of(
        f"{measure.capitalize()} against the base", figures[-1], meaning, meaning
    )
    return CheckResult(check=measure, seen=seen, verdict=verdict, figures=tuple(figures))


# --- rewards --------------------------------------------------------------------------------------


def strictness(own: pd.DataFrame, base: pd.DataFrame | None, metric: str) -> CheckResult:
    """How much of the score is images with more objects than asked, which the official rule lets pass.

    Args:
        own: with the columns `metric` and `metric:strict`.
        base: the same of the base checkpoint.
        metric: GenEval's official rule.
    """
    if f"{metric}:strict" not in own:
        return not_run("strict", f"{metric} has no strict rule beside its own")
    tables = [
        t.assign(gap=t[f"{metric}:strict"].astype(np.float64) - t[metric])
        for t in (own, base)
        if t is not None
    ]
    how = Averaging(within=SHARE.of_differences, by_task=True)
    gap = mean_difference(tables[0], tables[0]["gap"], how)[0]
    figures = [figure("strict less official", gap)]
    seen, verdict = verdict_of(
        "The strict rule against the official one",
        figures[0],
        "some images hold more objects than asked; a policy can gain by drawing more of them",
        "the strict rule passes images that the official one refuses, by `exclude`",
    )
    if base is not None:
        figures.append(_moved(tables[1], tables[0], "gap", how, name="less the base's"))
        more = "training has widened the gap: part of the gain may be surplus objects"
        verdict += (
            " "
            + verdict_of(
                "That gap against the base", figures[1], more, "training has narrowed the gap"
            )[1]
        )
    return CheckResult(check="strict", seen=seen, verdict=verdict, figures=tuple(figures))


def held_out(
    own: pd.DataFrame,
    base: pd.DataFrame,
    metrics: Mapping[str, Averaging],
    trained: Sequence[str],
) -> CheckResult:
    """What training changed in rewards it was given, and in others.

    Args:
        own: the policy's images.
        base: those of the checkpoint it came from.
        metrics: columns, higher is better, and how each is averaged.
        trained: names of the rewards trained on, whatever their variant.
    """
    pairs = paired_samples(base, own)
    changed = [change(pairs, "", metric, how) for metric, how in metrics.items()]
    corrected = holm(np.array([one.significance.p for one in changed]))
    figures, rose, fell = [], [], []
    for one, p in zip(changed, corrected, strict=True):
        metric, moved = one.metric, one.difference
        group = "trained" if metric.partition("@")[0] in trained else "held out"
        figures.append(figure(f"{metric} ({group}), less the base's", moved))
        if p < ALPHA:
            (rose if moved.value > 0 else fell).append((group, metric))
    words = ", ".join(f"{m} ({g})" for g, m in rose) or "none"
    lost = ", ".join(f"{m} ({g})" for g, m in fell) or "none"
    verdict = f"Risen: {words}; fallen: {lost} (p < 0.05 by Holm)."
    sacrificed = any(g == "trained" for g, _ in rose) and any(g == "held out" for g, _ in fell)
    if sacrificed:
        verdict += (
            " Held-out rewards fell while trained ones rose: the gain may be the reward's alone."
        )
    elif not any(m.partition("@")[0] not in trained for m in metrics):
        verdict += " No held-out reward could be computed."
    return CheckResult(
        check="held-out rewards",
        seen="yes" if sacrificed else "no",
        verdict=verdict,
        figures=tuple(figures),
    )
