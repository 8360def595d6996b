"""UnifiedReward's reading of replies against DiffusionNFT's; what a judge says needs its server."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from rewards import load_reward
from rewards.certify import Check, Checks, compare
from rewards.certify.preprocessing import read_golden
from rewards.vlm.chat import Reply

REFERENCE = "NVlabs/DiffusionNFT@24af555 flow_grpo/unifiedreward_scorer.py _extract_scores"


def replies(key: str, folder: Path) -> Iterator[Check]:
    """What the loaded reward makes of replies; NaN where upstream says 0 for want of a mark, or reads one above 5."""
    golden = read_golden(folder, "extras.json")["unifiedreward_parse"]
    reward = load_reward(key)
    texts = [case["text"] for case in golden]
    reward.reward.ask = lambda endpoint, questions: [Reply(text=text) for text in texts]  # pyright: ignore[reportAttributeAccessIssue]
    images = np.zeros((len(texts), 8, 8, 3), np.uint8)
    found = reward.score(images, [""] * len(texts)).values
    fine = [i for i, case in enumerate(golden) if 1 <= case["raw"] <= 5]
    yield compare(
        "replies without a mark from 1 to 5",
        np.isnan(found),
        [i not in fine for i in range(len(texts))],
        tolerance=0,
        reference=REFERENCE,
    )
    for name, field, scale in (
        ("native", "raw", 1.0),
        ("training scale", "train_scale", reward.info.train_scale),
    ):
        yield compare(
            f"mark in a reply, {name}",
            [found[i] / scale for i in fine],
            [golden[i][field] for i in fine],
            tolerance=1e-6,
            reference=REFERENCE,
        )


CHECKS: dict[str, tuple[Checks, ...]] = {
    key: (partial(replies, key),) for key in ("unifiedreward@nft", "unifiedreward@official")
}
