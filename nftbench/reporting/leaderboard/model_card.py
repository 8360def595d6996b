"""A run as the metadata of a Hugging Face model card: the `model-index` that the hub shows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.schema import Protocol
from nftbench.reporting.leaderboard.board import (
    refuse,
)
from nftbench.runs.row_files import (
    run_rows,
)
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import Run

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "text-to-image"
PROOF = ("stderr", "low", "high", "n", "n_failed", "n_prompts", "version")
"""What stands beside each value."""


def card(run: Run) -> str:
    """A run's numbers as YAML, to stand between the two `---` lines of a model card.

    Every number keeps its error, its interval, its images and the hash of its protocol.

    Raises:
        ConfigError: a run that may not be published.
    """
    from huggingface_hub import ModelCardData

    rows = run_rows(run)
    for row in rows:
        refuse(row)
    name = run.manifest["checkpoint"]["name"]
    data = ModelCardData(
        model_name=name, pipeline_tag=TASK, eval_results=eval_results(rows, run.protocols())
    )
    return str(data.to_yaml()) + "\n"


def eval_results(rows: Sequence[Row], protocols: dict[str, Protocol]) -> "list[EvalResult]":
    """Rows as the hub's results: a data set is a benchmark under one protocol."""
    from huggingface_hub import EvalResult

    by_hash = {p.hash: p for p in protocols.values()}
    return [EvalResult(**_result(row, by_hash[row.protocol])) for row in rows]


def _result(row: Row, protocol: Protocol) -> dict[str, Any]:
    reward = str(row.spelled)
    return {
        "task_type": TASK,
        "task_name": "Text-to-Image",
        "dataset_type": row.benchmark,
        "dataset_name": load_benchmark(row.benchmark).title,
        "dataset_config": row.protocol,
        "dataset_revision": str(protocol.version),
        "dataset_args": protocol.model_dump(mode="json", exclude_none=True),
        "metric_type": reward,
        "metric_name": f"{reward} ({row.aggregate.replace('_', ' ')})",
        "metric_value": row.value,
        "metric_config": row.aggregate,
        "metric_args": row.model_dump(mode="json", include=set(PROOF)),
    }
