"""How often the 95% interval of GenEval's task mean holds the truth at 553 prompts x 4 images, by simulation.

A prompt's chance of success is drawn from a beta distribution around its task's mean, so that images of one prompt are
alike (intra-class correlation .6); the tasks' means are those published of SD3.5-M, 0.638 on average. Beside it stand
the interval that takes images for independent, and how the p-value of a difference behaves where there is none.

Run: python tests/performance/interval_coverage.py [WORLDS]
"""

import sys

import numpy as np
from scipy.stats import kstest

from nftbench.stats.estimates import significance, task_mean

TASKS = {"single": 80, "two": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
MEANS = (0.98, 0.78, 0.50, 0.81, 0.24, 0.52)
"""arXiv:2505.05470, SD3.5-M."""
IMAGES = 4
ALIKE = 0.6
PROMPTS = np.arange(sum(TASKS.values())).repeat(IMAGES)
TAGS = np.repeat(np.repeat(list(TASKS), list(TASKS.values())), IMAGES)


def chances(rng: np.random.Generator) -> np.ndarray:
    """Each prompt's chance of success, (553,): beta with intra-class correlation 1 / (a + b + 1)."""
    total = 1 / ALIKE - 1
    means = np.repeat(MEANS, list(TASKS.values()))
    return rng.beta(means * total, (1 - means) * total)


def draw(rng: np.random.Generator, chance: np.ndarray) -> np.ndarray:
    """Images right or wrong, (2212,)."""
    return (rng.random((len(chance), IMAGES)) < chance[:, None]).ravel().astype(np.float64)


def coverage(worlds: int, seed: int) -> tuple[float, float]:
    """Share of worlds whose interval holds the truth: clustered by prompt, and with images taken for independent."""
    rng, truth = np.random.default_rng(seed), float(np.mean(MEANS))
    clustered = naive = 0
    for _ in range(worlds):
        values = draw(rng, chances(rng))
        found = task_mean(values, PROMPTS, TAGS)
        clustered += found.low <= truth <= found.high
        alone = task_mean(values, np.arange(len(values)), TAGS)
        naive += alone.low <= truth <= alone.high
    return clustered / worlds, naive / worlds


def null_chances(worlds: int, seed: int) -> np.ndarray:
    """p-values of two models that are alike on every prompt, (worlds,): uniform if the test is right."""
    rng = np.random.default_rng(seed)
    found = np.empty(worlds)
    for world in range(worlds):
        chance = chances(rng)
        found[world] = significance(draw(rng, chance) - draw(rng, chance), PROMPTS, TAGS).p
    return found


def power(worlds: int, seed: int) -> tuple[float, float]:
    """Share of worlds in which a difference of the size said to be seen is seen (0.80 if it is), and that size."""
    rng = np.random.default_rng(seed)
    sizes = [significance(_pair(rng, 0.0), PROMPTS, TAGS).smallest for _ in range(50)]
    size = float(np.mean(sizes))
    seen = [significance(_pair(rng, size), PROMPTS, TAGS).p < 0.05 for _ in range(worlds)]
    return float(np.mean(seen)), size


def _pair(rng: np.random.Generator, gain: float) -> np.ndarray:
    """Paired differences of two models, the second of which gains so much everywhere, (2212,)."""
    chance = chances(rng)
    return draw(rng, chance) - draw(rng, chance) + gain


if __name__ == "__main__":
    worlds = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    clustered, naive = coverage(worlds, seed=0)
    chance = null_chances(worlds, seed=1)
    seen, size = power(worlds, seed=2)
    print(f"{worlds} worlds of {len(PROMPTS) // IMAGES} prompts x {IMAGES} images")
    print(
        f"95% interval, clustered by prompt: {clustered:.2%}; images taken for independent: {naive:.2%}"
    )
    print(
        f"no difference: p < 0.05 in {np.mean(chance < 0.05):.2%}; KS p {kstest(chance, 'uniform').pvalue:.3f}"
    )
    print(f"a paired difference of {size:.4f} is seen in {seen:.2%}")
