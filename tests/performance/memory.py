"""Peak resident memory of `nftbench eval` with large rewards in turn, and with all of them at once.

Each measurement is a process of its own. `pocket` draws; the rewards have the published shapes, and weights that are
one block of numbers again and again, so that nothing is fetched. On a GPU run tests/gpu/sd35.py.

Run: python tests/performance/memory.py [--rewards clipscore@nft,aesthetic,imagereward]
"""

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

FULL_SIZE = "clipscore@nft,aesthetic,imagereward"
POCKET = "geneval@pocket,clipscore@pocket,pickscore@pocket"


def filled(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a network at its full size: one block of numbers again and again, which moves no speed."""
    block = torch.empty(2**20).uniform_(-0.02, 0.02)

    def numbers(shape: torch.Size) -> torch.Tensor:
        times = math.ceil(shape.numel() / len(block))
        return block.repeat(max(1, times))[: shape.numel()].clone().reshape(shape)

    return {k: numbers(v.shape) if v.is_floating_point() else v for k, v in state.items()}


def evaluation(rewards: str, at_once: bool, out: Path) -> tuple[int, int]:
    """Peak resident memory of this process before and behind an evaluation, bytes."""
    from nftbench.commands import evaluate_checkpoint
    from nftbench.evaluation.scoring import in_turn
    from rewards.certify.loaded import makers
    from rewards.measuring.cost import peak_memory
    from rewards.weights.stand_ins import standing_in

    in_turn.is_small = lambda info, small=0: (
        at_once
    )  # pocket's own would stay in memory, being small
    settings = {"limit": 1, "images_per_prompt": 1, "num_inference_steps": 2}
    before = peak_memory()
    with standing_in("measured", makers(filled)):
        evaluate_checkpoint(
            "pocket",
            "geneval-pocket",
            settings,
            rewards=rewards,
            batch_size=2,
            out=out,
            progress=lambda *_: None,
        )
    return before, peak_memory()


def measured(rewards: str, at_once: bool) -> tuple[int, int]:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given = [rewards, str(int(at_once)), str(Path(folder) / "run")]
        command = [sys.executable, __file__, "--measure", *given]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = done.stdout.split()[-2:]
    return int(before), int(after)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rewards", default=FULL_SIZE)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        rewards, at_once, out = given.measure
        print(*evaluation(rewards, at_once == "1", Path(out)))
        return
    for rewards in (POCKET, given.rewards):
        for name, at_once in (("in turn", False), ("all at once", True)):
            before, after = measured(rewards, at_once)
            print(
                f"eval pocket, {rewards}, large ones {name}: peak {after / 1e9:.2f} GB, "
                f"{(after - before) / 1e9:.2f} GB above imports",
                flush=True,
            )


if __name__ == "__main__":
    main()
