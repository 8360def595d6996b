"""How often the interval of a mean over seeds holds the truth, by simulation: few seeds, few prompts, tried methods.

A score is prompt + seed + both together, each normal; or right and wrong with such a logit (`share`). The truth is the
mean over all prompts and all seeds. What was tried, on the same two variances:

- Satterthwaite's degrees of freedom on their sum: what stood here before, and the usual way.
- The same, the part of both together (Cameron, Gelbach & Miller) taken off once.
- Each part's own Student's t, put together as Zou & Donner do: what `nftbench.stats.seeds` does.

Run: python tests/performance/seed_coverage.py [WORLDS]
"""

import sys

import numpy as np
from scipy.stats import t as student

from nftbench.stats.estimates import clustered_mean
from nftbench.stats.intervals import SHARE, UNBOUNDED
from nftbench.stats.seeds import spread, with_seeds

PROMPTS, SEEDS = (40, 488), (2, 3, 5)
SPREADS = (0.0, 0.05, 0.2, 0.6)
"""Standard deviation of seeds, where that of prompts is 1, and that of both together 1."""


def draw(
    rng: np.random.Generator, worlds: int, prompts: int, seeds: int, of_seeds: float
) -> np.ndarray:
    """Scores around 0, (worlds, prompts, seeds)."""
    return (
        rng.normal(0, 1, (worlds, prompts, 1))
        + rng.normal(0, of_seeds, (worlds, 1, seeds))
        + rng.normal(0, 1, (worlds, prompts, seeds))
    )


def usual(scores: np.ndarray, *, less_both: bool) -> tuple[float, float]:
    """Share of worlds whose interval holds 0 by Satterthwaite's degrees of freedom, and its mean width."""
    _, prompts, seeds = scores.shape
    mean = scores.mean((1, 2))
    by_prompt = scores.mean(2).var(1, ddof=1) / prompts
    by_seed = scores.mean(1).var(1, ddof=1) / seeds
    rest = scores - scores.mean(1, keepdims=True) - scores.mean(2, keepdims=True)
    both = ((rest + mean[:, None, None]) ** 2).sum((1, 2))
    both /= (prompts - 1) * (seeds - 1) * prompts * seeds
    variance = by_prompt + by_seed - both * less_both
    variance = np.maximum(variance, np.maximum(by_prompt, by_seed))
    freedom = variance**2 / (by_prompt**2 / (prompts - 1) + by_seed**2 / (seeds - 1))
    half = student.ppf(0.975, freedom) * np.sqrt(variance)
    return float((np.abs(mean) <= half).mean()), float(2 * half.mean())


def ours(scores: np.ndarray, truth: float, *, shares: bool = False) -> tuple[float, float]:
    """The same of what nftbench states: the function itself, world by world."""
    within = SHARE if shares else UNBOUNDED
    hits, widths = [], []
    for world in scores:
        prompts = clustered_mean(world.mean(1), np.arange(len(world)), within)
        found = with_seeds(prompts, spread(world.mean(0).tolist()), within)
        hits.append(found.low <= truth <= found.high)
        widths.append(found.high - found.low)
    return float(np.mean(hits)), float(np.mean(widths))


def main() -> None:
    """Print both tables."""
    worlds = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rng = np.random.default_rng(0)
    print(
        "normal scores: coverage (width)\nprompts seeds spread | Satterthwaite | less both | ours"
    )
    for prompts in PROMPTS:
        for seeds in SEEDS:
            for of_seeds in SPREADS:
                scores = draw(rng, worlds, prompts, seeds, of_seeds)
                found = [usual(scores, less_both=less) for less in (False, True)]
                found.append(ours(scores, 0))
                told = " | ".join(f"{c:.3f} ({w:.2f})" for c, w in found)
                print(f"{prompts} {seeds} {of_seeds:g} | {told}", flush=True)
    print("right and wrong, four of five right: ours\nprompts seeds spread | coverage (width)")
    for prompts in PROMPTS:
        for seeds in SEEDS:
            for of_seeds in SPREADS:
                chance = 1 / (1 + np.exp(-draw(rng, 20_000, 1, 1, of_seeds) - 2))
                logits = draw(rng, worlds, prompts, seeds, of_seeds) + 2
                right = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
                c, w = ours(right.astype(float), float(chance.mean()), shares=True)
                print(f"{prompts} {seeds} {of_seeds:g} | {c:.3f} ({w:.2f})", flush=True)


if __name__ == "__main__":
    main()
