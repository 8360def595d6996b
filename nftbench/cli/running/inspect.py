"""`nftbench inspect`: what a checkpoint is, before anything is drawn or trained with it."""

from typing import Annotated

import typer

from nftbench.cli import console, flags, names
from rewards.base import ConfigError

app = typer.Typer()


@app.command()
@flags.grouped
def inspect(
    *,
    checkpoint: Annotated[str, typer.Argument(help=flags.CHECKPOINT)],
    size: Annotated[
        int | None, typer.Option(min=8, help="Pixels of a side; the model's own when left out.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images at once, for the estimate of memory.")
    ] = 16,
    loading: flags.Loading,
    machine: flags.Machine,
    as_json: console.Json = False,
) -> None:
    """Say what a checkpoint is: parts, guidance, size, text length, LoRAs, memory, trainable or why not."""
    names.check(checkpoint=checkpoint)
    from nftbench.benchmark.schema import SamplingParameters
    from nftbench.evaluation.scoring.loading import quiet
    from nftbench.generation.checkpoint import load_model
    from nftbench.generation.inspection import inspect_model
    from nftbench.training.policy.memory import training_memory

    quiet()
    model = load_model(
        loading.named(checkpoint),
        hardware=machine.hardware(),
        allowed=loading.allowed,
    )
    side = {} if size is None else {"height": size, "width": size}
    parameters = SamplingParameters(**{**model.own, **side})
    found = inspect_model(model, parameters, images=batch_size).as_dict()
    if found["trainable"].startswith("yes"):
        try:
            found["memory_gb"] |= training_memory(model.pipeline, parameters, batch_size)
        except ConfigError as error:
            found["notes"] = [*found["notes"], f"memory of a training is not known: {error}"]
    found["memory_for"] = (
        f"{batch_size} images at once; estimated, without rewards and what libraries keep; "
        "a LoRA of rank 32 is trained"
    )
    if as_json:
        console.answer([], found)
        return
    for name, value in found.items():
        for said in _lines(name.replace("_", " "), value):
            console.line(said)


def _lines(name: str, value: object) -> list[str]:
    """One line a fact; nested facts one line each, below their name."""
    if isinstance(value, dict):
        return [f"{name}: {key}: {one}" for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [
            f"{name}: "
            + (
                ", ".join(_named(k, v) for k, v in one.items())
                if isinstance(one, dict)
                else str(one)
            )
            for one in value
        ]
    return [f"{name}: {value}"]


def _named(field: str, value: object) -> str:
    said = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{field.replace('_', ' ')} {said}"
