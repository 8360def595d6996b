"""Rows of a leaderboard that tests share."""

import datetime
import math

from nftbench.runs.rows import Row

ROW = Row(
    model="pocket",
    checkpoint="0123456789012345",
    benchmark="geneval-pocket",
    metric="geneval",
    variant="pocket",
    aggregate="task_mean",
    value=0.1 + 0.2,
    stderr=1 / 3,
    low=0.30000000000000004 - 2 / 3,
    high=0.9666666666666667,
    n=488,
    n_failed=0,
    n_prompts=122,
    protocol="00e123456789",
    limited=False,
    version="0.10",
    date=datetime.date(2026, 1, 2),
)
PUBLISHED = {
    "source": "published",
    "citation": "arXiv:1 Table 1",
    "confidence": "B",
    "protocol": "nft-table1",
    "settings": "guidance_scale=? num_inference_steps=40",
    "n": None,
    "n_failed": None,
    "n_prompts": None,
    "stderr": math.nan,
    "low": math.nan,
    "high": math.nan,
}


def row(**changes) -> Row:
    """`ROW` with changes; its interval moves to a value that would lie outside."""
    value = changes.get("value", ROW.value)
    if not ROW.low <= value <= ROW.high and math.isfinite(value):
        changes = {"low": value, "high": value} | changes
    return ROW.model_copy(update=changes)
