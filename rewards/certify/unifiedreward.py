"""UnifiedReward's reading of replies against DiffusionNFT's; what a judge says needs its server."""

import json
from collections.abc import Iterator
from pathlib import Path

from rewards.certify import Check, Checks, compare
from rewards.vlm.unifiedreward import TRAIN_SCALE, final_score, nft, official

REFERENCE = "NVlabs/DiffusionNFT@24af555 flow_grpo/unifiedreward_scorer.py _extract_scores"


def replies(folder: Path) -> Iterator[Check]:
    """The mark read from a reply; where upstream says 0 for want of one, there is none."""
    golden = json.loads((folder / "extras.json").read_text("utf-8"))["unifiedreward_parse"]
    marks = [final_score(case["text"]) for case in golden]
    for name, theirs, scale in (
        ("native", "raw", 1.0),
        ("training scale", "train_scale", TRAIN_SCALE),
    ):
        yield compare(
            f"mark in a reply, {name}, 0 standing for none",
            [mark.get("final", 0.0) / scale for mark in marks],
            [case[theirs] for case in golden],
            tolerance=1e-15,
            reference=REFERENCE,
        )


CHECKS: dict[str, tuple[Checks, ...]] = {
    nft.info.key: (replies,),
    official.info.key: (replies,),
}
