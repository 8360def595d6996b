"""Images of an image service: asked for one by one, each with the reason where there is none.

A service cannot be held to seeds, so an image that is there is kept, whatever a resumed run would get today; only what
is missing is asked for again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nftbench.benchmark.samples import Sample
from nftbench.benchmark.schema import SamplingDefaults
from nftbench.evaluation.images import image_origin
from nftbench.evaluation.planning import Work, each_once
from nftbench.generation.checkpoint import Allowed
from nftbench.generation.image_service import Beginning, Drawn, ImageService, draw
from nftbench.generation.machine.hardware import Hardware
from nftbench.runs.run_folder import Run
from rewards.base import ConfigError, Progress

CONTROLLED = ("height", "width", "images_per_prompt", "limit", "seed")
"""Settings of a user that a service can be asked, or that it is not told."""


def refuse_hardware(service: ImageService, hardware: Hardware, allowed: Allowed) -> None:
    """Refuse what is about weights on this machine: a service draws elsewhere, as it likes.

    Raises:
        ConfigError: names the flags.
    """
    about_loading = {
        "--trust-remote-code": allowed.remote_code,
        "--lora-partial": allowed.partial_lora,
    }
    given = hardware.changed + [flag for flag, wanted in about_loading.items() if wanted]
    if given:
        raise ConfigError(
            f"{service.name} is an image service: {', '.join(given)} is about a model on this machine; leave out"
        )


def service_works(works: Sequence[Work], settings: Mapping[str, Any]) -> list[Work]:
    """What a suite asks, as far as a service can be asked: prompts and size; everything else is left open.

    Raises:
        ConfigError: a setting of the user's that a service cannot be told, or no size.
    """
    given = [k for k, v in settings.items() if k not in CONTROLLED and v is not None]
    if settings.get("seed"):
        given.append("seed")
    if given:
        raise ConfigError(
            f"an image service cannot be told {', '.join(given)}; it takes --size, --images-per-prompt and --limit"
        )
    found = []
    for work in works:
        size = {"height": work.protocol.height, "width": work.protocol.width}
        if None in size.values():
            raise ConfigError(
                f"{work.protocol.benchmark} leaves the size to the model, and a service says none; pass --size, such "
                "as --size 1024"
            )
        told = size | {"images_per_prompt": work.protocol.images_per_prompt}
        left_open = dict.fromkeys(SamplingDefaults.model_fields)
        update = left_open | told | {"noise": "service", "dtype": None}
        protocol = work.protocol.model_copy(update=update)
        name = work.name.replace(f"+{work.protocol.hash}", f"+{protocol.hash}")
        found.append(replace(work, name=name, protocol=protocol))
    return each_once(found)


def ask_for_images(run: Run, work: Work, service: ImageService, progress: Progress) -> None:
    """Have every image made that does not lie there as it was made, and note what that took.

    Raises:
        ConfigError: see `image_service.draw`; what was made until then is kept.
    """
    origin, total = image_origin(service.digest, work.protocol), len(work.samples)
    size = (int(work.protocol.height or 0), int(work.protocol.width or 0))
    beginning = Beginning(service)
    for number, batch in work.batches():
        made = run.made(work.name, number, batch, origin)
        pairs = zip(batch, made, strict=True)
        missing = [s for s, m in pairs if not m or m != run.image_digest(work.name, s)]
        resumed = len(missing) < len(batch)
        drawn = _ask_for(run, work, service, (number, batch, missing), size, origin)
        beginning.go_on(missing, drawn, resumed=resumed)
        progress(f"{work.name}: images", number * work.batch_size + len(batch), total)
    run.note_cost(work.name, cost(run, work, origin))


def _ask_for(
    run: Run,
    work: Work,
    service: ImageService,
    of: tuple[int, Sequence[Sample], Sequence[Sample]],
    size: tuple[int, int],
    origin: str,
) -> list[Drawn]:
    """Ask for a batch's missing images; each is kept as it comes, for one that was paid for is not asked for twice."""
    number, batch, missing = of
    spent = Counter(run.about(work.name, number, origin))

    def ended(sample: Sample, drawn: Drawn) -> None:
        spent.update(_counted(drawn))
        only = [_or_reason(drawn) if one is sample else None for one in batch]
        run.save_images(work.name, number, batch, only, origin, about=spent)

    return draw(service, missing, size, ended, resumed=len(missing) < len(batch)) if missing else []


def _or_reason(drawn: Drawn) -> np.ndarray | str:
    return drawn.failure or "no image" if drawn.pixels is None else drawn.pixels


def _counted(drawn: Drawn) -> dict[str, float]:
    found = {"requests": float(drawn.attempts)}
    if drawn.rewritten:  # rewards judge by the prompt, which was not what was drawn
        found["prompts rewritten"] = 1.0
    return found | {f"usage {k}": v for k, v in drawn.usage.items()}


def _summed(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found = Counter()
    for part in parts:
        found.update(part)
    return dict(found)


def cost(run: Run, work: Work, origin: str) -> dict[str, float]:
    """What a benchmark's images took: requests, and what the service counted of each, summed."""
    return _summed([run.about(work.name, number, origin) for number, _ in work.batches()])
