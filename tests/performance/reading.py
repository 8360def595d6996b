"""What reading several pictures at a time gives: an engine a picture, of one thread each, against one of all.

Both have the same networks and the same threads, and find the same lines; that is checked.

Run: OMP_NUM_THREADS=2 python -m tests.performance.reading [--pictures 96]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nftbench.pocket.world import drawing, scenes
from rewards.ocr.engines import MIN_SIDE, RapidOcr, TextLine, _rapidocr, _rapidocr_lines
from rewards.ocr.models import ppocr_models


def pictures(count: int) -> list[np.ndarray]:
    """Signs of the pocket world, uint8 (64, 64, 3), blue first."""
    drawn = (scenes.random_scene(np.random.default_rng(i), "sign") for i in range(count))
    return [drawing.render(scene)[..., ::-1] for scene in drawn]


def timed(read: Callable[[], list]) -> tuple[float, list[list[TextLine]]]:
    """Seconds on the clock, and the lines of each picture."""
    begun = time.perf_counter()
    found = read()
    return time.perf_counter() - begun, found


def rounds(given: Sequence[np.ndarray], number: int) -> None:
    """Print a line a round."""
    copies = RapidOcr()
    threads = {"EngineConfig.onnxruntime.intra_op_num_threads": copies.at_once}
    alone = _rapidocr(*ppocr_models(), {"Det.limit_side_len": MIN_SIDE, **threads})

    def together() -> list[list[TextLine]]:
        with ThreadPoolExecutor(copies.at_once) as pool:
            return list(pool.map(lambda p: _rapidocr_lines(copies._engine, p), given))

    together()  # builds the copies
    for _ in range(number):
        one, lines = timed(lambda: [_rapidocr_lines(alone, picture) for picture in given])
        many, others = timed(together)
        print(
            f"{len(given)} pictures, {copies.at_once} threads: one engine {one:.2f} s, an engine a thread "
            f"{many:.2f} s, ratio {many / one:.2f}; lines equal: {lines == others}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rounds(pictures(given.pictures), given.rounds)


if __name__ == "__main__":
    main()
