"""How often the 95% intervals hold the truth, by simulation: every size, share and likeness of images; tried methods.

A prompt's chance of success is drawn from a beta distribution around the mean, so that images of one prompt are alike
(intra-class correlation `alike`; 0 is independent). Partial credit is added in some worlds: a failed image keeps a
part of its score. `--fixed` keeps one set of prompts, as a benchmark does, and asks for the mean over those.

What was tried, each on the mean and its variance clustered by prompt (the last table says how each fares):

- Student's t: what stood here before; of zero width where all pass, outside [0, 1] beside it.
- t on the logit scale, with half a prompt added to each side: too short beside the ends with few prompts.
- Bootstrap-t over prompts: of zero width where all pass, and unstable where one prompt fails.
- Wilson, Agresti & Coull, Clopper & Pearson, Jeffreys on as many independent images as the prompts are worth (Korn &
  Graubard 1998): Wilson misses .98 with 8 prompts; the two others hold and are wider than need be.
- Jeffreys without `DOUBT` (how little one failing image says of how alike images are) misses in the middle: .91.
- Jeffreys with it, never on fewer images than prompts, is what `nftbench.stats.intervals` does.

Source of the idea to judge by coverage: Brown, Cai & DasGupta, Statist. Sci. 16, 2001.

Run: python tests/performance/interval_coverage.py [WORLDS] [--fixed]
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, norm
from scipy.stats import t as student

from nftbench.stats.estimates import task_mean
from nftbench.stats.intervals import SHARE, Strata, effective_images, interval, jeffreys
from nftbench.stats.significance import significance

PROMPTS = (8, 20, 80, 553)
LIKENESS = {1: (0.0,), 4: (0.0, 0.1, 0.3, 0.6, 0.9)}
"""Images a prompt -> intra-class correlations."""
SHARES = (0.5, 0.7, 0.9, 0.95, 0.98, 1.0)
Z = norm.ppf(0.975)

# --- worlds ---------------------------------------------------------------------------------------


def chances(
    rng: np.random.Generator, size: tuple[int, ...], share: float, alike: float
) -> np.ndarray:
    """Each prompt's chance of success: beta with intra-class correlation 1 / (a + b + 1)."""
    if alike == 0 or share in (0, 1):
        return np.full(size, share)
    total = 1 / alike - 1
    return rng.beta(share * total, (1 - share) * total, size)


def means_of_prompts(
    rng: np.random.Generator, chance: np.ndarray, images: int, credit: float = 0.0
) -> np.ndarray:
    """Mean score of each prompt; failed images score uniformly from 0 to 2 x credit."""
    right = rng.random((*chance.shape, images)) < chance[..., None]
    part = rng.random(right.shape) * 2 * credit if credit else 0.0
    return np.where(right, 1.0, part).mean(-1)


class Cell(NamedTuple):
    """What is asked, and of how good a model."""

    prompts: int
    images: int
    share: float
    alike: float
    credit: float = 0.0
    fixed: bool = False


def draw(rng: np.random.Generator, worlds: int, cell: Cell) -> tuple[np.ndarray, float]:
    """Means of prompts (worlds, prompts), and the true mean."""
    size = (worlds, cell.prompts)
    chance = chances(rng, (1, cell.prompts) if cell.fixed else size, cell.share, cell.alike)
    truth = float(chance.mean()) if cell.fixed else cell.share
    scores = means_of_prompts(rng, np.broadcast_to(chance, size), cell.images, cell.credit)
    return scores, truth + (1 - truth) * cell.credit


# --- methods --------------------------------------------------------------------------------------

Method = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Means of prompts (worlds, prompts) -> low, high (worlds,)."""


def ours(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What nftbench states: the function itself, world by world."""
    count = scores.shape[1]
    size = np.array([float(count)])
    found = [
        interval(Strata(np.array([m]), np.array([v]), size, size, size), np.ones(1), SHARE)
        for m, v in zip(scores.mean(1), scores.var(1, ddof=1) / count, strict=True)
    ]
    return np.array([f.low for f in found]), np.array([f.high for f in found])


