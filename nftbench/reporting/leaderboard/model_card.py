"""A run as the metadata of a Hugging Face model card: the `model-index` that the hub shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from nftbench.benchmark.registry import load_benchmark
from nftbench.benchmark.schema import Protocol
from nftbench.generation.checkpoint import trained_folder
from nftbench.generation.sources.files import read_index
from nftbench.generation.sources.packaged import packaged, place_of
from nftbench.generation.sources.reference import INDEX, hub_place, parse
from nftbench.reporting.leaderboard.board import refuse, whole_rows
from nftbench.runs.rows import Row
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError

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

    rows, name = _publishable(run), run.manifest["checkpoint"]["name"]
    data = ModelCardData(
        model_name=name, pipeline_tag=TASK, eval_results=eval_results(rows, run.protocols())
    )
    return str(data.to_yaml()) + "\n"


def readme(run: Run) -> str:
    """A model's whole README as the hub reads it: metadata, how to use the model, its numbers.

    The example draws the run's first image: what diffusers makes of it is what was scored.

    Raises:
        ConfigError: a run that may not be published, or of a checkpoint that is put together of parts.
    """
    from huggingface_hub import ModelCardData

    from nftbench.reporting.tables import summary_tables, text_tables

    rows, name = _publishable(run), run.manifest["checkpoint"]["name"]
    trained = trained_folder(name)
    base = trained.base if trained else name
    if not place_of(base).exists() and parse(base).parts:
        raise ConfigError(
            f"{name} is put together of parts, which diffusers loads by no one name: no example can be written for it; "
            "leave --readme out to print its numbers alone"
        )
    hub = None if place_of(base).exists() else hub_place(base)
    data = ModelCardData(
        model_name=Path(name).name,
        pipeline_tag=TASK,
        library_name="diffusers",
        base_model=hub.id if hub and trained else None,
        tags=[TASK, "nftbench", *(["lora"] if trained and trained.method == "lora" else [])],
        eval_results=eval_results(rows, run.protocols()),
    )
    loader = jinja2.PackageLoader("nftbench.reporting")
    page = jinja2.Environment(loader=loader, trim_blocks=True, autoescape=False)  # Markdown
    return page.get_template("model_card.md.j2").render(
        metadata=str(data.to_yaml()),
        name=Path(name).name,
        base=base,
        trained=trained,
        packaged=base in packaged(),
        pipeline=run.manifest["checkpoint"]["pipeline"],
        absent=_absent(base),
        **_first_image(run),
        tables=text_tables.render("markdown", summary_tables.scores(rows), []),
    )


def _publishable(run: Run) -> list[Row]:
    """The rows of a run; refused where one of them may not be published."""
    rows = whole_rows(run)
    for row in rows:
        refuse(row)
    return rows


def _absent(base: str) -> list[str]:
    """Parts that a saved pipeline has none of, which diffusers wants to be told."""
    index = place_of(base) / INDEX
    if not index.is_file():
        return []
    return [k for k, v in read_index(index).items() if isinstance(v, list) and v[0] is None]


def _first_image(run: Run) -> dict[str, Any]:
    """What the first image of a run was drawn with."""
    benchmark = next(iter(run.protocols()))
    first = run.read_samples(benchmark).iloc[0]
    arguments = run.manifest["drawn"].get(benchmark, {}).get("arguments", {})
    return {"prompt": first["prompt"], "seed": int(first["seed"]), "arguments": arguments}


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
