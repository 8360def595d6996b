"""Servers that fail, hang, pour, lie or go away."""

import json
import os
import time
from collections.abc import Callable

import pandas as pd
from PIL import Image

from tests.faults.bench import Bench, Observed, fault
from tests.helpers.servers.fake_judge import judging

TROUBLES = ("fail", "nonsense", "refuse", "empty", "endless", "hang", "fail-once")


def at(url: str) -> Callable[[], None]:
    """The judge's address, for one command."""

    def arrange() -> None:
        os.environ["NFTBENCH_JUDGE_URL"] = url
        os.environ["NFTBENCH_JUDGE_KEY"] = "flowgrpo"
        os.environ["NFTBENCH_JUDGE_TIMEOUT"] = "3"

    return arrange


@fault(
    "the image is NaN with its reason, and the others have their marks, in bounded time and memory",
    quick=False,
)
def judges(bench: Bench) -> Observed:
    """A judge that fails, babbles without end, hangs or answers nonsense."""
    broken = []
    troubles = bench.some(TROUBLES, 3)
    folder = bench.new("list")
    folder.mkdir()
    Image.new("RGB", (16, 16), (90, 120, 30)).save(folder / "0.png")
    prompts = [*troubles, "a plain picture"]
    lines = [json.dumps({"image": "0.png", "prompt": p}) for p in prompts]
    (folder / "images.jsonl").write_text("\n".join(lines) + "\n")
    with judging() as url:
        begun = time.monotonic()
        ended = bench.do(
            "score", folder / "images.jsonl", "--rewards", "unifiedreward", before=at(url)
        )
    broken += [w for w in (ended.fault(4),) if w]
    broken += ["it took more than two minutes"] * (time.monotonic() - begun > 120)
    if ended.code in (0, 4):
        table = pd.read_parquet(folder / "images.scores.parquet").set_index("prompt")
        (key,) = (c.removesuffix(":reason") for c in table if c.endswith(":reason"))
        values, reasons = table[key], table[f"{key}:reason"]
        broken += [f"{t}: a mark" for t in troubles if t != "fail-once" and pd.notna(values[t])]
        broken += [f"{t}: no reason" for t in troubles if pd.isna(values[t]) and not reasons[t]]
        broken += ["a plain picture has no mark"] * bool(pd.isna(values["a plain picture"]))
    return Observed(len(prompts), tuple(broken))


@fault("one line before anything is scored or written")
def no_judge(bench: Bench) -> Observed:
    """A judge that is not there."""
    folder = bench.new("list")
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "0.png")
    (folder / "images.jsonl").write_text('{"image": "0.png", "prompt": "a"}\n')
    address = at("http://127.0.0.1:9/v1")
    ended = bench.do("score", folder / "images.jsonl", "--rewards", "unifiedreward", before=address)
    wrong = ended.fault(2, 4)
    if ended.code == 2 and (folder / "images.scores.parquet").exists():
        wrong = "a table was written"
    return Observed(1, (wrong,) if wrong else ())