def students(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t on prompts."""
    mean, error = scores.mean(1), scores.std(1, ddof=1) / np.sqrt(scores.shape[1])
    half = student.ppf(0.975, scores.shape[1] - 1) * error
    return mean - half, mean + half


def logit_t(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t of the logit, by the delta method, with half a prompt added to each side."""
    count = scores.shape[1]
    mean = (scores.sum(1) + 0.5) / (count + 1)
    variance = (((scores - mean[:, None]) ** 2).sum(1) + 0.5) / (count * (count + 1))
    centre, error = np.log(mean / (1 - mean)), np.sqrt(variance) / (mean * (1 - mean))
    half = student.ppf(0.975, count - 1) * error
    return 1 / (1 + np.exp(half - centre)), 1 / (1 + np.exp(-half - centre))


def bootstrap_t(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of the studentised mean over resampled prompts."""
    rng, count = np.random.default_rng(0), scores.shape[1]
    mean, error = scores.mean(1), scores.std(1, ddof=1) / np.sqrt(count)
    quantiles = []
    for row, centre in zip(scores, mean, strict=True):
        again = row[rng.integers(0, count, (399, count))]
        spread = again.std(1, ddof=1) / np.sqrt(count)
        ratio = (again.mean(1) - centre) / np.where(spread > 0, spread, np.inf)
        quantiles.append(np.quantile(ratio, [0.025, 0.975]))
    low, high = np.array(quantiles).T
    return mean - high * error, mean - low * error


def on_effective_images(
    method: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], doubt: float
) -> Method:
    """An interval of a share, on as many independent images as the prompts are worth."""

    def found(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = scores.shape[1]
        size, mean = np.full(len(scores), float(count)), scores.mean(1)
        images, known = effective_images(mean, scores.var(1, ddof=1) / count, size, doubt)
        sure = np.where(known, 1, (Z / student.ppf(0.975, count - 1)) ** 2)
        return method(mean, np.maximum(images * sure, size))

    return found


def wilson(mean: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval."""
    centre = (mean + Z**2 / 2 / images) / (1 + Z**2 / images)
    half = Z * np.sqrt(mean * (1 - mean) / images + (Z / 2 / images) ** 2) / (1 + Z**2 / images)
    return centre - half, centre + half


def agresti_coull(mean: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two successes and two failures added, cut off at the ends."""
    size = images + Z**2
    centre = (mean * images + Z**2 / 2) / size
    half = Z * np.sqrt(centre * (1 - centre) / size)
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def clopper_pearson(mean: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The exact interval."""
    hits, misses = mean * images, (1 - mean) * images
    low = np.where(hits > 0, beta.ppf(0.025, np.maximum(hits, 1e-9), misses + 1), 0)
    return low, np.where(misses > 0, beta.ppf(0.975, hits + 1, np.maximum(misses, 1e-9)), 1)


METHODS: dict[str, Method] = {
    "ours": ours,
    "Student's t": students,
    "t of the logit": logit_t,
    "bootstrap-t": bootstrap_t,
    "Wilson": on_effective_images(wilson, 0.1),
    "Agresti-Coull": on_effective_images(agresti_coull, 0.1),
    "Clopper-Pearson": on_effective_images(clopper_pearson, 0.1),
    "Jeffreys, no doubt": on_effective_images(jeffreys, 1e-9),
}

# --- tables ---------------------------------------------------------------------------------------


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    """Share of worlds whose interval holds the truth."""
    return float(np.mean((low <= truth + 1e-9) & (truth <= high + 1e-9)))


def coverage(method: Method, worlds: int, cell: Cell) -> float:
    """Of one cell."""
    seed = [cell.prompts, cell.images, int(100 * cell.share), int(10 * cell.alike)]
    scores, truth = draw(np.random.default_rng(seed), worlds, cell)
    return covered(*method(scores), truth)


def show_cells(worlds: int, *, credit: float, fixed: bool) -> None:
    """Coverage of every cell, one line a size."""
    print("prompts images alike  " + "  ".join(f"{s:5.2f}" for s in SHARES))
    for prompts in PROMPTS:
        for images, likeness in LIKENESS.items():
            for alike in likeness:
                found = [
                    coverage(ours, worlds, Cell(prompts, images, share, alike, credit, fixed))
                    for share in SHARES
                ]
                line = "  ".join(f"{c:.3f}" for c in found)
                print(f"{prompts:7d} {images:6d} {alike:5.1f}  {line}", flush=True)


def show_methods(worlds: int) -> None:
    """The worst cell of each method, and how many hold 93 to 97%; of bootstrap-t on fewer worlds, to 80 prompts."""
    print("method               worst  below .93  .93 to .97  above")
    for name, method in METHODS.items():
        slow = name == "bootstrap-t"
        found = np.array(
            [
                coverage(method, worlds // 10 if slow else worlds, Cell(k, m, share, alike))
                for k in PROMPTS[: 3 if slow else 4]
                for m, likeness in LIKENESS.items()
                for alike in likeness
                for share in SHARES[:-1]
            ]
        ).round(2 if slow else 3)
        counts = [np.sum(found < 0.93), np.sum((found >= 0.93) & (found <= 0.97))]
        line = f"{counts[0]:9d}  {counts[1]:10d}  {len(found) - sum(counts):5d}"
        print(f"{name:20s} {found.min():.3f}  {line}", flush=True)


# --- task means -----------------------------------------------------------------------------------

GENEVAL = (80, 99, 80, 94, 100, 100)
SD35 = (0.98, 0.78, 0.50, 0.81, 0.24, 0.52)
"""arXiv:2505.05470, SD3.5-M, task by task."""
STRONG = (1.0, 0.98, 0.9, 0.98, 0.95, 0.9)
TASKS = {
    "GenEval, SD3.5-M": (GENEVAL, SD35),
    "GenEval, a strong model, one task all pass": (GENEVAL, STRONG),
    "8 prompts a task": ((8,) * 6, SD35),
    "20 prompts a task, strong": ((20,) * 6, STRONG),
    "one task of one prompt": ((1, 12, 9, 14, 10, 12), SD35),
    "one prompt a task": ((1,) * 6, SD35),
}


def task_coverage(
    worlds: int, sizes: tuple[int, ...], shares: tuple[float, ...], images: int, alike: float
) -> float:
    """Share of worlds whose interval of the task mean holds the truth."""
    rng, truth = np.random.default_rng(len(sizes) + images), float(np.mean(shares))
    prompts = np.arange(sum(sizes)).repeat(images)
    tags = np.repeat(np.arange(len(sizes)), np.array(sizes) * images)
    hits = 0
    for _ in range(worlds):
        chance = np.concatenate(
            [chances(rng, (k,), p, alike) for k, p in zip(sizes, shares, strict=True)]
        )
        values = (rng.random((len(chance), images)) < chance[:, None]).ravel().astype(float)
        found = task_mean(values, prompts, tags, SHARE)
        hits += found.low - 1e-9 <= truth <= found.high + 1e-9
    return hits / worlds


# --- differences ----------------------------------------------------------------------------------


def power(
    worlds: int, prompts: int, images: int, alike: float, gain: float | None
) -> tuple[float, float]:
    """How often a gain is seen at 5%, and its size; None takes the one that is said to be seen in 80%."""
    rng, names = np.random.default_rng(0), np.arange(prompts).repeat(images)
    within = SHARE.of_differences

    def pair(size: float) -> np.ndarray:
        chance = chances(rng, (prompts,), 0.6, alike)[:, None]
        before, after = ((rng.random((prompts, images)) < chance).astype(float) for _ in "ab")
        return (after - before).ravel() + size

    size = gain
    if size is None:
        size = float(
            np.mean([significance(pair(0), names, within=within).smallest for _ in range(50)])
        )
    seen = [significance(pair(size), names, within=within).p <= 0.05 for _ in range(worlds)]
    return float(np.mean(seen)), size


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[1:] if a.isdecimal()]
    worlds, fixed = numbers[0] if numbers else 1000, "--fixed" in sys.argv
    print(f"Coverage of the 95% interval over {worlds} worlds; right or wrong:")
    show_cells(worlds, credit=0.0, fixed=fixed)
    print("\nPartial credit, 0.5 on average where an image fails (the share is of full marks):")
    show_cells(worlds // 4, credit=0.5, fixed=fixed)
    print("\nAll methods, right or wrong, shares below 1:")
    show_methods(worlds)
    print("\nTask means, images a prompt x alike: 1 x 0, 4 x 0.3, 4 x 0.6")
    for name, (sizes, shares) in TASKS.items():
        found = [
            task_coverage(worlds // 4, sizes, shares, m, a) for m, a in ((1, 0), (4, 0.3), (4, 0.6))
        ]
        print(f"{name:44s} {'  '.join(f'{c:.3f}' for c in found)}", flush=True)
    print(
        "\nPaired differences, 4 images a prompt, alike 0.6: false alarms at 5%; a gain, how often it is seen"
    )
    for prompts in (8, 20, 80):
        alarms, _ = power(worlds // 4, prompts, 4, 0.6, 0.0)
        seen, size = power(worlds // 4, prompts, 4, 0.6, None)
        print(f"{prompts:4d} prompts: {alarms:.3f}; a gain of {size:.3f}: {seen:.2f}", flush=True)
